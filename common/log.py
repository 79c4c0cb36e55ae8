"""Log lines for someone who tails them: each goes to stdout at once and, whole, to the end of train.log.

And what a process says that has no more to say: when nothing was achieved for ten minutes, where each of its threads stands.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from pathlib import Path
from typing import TextIO

STALL_SECONDS = 600.0

_watched: int | None = None  # the process whose script is running


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
        if fault := write(sys.stdout, line + "\n"):
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


def watch() -> None:
    """A script begins: from now on it must achieve something every STALL_SECONDS, or the stack of each thread goes to stderr, again
    and again, also when the process is stuck in a library that lets no Python run."""
    global _watched
    _watched = os.getpid()
    alive()


def alive() -> None:
    """Something was achieved. Outside a script, and in a process that a script has forked, this does nothing: faulthandler would
    wait there for a thread that only the script's own process has."""
    if _watched == os.getpid():
        faulthandler.dump_traceback_later(STALL_SECONDS, repeat=True, file=2)


def over() -> None:
    """The script has ended: nothing more is to be achieved."""
    global _watched
    if _watched == os.getpid():
        faulthandler.cancel_dump_traceback_later()
        _watched = None


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
