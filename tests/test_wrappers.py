"""train_darkir.sh and train_with_pretrain.sh under plain bash: order, settings, exit codes, stops, rerun. Slurm: tests/slurm/."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train_darkir_cv
from darkir.engine.errors import Stopped
from darkir.engine.fold import FoldTraining
from slurm.progress import progress
from tests.photos import write_pairs

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data" / "sample"
SPLIT, FIVEK = "create_data_splits.py", "prepare_fivek_robust.py"
TRAIN, EVALUATE = "train_darkir_cv.py", "evaluate_darkir_test.py"
TINY = {
    "MODEL_SIZE": "tiny",
    "RESOLUTION": "16",
    "EPOCHS": "1",
    "BATCH_SIZE": "8",
    "NUM_WORKERS": "0",
    "TEST_SIZE": "6",
}
TINY |= {"MIXED_PRECISION": "0", "PYTHON": sys.executable, "INPUT_JSONL": str(SAMPLE / "pairs.jsonl")}


class Desk:
    """A folder in which a user runs the wrappers, with the stub as interpreter unless `settings` name another."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder, self.log = folder, folder / "calls.jsonl"
        stub = folder / "stub python"
        stub.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests" / "stub_python.py"}" "$@"\n')
        stub.chmod(0o755)
        self.stub = str(stub)

    def environment(self, **settings):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CUDA_"))}
        return {**clean, "PYTHON": self.stub, "STUB_LOG": str(self.log), "INPUT_JSONL": "my pairs.jsonl", **settings}

    def start(self, wrapper, *arguments, **settings):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = ["bash", str(ROOT / wrapper), *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment(**settings), **pipes)

    def run(self, wrapper, *arguments, **settings):
        """Exit code, stdout, stderr."""
        process = self.start(wrapper, *arguments, **settings)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def calls(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def scripts(self):
        return [call["script"] for call in self.calls()]


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "my desk")


def options(call):
    """The flags of a call with their values; switches are True."""
    argv, found = call["argv"], {}
    for place, word in enumerate(argv):
        if word.startswith("--"):
            follows = argv[place + 1] if place + 1 < len(argv) else "--"
            found[word[2:]] = True if follows.startswith("--") else follows
    return found


