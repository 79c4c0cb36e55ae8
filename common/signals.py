"""Signals set a flag that long loops check. Imports nothing heavy, so that scripts can install it before torch.

SIGTERM (scheduler), SIGUSR1 (Slurm's warning before the time limit) and SIGINT (Ctrl-C) request a stop at the next safe point.
Saving inside a handler can tear a half-made update, so a handler only notes the signal.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from common.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

_received: list[str] = []


def install() -> None:
    """Install the handlers. Called by a script's own process before it imports torch; never at import."""
    for number in SIGNALS:
        signal.signal(number, _note)


def _note(number: int, frame: object) -> None:
    _received.append(signal.Signals(number).name)


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
