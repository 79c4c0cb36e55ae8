"""Moments inside the writing of a file, for tests that interrupt a run there. The product code knows nothing of it."""

import builtins
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common.files import TEMPORARY

PREVIOUS = "checkpoint_last.prev.pt"
# In the order in which they come when checkpoint_last.pt is written.
MOMENTS = (
    "before the write",
    "half written",
    "written",
    "synced",
    "before the rename",
    "renamed",
    "folder synced",
)
ROTATION = ("before the rotation", "rotated")


class WriteHook:
    """Acts at chosen moments of the writing of files called `name`: `acts` maps (moment, how-many-th time) to what to do.

    Replaces open, os.fsync and os.replace of this process, so it belongs into a process that is there to be interrupted.
    """

    def __init__(self, name: str, acts: dict[tuple[str, int], Callable[[], None]]):
        self.name, self.acts = name, acts
        self._times = Counter()
        self._renamed = False
        self._open, self._fsync, self._replace = builtins.open, os.fsync, os.replace

    def install(self) -> None:
        """Take the place of the real functions."""
        builtins.open, os.fsync, os.replace = self.open, self.fsync, self.replace

    def reached(self, moment: str) -> None:
        """Note that `moment` has come once more."""
        self._times[moment] += 1
        act = self.acts.get((moment, self._times[moment]))
        if act is not None:
            act()

    def open(self, file, mode="r", *args, **options):
        if not self._is_temporary(file) or "w" not in mode:
            return self._open(file, mode, *args, **options)
        self.reached("before the write")
        return _HalfWay(self._open(file, mode, *args, **options), self)

    def fsync(self, handle):
        if self._is_temporary(Path(f"/proc/self/fd/{handle}").readlink()):
            self.reached("written")
            self._fsync(handle)
            self.reached("synced")
            return
        self._fsync(handle)
        if self._renamed:
            self._renamed = False
            self.reached("folder synced")

    def replace(self, source, target):
        rotation = Path(source).name == self.name and Path(target).name == PREVIOUS
        ours = Path(target).name == self.name
        if rotation or ours:
            self.reached("before the rotation" if rotation else "before the rename")
        self._replace(source, target)
        self._renamed = ours
        if rotation or ours:
            self.reached("rotated" if rotation else "renamed")

    def _is_temporary(self, file: object) -> bool:
        ours, name = Path(self.name), Path(str(file)).name
        return name.startswith(TEMPORARY) and name.endswith(f".{ours.name}")


class _HalfWay:
    """A file whose first write stops in the middle for a moment."""

    def __init__(self, handle, hook: WriteHook):
        self._handle, self._hook, self._first = handle, hook, True

    def write(self, content):
        if self._first:
            self._first = False
            half = len(content) // 2
            self._handle.write(content[:half])
            self._handle.flush()
            self._hook.reached("half written")
            return half + self._handle.write(content[half:])
        return self._handle.write(content)

    def __getattr__(self, name):
        return getattr(self._handle, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._handle.close()
