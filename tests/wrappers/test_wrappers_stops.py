"""The wrappers under plain bash: failed steps, signals, folds and array tasks side by side. Slurm: tests/slurm/."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import train_darkir_cv
from common.errors import Stopped
from engine.training import train as training
from tests.helpers.photos import write_pairs
from tests.helpers.wrapper_desk import EVALUATE, FIVEK, ROOT, SPLIT, TRAIN, options


def test_only_a_new_step_counts_as_progress(tmp_path, monkeypatch):
    """By which a job that only restarts is known. A state that is read and written again has other bytes."""
    rows = write_pairs(tmp_path, 6, first_seed=300)
    flags = "--model_size tiny --resolution 16 --batch_size 2 --num_workers 0 --lambda_vgg 0 --epochs 2".split()
    argv = ["--train_jsonl", str(rows), "--output_dir", str(tmp_path / "run"), *flags]
    state = tmp_path / "run" / "checkpoint_last.pt"
    score, epochs_scored = training.score, []

    def stopped_in_validation(*arguments):
        raise Stopped("SIGUSR1 received")

    def stopped_in_the_second_validation(*arguments):
        epochs_scored.append(1)
        return score(*arguments) if len(epochs_scored) == 1 else stopped_in_validation()

    def run():
        assert train_darkir_cv.main(argv) == 75
        command = [
            "bash",
            "-c",
            'source "$DARKIR_HOME/slurm/job.sh"; progress_of "$@"',
            "bash",
            tmp_path / "run",
            "none",
        ]
        shown = subprocess.run(command, env={**os.environ, "DARKIR_HOME": str(ROOT)}, capture_output=True, check=True)
        return shown.stdout, state.read_bytes()

    monkeypatch.setattr(training, "score", stopped_in_validation)
    first, again = run(), run()
    assert first[0] == again[0] and first[1] != again[1]
    monkeypatch.setattr(training, "score", stopped_in_the_second_validation)
    assert run()[0] != first[0]


@pytest.mark.parametrize(
    ("wrapper", "ends", "code", "ran"),
    [
        ("train_darkir.sh", f"{SPLIT}=2", 2, 1),
        ("train_darkir.sh", f"{TRAIN}=1", 1, 2),
        ("train_darkir.sh", f"{EVALUATE}=2", 2, 3),
        ("train_with_pretrain.sh", f"{FIVEK}=3", 3, 2),
        ("train_with_pretrain.sh", "--train_jsonl=9", 9, 3),
        ("train_with_pretrain.sh", f"{SPLIT}=0", 1, 1),  # ends with 0, but leaves no split
    ],
)
def test_a_failed_step_ends_the_chain_with_its_own_code(desk, wrapper, ends, code, ran):
    ended, out, err = desk.run(wrapper, STUB_ENDS=ends)
    assert ended == code and len(desk.calls()) == ran
    assert "Done" not in out and err.startswith("error: ")


def test_a_split_of_other_photos_does_not_stand_in_for_those_that_were_named(desk):
    assert desk.run("train_darkir.sh")[0] == 0
    code, _, err = desk.run("train_darkir.sh", STUB_ENDS="--check=2", SEED="7")
    assert code == 2 and "SPLITS_DIR" in err and options(desk.calls()[-1])["seed"] == "7"
    assert desk.scripts() == [SPLIT, TRAIN, EVALUATE], "and nothing is run"
    assert desk.run("train_darkir.sh", INPUT_JSONL="")[0] == 0 and desk.checks() == 1, "no input: the split as it is"


@pytest.mark.parametrize("setting", ["MIXED_PRECISION", "PARALLEL_FOLDS", "N_FOLDS", "SLURM_RESTART_COUNT"])
@pytest.mark.parametrize("value", ["BATCH[$(touch ran)]", "true", "1+1"])
@pytest.mark.parametrize("wrapper", ["train_darkir.sh", "train_with_pretrain.sh"])
def test_a_setting_that_is_no_number_is_refused_and_never_evaluated(desk, wrapper, setting, value):
    code, _, err = desk.run(wrapper, **{setting: value})
    assert code == 2 and f"{setting}={value}" in err and err.count("\n") == 1
    assert not (desk.folder / "ran").exists() and desk.calls() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_reaches_the_running_step_and_the_chain_ends_with_75(desk, number):
    process = desk.start("train_darkir.sh", STUB_WAIT=TRAIN)
    deadline = time.monotonic() + 20
    while TRAIN not in desk.scripts() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 75 and "run the same command again" in out, err
    assert desk.scripts() == [SPLIT, TRAIN]
    code, out, _ = desk.run("train_darkir.sh")
    assert code == 0 and desk.checks() == 1 and desk.scripts()[2:] == [TRAIN, EVALUATE]


def test_parallel_folds_get_a_gpu_each(desk):
    code, out, err = desk.run("train_darkir.sh", PARALLEL_FOLDS="1", CUDA_VISIBLE_DEVICES="4,5")
    assert code == 0 and "===== Done" in out, err
    folds = {options(call)["fold"]: call["gpu"] for call in desk.calls() if call["script"] == TRAIN}
    assert folds == {"1": "4", "2": "5", "3": "4"}
    assert desk.calls()[-1]["gpu"] == "4,5"


def test_parallel_folds_fail_when_one_fails_but_the_others_finish(desk):
    settings = {"PARALLEL_FOLDS": "1", "CUDA_VISIBLE_DEVICES": "0,1,2", "OUTPUT_DIR": "models"}
    code, out, err = desk.run("train_darkir.sh", STUB_ENDS="--fold 1=6", **settings)
    assert code == 6 and "fold 1 ended with exit code 6" in err and EVALUATE not in desk.scripts()
    assert sorted(path.name for path in (desk.folder / "models").glob("fold_*[0-9]")) == ["fold_2", "fold_3"]


def test_parallel_folds_stop_together(desk):
    process = desk.start("train_darkir.sh", PARALLEL_FOLDS="1", CUDA_VISIBLE_DEVICES="0,1,2", STUB_WAIT=TRAIN)
    deadline = time.monotonic() + 20
    while desk.scripts().count(TRAIN) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 75 and EVALUATE not in desk.scripts()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_parallel_folds_without_a_gpu_are_refused(desk):
    code, _, err = desk.run("train_darkir.sh", PARALLEL_FOLDS="1")
    assert code == 2 and "no GPU found" in err


@pytest.mark.parametrize("wrapper", ["train_darkir.sh", "train_with_pretrain.sh"])
def test_array_tasks_side_by_side_split_once_and_evaluate_once(desk, wrapper):
    (desk.folder / "weights.pt").touch()
    array = {
        "SLURM_JOB_ID": "40",
        "SLURM_ARRAY_JOB_ID": "40",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "PRETRAINED_PATH": "weights.pt",
    }

    def run_all():
        tasks = [desk.start(wrapper, SLURM_ARRAY_TASK_ID=str(number), **array) for number in (1, 2, 3)]
        for task in tasks:
            _, err = task.communicate(timeout=60)
            assert task.returncode == 0, err

    run_all()
    assert sorted(desk.scripts()) == sorted([SPLIT, TRAIN, TRAIN, TRAIN, EVALUATE])
    run_all()  # as after a requeue: every task finds all of them finished, but only one owns the evaluation
    assert desk.scripts().count(EVALUATE) == 2


def test_an_array_needs_the_pretraining_first(desk):
    array = {
        "SLURM_JOB_ID": "40",
        "SLURM_ARRAY_JOB_ID": "40",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_ARRAY_TASK_ID": "1",
    }
    code, _, err = desk.run("train_with_pretrain.sh", **array)
    assert code == 2 and "no finished pre-training" in err and "--submit" in err


@pytest.fixture
def queue(desk):
    """Slurm's commands stand in the desk's folder: the folds are refused, and what sbatch is asked for is noted."""
    for name, text in {
        "sbatch": 'echo "$*" >>asked; case "$*" in *"--stage folds"*) exit 4 ;; *pretrain.sh*) echo 1$(wc -l <asked) ;; esac',
        "scancel": 'echo "$*" >cancelled',
    }.items():
        (desk.folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (desk.folder / name).chmod(0o755)
    return {"PATH": f"{desk.folder}:{os.environ['PATH']}"}


def test_submit_takes_back_what_it_queued_when_slurm_refuses_a_job(desk, queue):
    code, _, err = desk.run("train_with_pretrain.sh", "--submit", PREPARE_SBATCH="--partition=cpu", **queue)
    assert code == 4 and "sbatch refused the folds job" in err
    assert (desk.folder / "cancelled").read_text().split() == ["11", "12"]
    prepare, pretrain, _ = (desk.folder / "asked").read_text().splitlines()
    assert " --gres=none --partition=cpu " in prepare and "gres" not in pretrain, "the preparation computes on no GPU"


def test_submit_queues_nothing_for_a_torch_that_has_no_cuda(desk, queue):
    program = desk.folder / "python without cuda"
    words = "import sys, torch, runpy; torch.version.cuda = torch.version.hip = None; sys.argv = sys.argv[1:]"
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{words}; {run}" "$@"\n')
    program.chmod(0o755)
    code, _, err = desk.run("train_with_pretrain.sh", "--submit", PYTHON=str(program), **queue)
    assert code == 2 and "built without CUDA" in err and "DEVICE=cpu" in err and not (desk.folder / "asked").exists()
    for settings in ({"PYTHON": str(program), "DEVICE": "cpu"}, {"PYTHON": "only where the jobs run"}):
        assert desk.run("train_with_pretrain.sh", "--submit", **queue, **settings)[0] == 4, "queued as before"
