"""Two processes train what one would: the same batches, losses and scores; one writes, all stop together."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

import train_darkir_cv
from common.files import write_jsonl
from darkir.checkpoint_file import read_checkpoint
from data.loader import BatchKeys, EpochPlan
from engine.distributed import World, average_gradients, read_world
from tests.helpers.paths import ROOT
from tests.helpers.photos import write_pairs

SMALL = ["--model_size", "tiny", "--resolution", "16", "--batch_size", "4", "--num_workers", "0", "--lambda_vgg", "0"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven pairs: five to train on (not a multiple of the batch), two of another size to validate on."""
    folder = tmp_path_factory.mktemp("photos")
    rows = [json.loads(line) for line in write_pairs(folder, 5, first_seed=600).read_text().splitlines()]
    write_jsonl(folder / "train.jsonl", rows)
    write_pairs(folder / "val", 3, first_seed=700, width=30, height=22)
    write_pairs(folder / "val2", 2, first_seed=710)
    vals = [
        (folder / name, json.loads(line)) for name in ("val", "val2") for line in open(folder / name / "pairs.jsonl")
    ]
    write_jsonl(folder / "val.jsonl", [{side: str(base / row[side]) for side in ("src", "tar")} for base, row in vals])
    return folder


def command(photos, output, *flags, epochs=10):
    argv = ["--train_jsonl", photos / "train.jsonl", "--output_dir", output, "--epochs", epochs, *SMALL, *flags]
    return [ROOT / "train_darkir_cv.py", *argv]


def run(launcher, arguments):
    ended = subprocess.run(
        [str(part) for part in [*launcher, *arguments]], capture_output=True, text=True, check=False, timeout=240
    )
    return ended.returncode, ended.stdout, ended.stderr


def history(output):
    return json.loads((output / "history.json").read_text())


@pytest.fixture(scope="module")
def two_and_one(photos, tmp_path_factory):
    """The same 20 updates (2 an epoch) by two processes and by one."""
    folder = tmp_path_factory.mktemp("runs")
    with two_processes(*[command(photos, folder / "two")] * 2) as processes:
        out, errors = processes[0].communicate(timeout=240)
        assert (processes[0].returncode, processes[1].wait(timeout=60)) == (0, 0), errors
    assert "2 processes, each with 2 of the 4 pairs of a batch" in out
    assert train_darkir_cv.main([str(word) for word in command(photos, folder / "one")[1:]]) == 0
    return folder


def test_losses_and_scores_of_20_updates_agree(two_and_one):
    two, one = history(two_and_one / "two"), history(two_and_one / "one")
    assert len(two) == len(one) == 10
    for ours, theirs in zip(two, one, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        for name in ("val_loss", "val_psnr", "val_ssim"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


def test_scores_of_the_same_weights_are_the_same(two_and_one):
    """Validation is shared out without padding: every photo once."""
    two = read_checkpoint(two_and_one / "two" / "checkpoint_final.pt")
    one = read_checkpoint(two_and_one / "one" / "checkpoint_final.pt")
    assert [score["src"] for score in two["scores"]] == [score["src"] for score in one["scores"]]
    assert len(two["scores"]) == 5
    for ours, theirs in zip(two["scores"], one["scores"], strict=True):
        for name in ("identity_psnr", "identity_ssim", "identity_l1"):  # needs no weights: equal to the last digit
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6)


def test_one_process_writes(two_and_one):
    lines = (two_and_one / "two" / "train.log").read_text().splitlines()
    assert sum(line.startswith("Epoch") for line in lines) == 10


@pytest.mark.long
def test_a_run_may_continue_with_another_number_of_processes(photos, two_and_one, tmp_path):
    arguments = command(photos, tmp_path, "--checkpoint_every_steps", "1", epochs=10)
    with subprocess.Popen(
        [str(part) for part in [sys.executable, *arguments]], stdout=subprocess.PIPE, text=True
    ) as first:
        assert any(line.startswith("Epoch") for line in first.stdout)
        first.terminate()
        first.communicate(timeout=60)
    assert first.returncode == 75
    code, out, errors = run(TORCHRUN, arguments)
    assert code == 0 and "Continuing single run" in out, errors
    ours, theirs = history(tmp_path)[-1], history(two_and_one / "one")[-1]
    assert ours["val_psnr"] == pytest.approx(theirs["val_psnr"], rel=1e-4)


def test_a_signal_to_one_process_stops_all_with_a_state(photos, tmp_path):
    arguments = [str(part) for part in [*TORCHRUN, *command(photos, tmp_path, epochs=2000)]]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        assert any(line.startswith("Epoch") for line in launcher.stdout)
        children = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout.split()[-1]), signal.SIGUSR1)
        _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode != 0 and "state saved at update" in errors
    assert read_checkpoint(tmp_path / "checkpoint_last.pt")["step"] > 0


