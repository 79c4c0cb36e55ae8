"""Signals set a flag that long loops check; a second one ends the process. Imports nothing heavy: scripts install it before torch.

SIGTERM (scheduler), SIGUSR1 (Slurm's warning before the time limit), SIGHUP (the terminal was closed) and SIGINT (Ctrl-C) request a
stop at the next safe point. Saving inside a handler can tear a half-made update, so a handler only notes the signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from common.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
# One request often arrives twice, from a process group and from a launcher such as torchrun: only a later one is a second one.
SAME_REQUEST_SECONDS = 2.0

_received: list[str] = []


def install() -> None:
    """Install the handlers. Called by a script's own process before it imports torch; never at import."""
    for number in SIGNALS:
        # Under nohup SIGHUP is ignored, and stays so.
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, _note)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_at_second, args=(reader,), name="second signal", daemon=True).start()


def _note(number: int, frame: object) -> None:
    _received.append(signal.Signals(number).name)


def _end_at_second(reader: int) -> None:
    """End the process at a second signal, whatever it does: a handler would wait for a library call that may never return.

    Files appear whole or not at all, so that the state of the last save is what stays.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    first = None
    while True:
        for number in os.read(reader, 64):
            if number not in SIGNALS or signal.getsignal(number) is not _note:
                continue
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first >= SAME_REQUEST_SECONDS:
                name = signal.Signals(number).name
                with contextlib.suppress(OSError):
                    line = "\n" if os.isatty(2) else ""
                    told = f"{line}stopped at once: {name} is the second signal; the last saved state stays\n"
                    os.write(2, told.encode())
                kill_children()
                os._exit(128 + number)


def kill_children() -> None:
    """End the processes that this one started by multiprocessing: loader workers ignore the stop signals, so that Python's own
    exit, which asks them politely, would wait for ever."""
    if "multiprocessing" not in sys.modules:
        return
    import multiprocessing

    children = multiprocessing.active_children()
    if not children:
        return
    is_main = threading.current_thread() is threading.main_thread()
    # Else torch's handler would raise in the middle of this for a worker that is killed here.
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if is_main else None
    for child in children:
        child.kill()
        child.join()
    if is_main:
        signal.signal(signal.SIGCHLD, before)


def no_more() -> None:
    """From here on the signals change nothing: a script's work is over and its exit code stands.

    Python's own shutdown takes handlers away, so that a late signal would kill a finished run and hide its exit code.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is _note:
            signal.signal(number, signal.SIG_IGN)


def requested() -> str | None:
    """Name of the first signal that requested a stop, or None."""
    return _received[0] if _received else None


def clear() -> None:
    """Forget received signals: for a process that goes on after a stop was handled (tests, soak runs)."""
    _received.clear()


def check() -> None:
    """Raise Stopped when a stop was requested: for loops whose finished work is already on disk."""
    if _received:
        raise Stopped(f"{_received[0]} received; run the same command again to continue")


def ignore_in_worker(worker_id: int = 0) -> None:
    """Ignore the stop signals in a loader worker: the parent decides, and a dead worker would break its last step."""
    signal.set_wakeup_fd(-1)  # it is the parent's pipe
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block the stop signals while workers are forked, so that none dies before it can ignore them; then deliver."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