def test_shellcheck_finds_nothing():
    program = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    wrappers = ["train_darkir.sh", "train_with_pretrain.sh"]
    ended = subprocess.run([program, "-x", "-a", *wrappers], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_both_chains_on_real_photos(desk):
    code, out, err = desk.run("train_darkir.sh", "--lambda_vgg", "0", N_FOLDS="2", OUTPUT_DIR="my outputs", **TINY)
    assert code == 0, err
    assert "===== Done: test_results/report.html" in out

    for number, path in enumerate(sorted((SAMPLE / "images").glob("*_src.jpg"))[:8], start=1):
        for side, place in (("src", "input"), ("tar", "c")):
            target = desk.folder / "fivek_dataset" / place / f"a{number:04d}-photo.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path.with_name(path.name.replace("_src", f"_{side}")), target)
    fivek = {"FIVEK_OPTIONS": "--min_resolution 64 --val_ratio 0.3 --workers 1", "PRETRAIN_EPOCHS": "1"}
    settings = {**TINY, **fivek, "PRETRAIN_RESOLUTION": "16", "N_FOLDS": "1", "SPLITS_DIR": "single split"}
    settings["BASELINE"] = "test_results/test_results.json"
    code, out, err = desk.run("train_with_pretrain.sh", "--lambda_vgg", "0", **settings)
    assert code == 0, out + err
    assert (desk.folder / "outputs_finetuned_from_fivek" / "checkpoint_best.pt").exists()
    assert "Starting from outputs_fivek_pretrained/checkpoint_best.pt" in out
    results = json.loads((desk.folder / "test" / "finetuned_from_fivek" / "test_results.json").read_text())
    assert results["comparison"]


def test_only_a_new_step_counts_as_progress(tmp_path, monkeypatch):
    """By which a job that only restarts is known. A state that is read and written again has other bytes."""
    rows = write_pairs(tmp_path, 6, first_seed=300)
    flags = "--model_size tiny --resolution 16 --batch_size 2 --num_workers 0 --lambda_vgg 0 --epochs 2".split()
    argv = ["--train_jsonl", str(rows), "--output_dir", str(tmp_path / "run"), *flags]
    state = tmp_path / "run" / "checkpoint_last.pt"
    validate = FoldTraining._validate

    def stopped_in_validation(fold_training):
        raise Stopped("SIGUSR1 received")

    def run():
        assert train_darkir_cv.main(argv) == 75
        return progress([tmp_path / "run"]), state.read_bytes()

    monkeypatch.setattr(FoldTraining, "_validate", stopped_in_validation)
    first, again = run(), run()
    assert first[0] == again[0] and first[1] != again[1]
    monkeypatch.setattr(
        FoldTraining,
        "_validate",
        lambda fold: validate(fold) if fold.progress.step == 3 else stopped_in_validation(fold),
    )
    assert run()[0] != first[0]


def test_settings_and_arguments_reach_the_steps(desk):
    settings = {
        "N_FOLDS": "2",
        "LR": "3e-4",
        "SPLITS_DIR": "my splits",
        "OUTPUT_DIR": "my models",
        "RESULTS_DIR": "my results",
    }
    settings |= {"SEED": "7", "BASE_DIR": "my photos", "DEVICE": "cpu", "EVALUATION_OPTIONS": "--tta --batch_size 2"}
    code, _, err = desk.run("train_darkir.sh", "--ema_decay", "0.5", **settings)
    assert code == 0, err
    assert desk.scripts() == [SPLIT, TRAIN, EVALUATE]
    split, train, evaluate = map(options, desk.calls())
    assert split | {"input_jsonl": "my pairs.jsonl", "base_dir": "my photos", "n_folds": "2", "seed": "7"} == split
    assert train["data_splits_dir"] == split["output_dir"] == "my splits"
    assert (
        train | {"lr": "3e-4", "resolution": "384", "epochs": "100", "mixed_precision": True, "device": "cpu"} == train
    )
    assert train["base_dir"] == evaluate["base_dir"] == "my photos" and train["ema_decay"] == "0.5"
    assert evaluate["cv_dir"] == train["output_dir"] == "my models" and evaluate["output_dir"] == "my results"
    assert evaluate["test_jsonl"] == "my splits/test.jsonl" and evaluate["tta"] and evaluate["batch_size"] == "2"


def test_the_chain_from_fivek_has_the_settings_of_the_guide(desk):
    code, _, err = desk.run(
        "train_with_pretrain.sh", "--ema_decay", "0.5", BASELINE_L1="0.0514", INPUT_JSONL="", INPUT_DIR="p"
    )
    assert code == 0, err
    assert desk.scripts() == [SPLIT, FIVEK, TRAIN, TRAIN, EVALUATE]
    split, fivek, pretrain, finetune, evaluate = map(options, desk.calls())
    assert split["input_dir"] == "p" and "input_jsonl" not in split
    assert fivek | {"fivek_dir": "fivek_dataset", "output_dir": "fivek_processed", "expert": "C"} == fivek
    first = (
        "resolution=512 batch_size=8 epochs=30 lr=5e-5 warmup_epochs=5 early_stopping_patience=10 preprocess=light_aug"
    )
    second = "resolution=896 batch_size=4 epochs=100 lr=1e-5 warmup_epochs=5 early_stopping_patience=15"
    for call, wanted in ((pretrain, first), (finetune, second)):
        assert call | dict(pair.split("=") for pair in wanted.split()) == call
        assert call["ema_decay"] == "0.5"
    assert (
        pretrain["train_jsonl"] == "fivek_processed/train.jsonl"
        and pretrain["output_dir"] == "outputs_fivek_pretrained"
    )
    assert finetune["pretrained_path"] == "outputs_fivek_pretrained/checkpoint_best.pt"
    assert finetune["output_dir"] == evaluate["cv_dir"] == "outputs_finetuned_from_fivek"
    assert evaluate["output_dir"] == "test/finetuned_from_fivek" and evaluate["baseline_l1"] == "0.0514"


def test_a_rerun_prepares_nothing_twice_unless_other_photos_are_asked_for(desk):
    assert desk.run("train_with_pretrain.sh")[0] == 0
    code, out, _ = desk.run("train_with_pretrain.sh")
    assert code == 0 and "FiveK: fivek_processed is complete" in out
    assert desk.scripts()[5:] == [TRAIN, TRAIN, EVALUATE]
    assert desk.run("train_with_pretrain.sh", FIVEK_EXPERT="A")[0] == 0
    assert FIVEK in desk.scripts()[8:]
    before = len(desk.calls())
    (desk.folder / "weights.pt").touch()
    assert desk.run("train_with_pretrain.sh", PRETRAINED_PATH="weights.pt", FIVEK_EXPERT="B")[0] == 0
    assert desk.scripts()[before:] == [TRAIN, EVALUATE]


def test_one_fold_is_a_single_run_at_the_top_of_its_folder(desk):
    assert desk.run("train_with_pretrain.sh", N_FOLDS="1")[0] == 0
    *_, finetune, evaluate = map(options, desk.calls())
    rows = {name: finetune[f"{name}_jsonl"] for name in ("train", "val", "test")}
    assert rows == {
        "train": "data_splits/fold_1/train.jsonl",
        "val": "data_splits/fold_1/val.jsonl",
        "test": "data_splits/test.jsonl",
    }
    assert evaluate["checkpoint"] == "outputs_finetuned_from_fivek/checkpoint_best.pt"


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
    assert code == 0 and "Split: data_splits is there" in out and desk.scripts()[2:] == [TRAIN, EVALUATE]


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


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["--n_folds", "5"], {}, "--n_folds: set"),
        (["--output_dir=x"], {}, "--output_dir: set"),
        ([], {"N_FOLDS": "three"}, "N_FOLDS=three"),
        ([], {"INPUT_JSONL": ""}, "set INPUT_JSONL or INPUT_DIR"),
        ([], {"BASELINE": "other/test_results.json"}, "BASELINE=other/test_results.json is missing"),
        ([], {"PYTHON": "no such python"}, "PYTHON=no such python"),
        ([], {"SLURM_ARRAY_TASK_ID": "0"}, "counted from 1 to N_FOLDS=3"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(desk, arguments, settings, message):
    for wrapper in ("train_darkir.sh", "train_with_pretrain.sh"):
        code, _, err = desk.run(wrapper, *arguments, **settings)
        assert code == 2 and message in err
    assert desk.calls() == []


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_parallel_folds_without_a_gpu_are_refused(desk):
    code, _, err = desk.run("train_darkir.sh", PARALLEL_FOLDS="1")
    assert code == 2 and "no GPU found" in err


def test_python_may_be_a_command_with_arguments(desk):
    words = f"env {sys.executable} {ROOT / 'tests' / 'stub_python.py'}"
    assert desk.run("train_darkir.sh", PYTHON=words)[0] == 0
    assert desk.scripts() == [SPLIT, TRAIN, EVALUATE]


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


def test_submit_takes_back_what_it_queued_when_slurm_refuses_a_job(desk):
    for name, text in {
        "sbatch": 'case "$*" in *"--stage folds"*) exit 4 ;; *"--stage pretrain"*) echo 12 ;; *) echo 11 ;; esac',
        "scancel": 'echo "$*" >cancelled',
    }.items():
        (desk.folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (desk.folder / name).chmod(0o755)
    code, _, err = desk.run("train_with_pretrain.sh", "--submit", PATH=f"{desk.folder}:{os.environ['PATH']}")
    assert code == 4 and "sbatch refused the folds job" in err
    assert (desk.folder / "cancelled").read_text().split() == ["11", "12"]
