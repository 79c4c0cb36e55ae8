"""Both wrappers on a real Slurm, at tiny settings: make test-slurm. Not part of make test, which needs no Slurm.

What a job does is compared with an uninterrupted job of the same settings: every tensor and record must be equal, bit for bit.
"""

import json
import shutil
import sys

import pytest
import torch

from darkir import DarkIR
from darkir.architectures import MODEL_SIZES
from darkir.checkpoint_file import read_checkpoint
from tests.helpers.audit_photos import as_shot, picture
from tests.helpers.fivek_folder import encoded, put
from tests.slurm.cluster import Cluster, why_not
from tests.slurm.desk import ROOT, Desk, slow_python

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    running = Cluster(tmp_path_factory.mktemp("cluster"), cpus=32)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def desk(cluster, tmp_path):
    return Desk(cluster, tmp_path / "my desk")


@pytest.fixture(scope="session")
def limited(cluster, tmp_path_factory):
    """A job that its time limit stops: submitted first, looked at last, since Slurm takes its time."""
    desk = Desk(cluster, tmp_path_factory.mktemp("limited") / "my desk")
    slow = slow_python(desk.folder, 4)
    return desk, desk.submit("--time=2", "--signal=B:USR1@30", **slow)


@pytest.fixture(scope="session")
def deaf(cluster, tmp_path_factory):
    """A job whose first update takes longer than its time limit."""
    desk = Desk(cluster, tmp_path_factory.mktemp("deaf") / "my desk")
    return desk, desk.submit("--time=1", "--signal=B:USR1@35", **slow_python(desk.folder, 500))


@pytest.fixture(scope="session")
def plain(limited, deaf, cluster, tmp_path_factory):
    """An uninterrupted job, to compare with."""
    desk = Desk(cluster, tmp_path_factory.mktemp("plain") / "my desk")
    job = desk.submit()
    assert desk.wait_for_end(job) == ["COMPLETED"], desk.log(job)
    return desk, job


def test_a_job_splits_trains_and_evaluates(plain):
    desk, job = plain
    assert "===== Done: test_results/report.html" in desk.log(job)
    assert desk.evaluations() == 1
    results = json.loads((desk.folder / "test_results" / "test_results.json").read_text())
    assert results["n"] == 6 and len(results["models"]) == 3


def test_an_array_whose_last_task_is_stopped_evaluates_once_and_ends_equal(plain, desk):
    array = desk.submit("--array=1-3", **slow_python(desk.folder, 1))
    tasks = [f"{array}_{number}" for number in (1, 2, 3)]
    # Slurm gives the last task the array's own id: a requeue by that id would restart its siblings.
    assert desk.facts(tasks[2])["JobId"] == array
    desk.wait_for_training(tasks[2])
    desk.cluster.command("scancel", "--signal=USR1", "--batch", tasks[2])
    assert desk.wait_for_end(*tasks) == ["COMPLETED"] * 3
    assert [desk.restarts(task) for task in tasks] == [0, 0, 1]
    log = desk.log(tasks[2])
    assert "state saved at update" in log and "Stopped and requeued" in log and "Continuing fold 3" in log
    assert desk.evaluations() == 1
    assert desk.differences(plain[0]) == []
    theirs, ours = ((one.folder / "test_results" / "per_image.csv").read_text() for one in (plain[0], desk))
    assert ours == theirs


def test_a_failing_fold_stops_the_evaluation_and_can_be_run_again(desk):
    (desk.folder / "outputs").mkdir()
    (desk.folder / "outputs" / "fold_2").write_text("a file where a folder belongs")
    array = desk.submit("--array=1-2", N_FOLDS="2", EPOCHS="1")
    tasks = [f"{array}_{number}" for number in (1, 2)]
    assert desk.wait_for_end(*tasks) == ["COMPLETED", "FAILED"]
    assert desk.facts(tasks[1])["ExitCode"] == "1:0"
    assert desk.evaluations() == 0 and not (desk.folder / "test_results").exists()
    (desk.folder / "outputs" / "fold_2").unlink()
    desk.cluster.command("scontrol", "requeue", tasks[1])
    desk.wait_for(lambda: desk.state(tasks[1]) == "COMPLETED", tasks[1])
    assert desk.evaluations() == 1


