"""Log lines for someone who tails them: each goes to stdout at once and, whole, to the end of train.log.

Progress bars, on a terminal only, into which no line runs. And what a process says that has no more to say: when nothing was
achieved for ten minutes, where each of its threads stands.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

STALL_SECONDS = 600.0
TURNS = 4  # of the watchdog in that time

_watchdog: _Watchdog | None = None  # of the script that is running


class RunLog:
    """`log(line)` prints a line and appends it to `path` (None: print only); a `silent` log does nothing.

    The log is the one file that is not replaced whole: it grows by single appends, which folds running side by side may share.
    A stdout or file that takes no more (`| head`, a full disk, a closed terminal) does not end the work: one line on stderr says
    so. Only when the first line cannot be written is that the folder's fault, OSError. Control characters of file names are
    written as escapes.
    """

    def __init__(self, path: Path | None = None, silent: bool = False):
        self.path = path
        self.silent = silent
        self._began = self._told = False

    def __call__(self, line: str) -> None:
        alive()
        if self.silent:
            return
        line = "".join(
            character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in line
        )
        lines = [line]
        with above_bars():
            fault = write(sys.stdout, line + "\n")
        if fault:
            lines.append(f"⚠️  stdout takes no more lines ({fault}); the work goes on")
        if self.path is not None and (fault := self._append(lines)):
            lines.append(f"⚠️  {self.path} takes no more lines ({fault}); the work goes on")
        for remark in lines[1:]:
            write(sys.stderr, remark + "\n")  # which may be as dead: then the log file has the one about stdout

    def _append(self, lines: list[str]) -> str | None:
        """Append to the file; the first time that fails, why: a full disk may have room for a checkpoint again by then."""
        assert self.path is not None
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        try:
            # Made with the first line, so that a mistyped command leaves no folder behind.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(handle, text)
            finally:
                os.close(handle)
        except OSError as error:
            if self._began:
                told, self._told = self._told, True
                return None if told else error.strerror
            error.filename = str(self.path)
            raise
        self._began = True
        return None


class _Watchdog(threading.Thread):
    """Says where each thread stands when nothing was achieved for STALL_SECONDS, again and again.

    By Python's own means, under its lock: faulthandler's, which reads the stacks of running threads, was seen to end a process. It
    is left for a process that is stuck in a library which lets no Python run, and this thread as little.
    """

    def __init__(self) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.process, self.latest, self.ended = os.getpid(), time.monotonic(), threading.Event()

    def run(self) -> None:
        while not self.ended.wait(STALL_SECONDS / TURNS):
            faulthandler.dump_traceback_later(STALL_SECONDS, file=2)
            silent = time.monotonic() - self.latest
            if silent >= STALL_SECONDS:
                self.latest = time.monotonic()
                os.write(2, f"No progress for {silent:.0f} s. Where each thread stands:\n{self._stacks()}".encode())
        faulthandler.cancel_dump_traceback_later()

    def _stacks(self) -> str:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        stacks = sys._current_frames().items()
        return "".join(
            f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
            for ident, frame in stacks
            if ident != self.ident
        )


def watch() -> None:
    """A script begins: from now on it must achieve something every STALL_SECONDS, or the stack of each thread goes to stderr."""
    global _watchdog
    _watchdog = _Watchdog()
    _watchdog.start()


def alive() -> None:
    """Something was achieved. Outside a script, and in a process that a script has forked, this does nothing."""
    if _watchdog is not None:
        _watchdog.latest = time.monotonic()


def over() -> None:
    """The script has ended: nothing more is to be achieved."""
    global _watchdog
    if _watchdog is not None and _watchdog.process == os.getpid():
        _watchdog.ended.set()
        _watchdog.join()
        _watchdog = None


def write(stream: TextIO, text: str) -> str | None:
    """Write and flush `text` to stdout or stderr; when it takes no more, why, and from then on nothing is written to it."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # Also what the buffer still holds, or Python would fail at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return error.strerror or str(error)
    return None


def is_unread(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    watcher = select.poll()
    try:
        watcher.register(stream.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in watcher.poll(0))


def progress_bar(total: int, title: str | None = None, unit: str = "it", initial: int = 0, leave: bool = True) -> tqdm:
    """A bar over `total` things, `initial` of them done, that vanishes in the end unless `leave`; none where nothing is to do."""
    from tqdm import tqdm  # only here: scripts import this file before they parse their arguments

    class Bar(tqdm):
        monitor_interval = 0  # no watching thread: workers are forked beside it

    hidden = not sys.stderr.isatty() or initial >= total
    return Bar(total=total, desc=title, unit=unit, initial=initial, leave=leave, disable=hidden)


@contextlib.contextmanager
def above_bars() -> Iterator[None]:
    """Take the bars that are shown away while something is written, so that it begins on a line of its own."""
    module = sys.modules.get("tqdm")
    with contextlib.nullcontext() if module is None else module.tqdm.external_write_mode():
        yield
