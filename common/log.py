"""Log lines for someone who tails them: each goes to stdout at once and, whole, to the end of train.log."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class RunLog:
    """`log(line)` prints a line and appends it to `path` (None: print only); a `silent` log does nothing.

    The log is the one file that is not replaced whole: it grows by single appends, which folds running side by side may share.
    """

    def __init__(self, path: Path | None = None, silent: bool = False):
        self.path = path
        self.silent = silent

    def __call__(self, line: str) -> None:
        if self.silent:
            return
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if self.path is None:
            return
        # Made with the first line, so that a mistyped command leaves no folder behind.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, (line + "\n").encode("utf-8"))
        finally:
            os.close(handle)