def test_an_array_with_a_task_that_is_no_fold_is_refused_by_all(desk):
    """Else the folds would be trained, and each task would leave the evaluation to another."""
    array = desk.submit("--array=0-3")
    tasks = [f"{array}_{number}" for number in range(4)]
    assert desk.wait_for_end(*tasks) == ["FAILED"] * 4
    assert {desk.facts(task)["ExitCode"] for task in tasks} == {"2:0"}
    # A refusal comes before a task has its own log: it stands in the one that Slurm made.
    logs = [path.read_text() for path in desk.folder.glob("darkir_cv_*.out")]
    assert sum("of 0 to 3: folds are counted from 1 to N_FOLDS=3 (sbatch --array=1-3)" in log for log in logs) == 4
    assert not (desk.folder / "data_splits").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_job_whose_gpu_cannot_be_used_ends_at_once(desk):
    job = desk.submit(DEVICE="auto")
    assert desk.wait_for_end(job) == ["FAILED"] and desk.facts(job)["ExitCode"] == "2:0"
    assert "error: --device auto: there is a GPU (SLURM_GPUS_ON_NODE=1), but torch " in desk.log(job)
    assert not (desk.folder / "data_splits").exists()


def test_a_copied_wrapper_in_another_folder_with_linked_folders(desk):
    names = {"SPLITS_DIR": "splits", "OUTPUT_DIR": "outputs", "RESULTS_DIR": "results"}
    for name in names.values():
        (desk.folder / f"disk {name}").mkdir()
        (desk.folder / name).symlink_to(f"disk {name}")
    (desk.folder / "mine").mkdir()
    shutil.copy(ROOT / "train_darkir.sh", desk.folder / "mine" / "copy.sh")
    words = ["sbatch", "--parsable", f"--chdir={desk.folder}", "copy.sh", "--lambda_vgg", "0"]
    settings = {**names, "N_FOLDS": "1", "EPOCHS": "1"}

    def submit(**home):
        return desk.cluster.command(*words, cwd=desk.folder / "mine", env=desk.environment(**settings, **home)).strip()

    lost, job = submit(), submit(DARKIR_HOME=str(ROOT))
    assert desk.wait_for_end(lost, job) == ["FAILED", "COMPLETED"], desk.log(job)
    assert desk.facts(lost)["ExitCode"] == "2:0" and "needs DARKIR_HOME" in desk.log(lost)
    assert (desk.folder / "disk results" / "test_results.json").exists() and desk.evaluations() == 1