@contextlib.contextmanager
def two_processes(*commands):
    """One process a command, as the two that train one model; both are gone in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank, words in enumerate(commands):
        place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        words = [sys.executable, *map(str, words)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=ROOT))
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.long
def test_processes_that_find_different_states_stop_with_one_line(photos, two_and_one, tmp_path):
    """Process 1 sees another folder, where the run is at its end."""
    shutil.copytree(two_and_one / "one", tmp_path / "1")
    (tmp_path / "1" / "checkpoint_final.pt").unlink()
    with two_processes(*(command(photos, tmp_path / str(rank)) for rank in (0, 1))) as processes:
        messages = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    for message in messages:
        assert "do not begin from the same state (process 0: update 0, weights " in message
        assert "; process 1: update 20, weights " in message and "Traceback" not in message


@pytest.mark.long
def test_a_bad_batch_names_its_process_and_a_second_signal_ends_one_that_waits(photos, tmp_path):
    words = command(photos, tmp_path, "--skip_bad_batches", "1", epochs=2000)[1:]
    commands = [["-m", "tests.helpers.bad_process", 1, *words]] * 2
    with two_processes(*commands) as (first, second):
        told = next(line for line in first.stdout if "is not finite" in line)
        assert any(line.startswith("Epoch   2/") for line in first.stdout)
        os.kill(second.pid, signal.SIGSTOP)
        time.sleep(0.5)  # the first waits for it now, inside of the exchange
        first.terminate()
        time.sleep(2.2)
        assert first.poll() is None
        first.terminate()
        _, errors = first.communicate(timeout=20)
    assert first.returncode == 128 + signal.SIGTERM and "SIGTERM is the second signal" in errors
    rows = [json.loads(line)["src"] for line in (photos / "train.jsonl").read_text().splitlines()]
    (batch,) = BatchKeys(EpochPlan(5, 4, 1), 42, 1, 1, 1, 2)
    assert told.rstrip().endswith("Photos: " + ", ".join(f"{rows[key.index]} (process 1)" for key in batch))


def test_the_batch_must_be_shared_evenly(photos, tmp_path, monkeypatch, capsys):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    argv = [str(part) for part in command(photos, tmp_path, "--batch_size", "3")[1:]]
    assert train_darkir_cv.main(argv) == 2
    assert "--batch_size 3: must be a multiple of the 2 processes" in capsys.readouterr().err


def test_shares_are_disjoint_and_complete():
    plan = EpochPlan(pairs=7, batch_size=4, accumulate_steps=2)
    whole, first, second = (list(BatchKeys(plan, 3, 2, 1, rank, ranks)) for rank, ranks in ((0, 1), (0, 2), (1, 2)))
    assert len(whole) == len(first) == len(second) == 2
    for batch, ours, theirs in zip(whole, first, second, strict=True):
        assert len(ours) == len(theirs) == 2 and sorted(batch) == sorted([*ours, *theirs])


def test_the_place_is_read_from_torchrun_or_an_srun_step_only(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    assert read_world() == World(0, 0, 1)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert read_world() == World(0, 0, 1)  # the batch shell of a job with two tasks
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert read_world() == World(1, 1, 2)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert read_world() == World(3, 1, 4)


def test_one_process_needs_no_one_else():
    world, parameter = World(), torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    average_gradients([parameter], world)
    world.wait_for_all()
    assert (
        parameter.grad.tolist() == [1.0, 2.0]
        and world.gather("x") == ["x"]
        and not world.any(False, torch.device("cpu"))
    )
