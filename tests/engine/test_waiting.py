"""Threads that sleep beside other processes and spin when alone; what they compute is the same. No time is judged."""

import os
import time
from pathlib import Path

import pytest
import torch

from engine import waiting
from engine.waiting import Waiting
from tests.helpers.train_runs import train

CPU = torch.device("cpu")


@pytest.fixture
def two_threads(tmp_path, monkeypatch):
    """Two CPUs, as many threads, and a folder whose proc/stat a test writes."""
    for name in waiting.DECIDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(waiting, "FIRST_LOOK", 0.01)
    torch.set_num_threads(2)
    write_busy(tmp_path, 0)
    yield tmp_path
    torch.set_num_threads(1)


def write_busy(root, seconds: float) -> None:
    """proc/stat: so many seconds were cpu0 and cpu1 busy together; cpu2 is not this process's."""
    (root / "proc").mkdir(exist_ok=True)
    ticks = round(seconds * waiting.TICKS)
    lines = [
        "cpu  9 9 9 9",
        f"cpu0 {ticks} 0 0 77 5 0 0 0 0 0",
        "cpu1 0 0 0 99 5 0 0 0 0 0",
        "cpu2 999 0 0 0 0 0 0 0 0 0",
    ]
    (root / "proc" / "stat").write_text("\n".join(lines) + "\n")


def threads_here() -> int:
    """The threads of this process, whoever made them."""
    return len(list(Path("/proc/self/task").iterdir()))


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_threads_sleep_while_others_use_the_cpus(two_threads):
    told: list[str] = []
    torch.manual_seed(0)
    network, photos = torch.nn.Conv2d(8, 8, 3), torch.rand(2, 8, 64, 64)
    with torch.inference_mode():
        alone = network(photos)
    before = threads_here()
    with Waiting(CPU, told.append, two_threads, period=0.2) as threads:
        assert not threads.gives_way and told == []
        write_busy(two_threads, 1000)
        wait_until(lambda: threads.gives_way)
        assert threads_here() >= before + 3  # who looks, who holds the second team, and one of that
        with torch.inference_mode():
            assert torch.equal(network(photos), alone)
        wait_until(lambda: not threads.gives_way)
        write_busy(two_threads, 2000)
        wait_until(lambda: threads.gives_way)
    assert not threads.gives_way
    assert len(told) == 1 and told[0].startswith("Other processes use about ") and "of the 2 CPUs" in told[0]


def test_what_the_user_has_set_stands_and_is_said(two_threads, finished_run, two_folds, monkeypatch, capsys):
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    assert train(two_folds, finished_run, "--save_every", "1", "--device", "cpu") == 0
    assert "Threads wait for each other as GOMP_SPINCOUNT=0 says" in capsys.readouterr().out


@pytest.mark.parametrize(("device", "count"), [("cuda", 2), ("cpu", 1)])
def test_on_a_gpu_and_with_one_thread_nothing_is_done(two_threads, device, count):
    torch.set_num_threads(count)
    told: list[str] = []
    write_busy(two_threads, 1000)
    with Waiting(torch.device(device), told.append, two_threads, period=0.01) as threads:
        write_busy(two_threads, 2000)
        time.sleep(0.05)
        assert not threads.gives_way
    assert told == []
