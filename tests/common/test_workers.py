"""Processes that work through tasks: results, crashes, time limits, a dead parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import signals, workers
from common.errors import Stopped
from common.memory import usable_memory
from common.workers import Lost, run_tasks
from tests.helpers.paths import ROOT


def square(task):
    return task * task


def results(function, tasks, count=2, timeout=30.0):
    return dict(run_tasks(function, tasks, count, timeout))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_task_has_its_result_and_no_worker_is_left(count):
    before = children()
    assert results(square, range(20), count) == {task: task * task for task in range(20)}
    assert results(square, [], count) == {}
    assert children() == before


def test_workers_work_at_the_same_time():
    # No task ends before four are at work: one after the other, they would wait until the time limit and be lost.
    meeting = multiprocessing.get_context("fork").Barrier(4)
    assert results(lambda task: meeting.wait() >= 0, range(4), 4) == dict.fromkeys(range(4), True)


def crash_on_three(task):
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_task_that_kills_its_worker_twice_is_lost_and_no_other(tmp_path):
    found = results(crash_on_three, range(8))
    assert found[3] == Lost("worker crashed (signal 9)")
    assert {task: result for task, result in found.items() if task != 3} == {
        task: task for task in range(8) if task != 3
    }


def test_a_task_that_kills_its_worker_once_is_tried_again_alone(tmp_path):
    def crash_once(task):
        if task == 3 and not (tmp_path / "crashed").exists():
            (tmp_path / "crashed").touch()
            os._exit(9)
        (tmp_path / str(task)).touch()
        return sum(1 for _ in tmp_path.iterdir())

    found = results(crash_once, range(8))
    assert found[3] == 9, "after all others"


def test_a_task_that_takes_too_long_is_lost():
    found = results(lambda task: time.sleep(60 if task == 1 else 0), range(4), timeout=1.0)
    assert found == {0: None, 1: Lost("took more than 1 seconds"), 2: None, 3: None}


def test_want_of_memory_is_named():
    def greedy(task):
        raise MemoryError

    assert results(greedy, [1]) == {1: Lost("worker crashed (it ran out of memory)")}


def test_an_error_in_the_function_ends_the_run_with_its_traceback():
    before = children()
    with pytest.raises(RuntimeError, match=r"(?s)in a worker:.*ZeroDivisionError"):
        results(lambda task: 1 / task, [1, 0, 2])
    assert children() == before


def test_a_stop_ends_the_run_between_results(monkeypatch):
    before = children()
    seen = []
    with pytest.raises(Stopped, match="SIGTERM"):
        for task, _ in run_tasks(square, range(1000), 2, 30.0):
            seen.append(task)
            monkeypatch.setattr(signals, "_received", ["SIGTERM"])
    assert len(seen) < 10 and children() == before


def test_few_tasks_are_on_their_way_while_the_caller_is_busy(tmp_path):
    stream = run_tasks(lambda task: (tmp_path / str(task)).touch(), range(100), 2, 30.0)
    next(stream)
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) <= 2 * workers.QUEUED + 1
    stream.close()


def test_workers_end_when_their_parent_is_killed():
    program = (
        "import os, time\nfrom common.workers import run_tasks\n"
        "def work(task):\n    time.sleep(0.05 if task else 0)\n    return os.getpid()\n"
        "for task, pid in run_tasks(work, range(10000), 3, 30.0):\n    print(pid, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pids = {int(process.stdout.readline()) for _ in range(12)}
    assert len(pids) == 3
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_memory_is_that_of_the_innermost_limit(tmp_path):
    machine = usable_memory(tmp_path)
    membership, groups = tmp_path / "proc/self/cgroup", tmp_path / "sys/fs/cgroup"
    membership.parent.mkdir(parents=True)
    membership.write_text("0::/job/step\n")
    (groups / "job/step").mkdir(parents=True)
    (groups / "job/step/memory.max").write_text("max\n")
    assert usable_memory(tmp_path) == machine > 10**8
    (groups / "job/memory.max").write_text("2000000\n")
    assert usable_memory(tmp_path) == 2_000_000
