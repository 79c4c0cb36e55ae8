"""SIGKILL at twenty seeded moments, of the run and of its workers: the tree that is left in the end is that of an unbroken run."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

import prepare_fivek_robust
from common import files
from tests.helpers.fivek_folder import SMALL, encoded, put, put_pairs, run, source, target, tree
from tests.helpers.fivek_tree import prophoto_tiff

PAIRS = 24
KILLS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs of several kinds, two of them bad; and what an unbroken run makes of them."""
    folder = tmp_path_factory.mktemp("kills")
    put_pairs(folder / "fivek", range(1, PAIRS + 1))
    put(folder / "fivek", "input/a0003-photo 0.jpeg", b"")
    put(folder / "fivek", "input/a0004-photo 1.jpeg", encoded(source(99)))
    put(folder / "fivek", "output_expert_C/a0005-photo 2.jpeg", prophoto_tiff(target(5)))
    assert run(folder / "fivek", folder / "whole") == 3
    return folder


def start(folder: Path, output: Path, workers: int, *more: str, kill_at: int | None = None) -> int:
    """Fork a run of the script into a session of its own; kill_at: it kills itself at that rename. Its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if kill_at is not None:
        kill_at_rename(kill_at)
    argv = ["--fivek_dir", str(folder / "fivek"), "--output_dir", str(output), *SMALL, "--workers", str(workers), *more]
    os._exit(prepare_fivek_robust.main(argv))


def kill_at_rename(number: int) -> None:
    """SIGKILL this process before its rename `number` (odd) or right after it (even)."""
    real, calls = os.replace, iter(range(1, 10**9))

    def replace(old, new):
        call = next(calls)
        if call == number and number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        real(old, new)
        if call == number:
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.replace = replace


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def finish(pid: int) -> int:
    """Wait for a run; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at_rename(folder: Path, output: Path, rng: random.Random) -> int:
    """A run that is killed in the middle of its writing: images, records, or the four files at the end."""
    return finish(start(folder, output, rng.choice((1, 2)), kill_at=rng.randint(1, 20)))


def killed_at_any_time(folder: Path, output: Path, rng: random.Random) -> int:
    pid = start(folder, output, rng.choice((1, 2)))
    time.sleep(rng.uniform(0, 0.25))
    os.kill(pid, signal.SIGKILL)
    return finish(pid)


def with_a_worker_killed(folder: Path, output: Path, rng: random.Random) -> int:
    """A worker is killed, and a moment later the run."""
    pid = start(folder, output, 2)
    deadline = time.monotonic() + 2
    while not children(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.05))
    for worker in children(pid)[:1]:
        os.kill(worker, signal.SIGKILL)
    time.sleep(rng.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    return finish(pid)


def assert_whole(output: Path) -> None:
    """Every file under its final name is whole; what is torn carries the mark of a temporary file."""
    for path in output.rglob("*"):
        if path.is_file() and files.TEMPORARY not in path.name:
            content = path.read_bytes()
            if path.suffix == ".jpg":
                assert content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9"), path
            elif path.suffix == ".json":
                json.loads(content)


def test_requirement_10_twenty_kills_leave_the_tree_of_an_unbroken_run(folder, tmp_path):
    rng = random.Random(20)
    whole = tree(folder / "whole")
    killed, trees = 0, 0
    while killed < KILLS:
        output = tmp_path / str(trees)
        for _ in range(5):
            kill = rng.choice((killed_at_rename, killed_at_rename, killed_at_any_time, with_a_worker_killed))
            killed += kill(folder, output, rng) == -signal.SIGKILL
            assert_whole(output)
        assert finish(start(folder, output, rng.choice((1, 2)))) == 3
        assert tree(output) == whole
        trees += 1


def test_requirement_10_kills_while_the_last_files_are_written(folder, tmp_path):
    """22 pairs are 66 renames, 2 records more of rejected ones; then val (if any), train, rejected.csv, metadata."""
    whole = tree(folder / "whole")
    for number in (67, 69, 70, 71, 72):
        output = tmp_path / str(number)
        assert finish(start(folder, output, 2, kill_at=number)) == -signal.SIGKILL
        assert (output / "dataset_metadata.json").exists() == (number == 72)
        assert finish(start(folder, output, 1)) == 3
        assert tree(output) == whole


def test_requirement_10_a_kill_between_two_sets_of_options_mixes_nothing(folder, tmp_path):
    output = tmp_path / "out"
    assert finish(start(folder, output, 2, kill_at=40)) == -signal.SIGKILL
    assert finish(start(folder, output, 2, "--jpeg_quality", "80", kill_at=31)) == -signal.SIGKILL
    assert finish(start(folder, output, 1)) == 3
    assert tree(output) == tree(folder / "whole")
    assert finish(start(folder, output, 2, "--jpeg_quality", "80", kill_at=8)) == -signal.SIGKILL
    for name in ("dataset_metadata.json", "train.jsonl", "val.jsonl"):
        assert not (output / name).exists(), "what it describes is no longer there"
    assert finish(start(folder, output, 1)) == 3
    assert tree(output) == tree(folder / "whole")


def test_requirement_10_killed_workers_alone_change_nothing(folder, tmp_path):
    pid = start(folder, tmp_path / "out", 2)
    ended = 0
    rng = random.Random(3)
    while ended == 0:
        time.sleep(rng.uniform(0.02, 0.06))
        for worker in children(pid)[:1] if rng.random() < 0.2 else []:
            os.kill(worker, signal.SIGKILL)
        ended, status = os.waitpid(pid, os.WNOHANG)
    # A worker that is killed twice with one pair costs this run that pair; the next run makes it.
    assert os.waitstatus_to_exitcode(status) == 3
    assert finish(start(folder, tmp_path / "out", 1)) == 3
    assert tree(tmp_path / "out") == tree(folder / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_with_75_and_the_rerun_continues(folder, tmp_path, number):
    output = tmp_path / "out"
    pid = os.fork()
    if not pid:
        os.close(2)
        os.close(1)
        os.open(os.devnull, os.O_WRONLY)
        os.dup2(1, 2)
        prepare_fivek_robust.signals.install()
        argv = ["--fivek_dir", str(folder / "fivek"), "--output_dir", str(output), *SMALL]
        os._exit(prepare_fivek_robust.main(argv))
    deadline = time.monotonic() + 20
    while len(list((output / "meta").glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(pid, number)
    assert finish(pid) == 75
    assert not (output / "dataset_metadata.json").exists()
    assert finish(start(folder, output, 2)) == 3
    assert tree(output) == tree(folder / "whole")
