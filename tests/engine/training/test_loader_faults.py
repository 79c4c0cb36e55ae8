"""Real trainings whose loader processes, photos or stdout fail, and second signals: each ends in seconds with one message."""

import os
import signal
import subprocess
import sys
import time

import pytest

from common.errors import loader_fault
from data.loader import start_workers
from tests.helpers.live_runs import SECONDS, children_of, end_of, start, words_of
from tests.helpers.paths import ROOT
from tests.helpers.photos import write_pairs


@pytest.fixture
def rows(tmp_path):
    return write_pairs(tmp_path, 6, first_seed=400)


def test_a_killed_loader_process_ends_the_run_with_what_to_do(rows):
    process = start(rows)
    os.kill(children_of(process.pid)[0], signal.SIGKILL)
    code, message = end_of(process)
    assert code == 1 and message.startswith("failed: a loader process died") and "--num_workers" in message
    assert "Traceback" not in message


def test_a_pipe_that_breaks_before_the_death_is_noticed_means_the_same():
    class Loader:
        def __iter__(self):
            raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(RuntimeError) as fault:
        next(start_workers(Loader()))
    assert loader_fault(fault.value).startswith("a loader process died")


@pytest.mark.long
def test_too_few_open_files_end_the_run_and_do_not_hang_it(rows):
    shell = ["sh", "-c", 'ulimit -n 26; exec "$@"', "sh", *words_of(rows)]
    ended = subprocess.run(shell, check=False, timeout=60, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.startswith("failed: "), ended.stderr
    assert "--num_workers" in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("fault", [pytest.param("vanishes", marks=pytest.mark.long), "is emptied"])
def test_a_photo_that_cannot_be_read_any_more_is_named(rows, fault):
    process = start(rows)
    for photo in rows.parent.rglob("*.png"):
        photo.unlink() if fault == "vanishes" else photo.write_bytes(b"")
    code, message = end_of(process)
    assert code == 2 and message.startswith("error: ") and ".png" in message and "Traceback" not in message
    assert message.count("\n") == 1


@pytest.mark.long
def test_a_signal_that_is_seen_late_is_one_signal(rows):
    process = start(rows, "--num_workers", "0")
    os.kill(process.pid, signal.SIGSTOP)  # stands for a call that never returns: no handler runs
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(2.5)
    os.kill(process.pid, signal.SIGCONT)
    code, _ = end_of(process)
    assert code == 75


def test_a_second_signal_ends_a_process_that_is_stuck():
    code = subprocess.run([sys.executable, "-c", STUCK], cwd=ROOT, check=False, timeout=SECONDS, capture_output=True)
    assert code.returncode == 128 + signal.SIGTERM and b"second signal" in code.stderr


# The main thread waits in a call that no Python handler can interrupt; the same request twice is one request.
STUCK = """
import ctypes, os, signal, threading, time
from common import signals
signals.install()
def send():
    for pause in (0.2, 0.1, 2.2):
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=send).start()
libc = ctypes.CDLL(None)
while True:
    libc.pause()
"""


@pytest.mark.long
def test_a_closed_terminal_saves_as_a_stop_does(rows):
    process = start(rows)
    process.send_signal(signal.SIGHUP)
    code, message = end_of(process)
    assert code == 75 and "state saved" in message
    assert (rows.parent / "run" / "checkpoint_last.pt").exists()


@pytest.mark.long
@pytest.mark.parametrize("how", [">&-", ">/dev/full 2>&1"])
def test_a_training_goes_on_without_its_stdout(rows, how):
    shell = ["sh", "-c", f'exec "$@" {how}', "sh", *words_of(rows, "--epochs", "2", "--num_workers", "0")]
    ended = subprocess.run(shell, check=False, timeout=2 * SECONDS, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert "finished: best PSNR" in (rows.parent / "run" / "train.log").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_training_goes_on_when_its_reader_is_gone(rows):
    reader, writer = os.pipe()
    os.close(reader)
    process = start(rows, "--epochs", "3", stdout=writer)
    os.close(writer)
    code, message = end_of(process)
    assert code == 0 and message.count("stdout takes no more") == 1
    assert "finished: best PSNR" in (rows.parent / "run" / "train.log").read_text(encoding="utf-8")