def test_a_job_that_only_restarts_ends_with_1(plain, desk):
    program = desk.folder / "stopped at once"
    program.write_text(f'#!/bin/sh\ncase "$1" in *train_darkir_cv.py) exit 75 ;; esac\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    splits = str(plain[0].folder / "data_splits")
    job = desk.submit(PYTHON=str(program), SPLITS_DIR=splits)
    assert desk.wait_for_end(job) == ["FAILED"]
    assert desk.facts(job)["ExitCode"] == "1:0" and desk.restarts(job) == 3
    assert "3 runs in a row were stopped without one new training step" in desk.log(job)


def test_a_cancelled_job_saves_and_stays_cancelled(desk):
    job = desk.submit(**slow_python(desk.folder, 1))
    desk.wait_for_training(job)
    desk.cluster.command("scancel", job)
    desk.wait_for(lambda: "Stopped by Slurm" in desk.log(job), job)
    assert desk.wait_for_end(job) == ["CANCELLED"] and desk.restarts(job) == 0
    assert read_checkpoint(desk.folder / "outputs" / "fold_1" / "checkpoint_last.pt")["step"] >= 1


@pytest.mark.parametrize("partition", ["requeued", "cancelled"])
def test_a_preempted_job_continues(desk, partition):
    slot = ("--gres=gpu:1,slot:1",)
    job = desk.submit(f"--partition={partition}", *slot, N_FOLDS="1", **slow_python(desk.folder, 1))
    desk.wait_for_training(job)
    other = desk.cluster.command("sbatch", "--parsable", "--partition=urgent", *slot, "--wrap=true", cwd=desk.folder)
    assert desk.wait_for_end(other.strip(), job) == ["COMPLETED", "COMPLETED"]
    assert desk.restarts(job) == 1 and "Continuing single run" in desk.log(job)
    assert desk.evaluations() == 1


def fivek_folder(desk):
    """A folder of FiveK's shape: inputs and the renditions of expert C, of photos that the fine-tuning never sees."""
    for number in range(1, 9):
        target = picture(number)
        for pixels, place in ((as_shot(target), "input"), (target, "c")):
            put(desk.folder / "fivek_dataset", f"{place}/a{number:04d}-photo.jpg", encoded(pixels))


CHAIN = {"PRETRAIN_RESOLUTION": "32", "PRETRAIN_EPOCHS": "1", "PRETRAIN_BATCH_SIZE": "1", "N_FOLDS": "2"}
CHAIN |= {"FIVEK_OPTIONS": "--min_resolution 64 --workers 1 --val_ratio 0.3", "EPOCHS": "1"}


def submit_chain(desk, **settings):
    """train_with_pretrain.sh --submit; the ids of its jobs by stage."""
    words = ["bash", str(ROOT / "train_with_pretrain.sh"), "--submit", "--lambda_vgg", "0"]
    printed = desk.cluster.command(*words, cwd=desk.folder, env=desk.environment(**{**CHAIN, **settings}))
    lines = [line.split(": job ") for line in printed.splitlines() if ": job " in line]
    return dict(lines), printed


def test_the_chain_of_jobs_survives_a_requeue_and_evaluates(desk):
    fivek_folder(desk)
    jobs, printed = submit_chain(desk, **slow_python(desk.folder, 2))
    assert list(jobs) == ["prepare", "pretrain", "folds", "evaluate"]
    assert f"squeue --jobs={','.join(jobs.values())}" in printed
    array = jobs["folds"]
    names = [jobs["prepare"], jobs["pretrain"], f"{array}_1", f"{array}_2", jobs["evaluate"]]
    asked = [desk.facts(jobs[stage]).get("TresPerNode", "") for stage in ("prepare", "pretrain")]
    assert "gpu" not in asked[0] and "gpu" in asked[1], "nothing is computed on a GPU while photos are prepared"
    assert "tail -F " + " ".join(f"darkir_cv_{name}.out" for name in names) in printed
    desk.wait_for_training(jobs["pretrain"])
    desk.cluster.command("scancel", "--signal=USR1", "--batch", jobs["pretrain"])
    assert desk.wait_for_end(*names, seconds=240) == ["COMPLETED"] * 5, desk.log(jobs["prepare"])
    assert desk.restarts(jobs["pretrain"]) == 1 and desk.evaluations() == 1
    assert "Starting from outputs_fivek_pretrained/checkpoint_best.pt" in desk.log(names[3])
    assert read_checkpoint(desk.folder / "outputs" / "fold_2" / "checkpoint_best.pt")["data"]["earlier"]
    assert (desk.folder / "test" / "finetuned_from_fivek" / "test_results.json").exists()


def test_a_failed_job_of_the_chain_cancels_those_after_it(desk):
    (desk.folder / "fivek_dataset").mkdir()
    jobs, _ = submit_chain(desk)
    names = [jobs["prepare"], jobs["pretrain"], f"{jobs['folds']}_1", jobs["evaluate"]]
    assert desk.wait_for_end(*names) == ["FAILED", "CANCELLED", "CANCELLED", "CANCELLED"]
    assert desk.facts(jobs["prepare"])["ExitCode"] == "2:0"
    assert "FiveK preparation ended with exit code 2" in desk.log(jobs["prepare"])


def test_a_failing_fold_of_the_chain_cancels_the_evaluation(desk):
    (desk.folder / "outputs").mkdir()
    (desk.folder / "outputs" / "fold_2").write_text("a file where a folder belongs")
    torch.save(DarkIR(MODEL_SIZES["darkir"]["tiny"]).state_dict(), desk.folder / "weights.pt")
    jobs, _ = submit_chain(desk, PRETRAINED_PATH="weights.pt")
    assert list(jobs) == ["prepare", "folds", "evaluate"]
    names = [f"{jobs['folds']}_1", f"{jobs['folds']}_2", jobs["evaluate"]]
    assert desk.wait_for_end(*names) == ["COMPLETED", "FAILED", "CANCELLED"]


def test_two_tasks_of_srun_train_one_model_and_stop_together(desk):
    flags = [
        "--model_size",
        "tiny",
        "--resolution",
        "32",
        "--batch_size",
        "8",
        "--num_workers",
        "0",
        "--lambda_vgg",
        "0",
    ]
    rows = str(ROOT / "data" / "sample" / "pairs.jsonl")
    words = [sys.executable, str(ROOT / "train_darkir_cv.py"), "--train_jsonl", rows, "--output_dir", "shared", *flags]
    script = desk.folder / "two tasks.sh"
    script.write_text('#!/bin/bash\nexec srun --kill-on-bad-exit=1 "$@"\n')
    options = ["--ntasks=2", "--output=two.out", "--open-mode=append"]

    def submit(epochs: str) -> str:
        command = ["sbatch", "--parsable", *options, script.name, *words, "--epochs", epochs]
        return desk.cluster.command(*command, cwd=desk.folder, env=desk.environment()).strip()

    assert desk.wait_for_end(submit("2")) == ["COMPLETED"]
    log = (desk.folder / "two.out").read_text()
    assert "2 processes, each with 4 of the 8 pairs of a batch" in log and log.count("Epoch   1/2") == 1
    script.write_text('#!/bin/bash\nexec srun --kill-on-bad-exit=0 "$@" --overwrite\n')
    job = submit("5000")
    desk.wait_for(lambda: "Epoch   1/5000" in (desk.folder / "two.out").read_text(), job)
    desk.cluster.command("scancel", "--signal=USR1", job)  # to the tasks of the step, not to the batch shell
    desk.wait_for_end(job)
    assert "SIGUSR1 received; state saved at update" in (desk.folder / "two.out").read_text()
    assert read_checkpoint(desk.folder / "shared" / "checkpoint_last.pt")["step"] > 0


def test_a_job_stopped_by_its_time_limit_continues_in_the_same_log_and_ends_equal(limited, plain):
    desk, job = limited
    assert desk.wait_for_end(job, seconds=180) == ["COMPLETED"]
    assert desk.restarts(job) >= 1
    log = desk.log(job)
    assert "SIGUSR1 received; state saved" in log and "restart 0" in log and "restart 1" in log
    assert desk.evaluations() == 1
    assert desk.differences(plain[0]) == []


def test_a_job_whose_update_outlasts_the_warning_is_requeued_before_its_time_limit(deaf, plain):
    desk, job = deaf
    assert desk.wait_for_end(job, seconds=180) == ["COMPLETED"]
    assert desk.restarts(job) >= 1  # on a busy machine a minute is short for the later lives, too
    log = desk.log(job)
    said = ["before the time limit: waiting", "No state was saved", "Stopped and requeued", "restart 1"]
    assert [line for line in said if line in log] == said
    assert desk.differences(plain[0]) == []
