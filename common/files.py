"""Content -> files that appear whole or not at all; the lock on a folder; a folder -> the files below it. Needs no torch.

A file is written under a temporary name in the same folder, flushed, fsynced, renamed over the target, and the folder is
fsynced. No other module writes files, but for the log, which grows line by line.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common import signals
from common.errors import InputError

TEMPORARY = ".tmp."


@contextlib.contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is fsynced and renamed to `path`, on any error removed.

    Raises OSError (disk full, read-only, quota) with the old file untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: image writers choose their format by it.
    temporary = path.with_name(f"{path.stem}{TEMPORARY}{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems refuse fsync on a folder; the rename itself is still atomic there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_bytes(path: str | Path, content: bytes | memoryview, mtime_ns: int | None = None) -> None:
    """Write `content` to `path`, whole or not at all; with `mtime_ns`, the file carries that time, not the present."""
    with atomic_output(path) as temporary:
        with open(temporary, "wb") as handle:
            handle.write(content)
        if mtime_ns is not None:
            os.utime(temporary, ns=(mtime_ns, mtime_ns))


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON (NaN and Infinity raise ValueError), indented, ending in a newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one strict JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def write_csv(path: str | Path, columns: list[str], rows: Iterable[dict]) -> None:
    """Write rows as CSV with a header line; floats in full precision, so that numbers survive the round trip."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def remove_stale_temporaries(folder: str | Path) -> list[Path]:
    """Delete temporary files that a killed process left in `folder`; call it under the folder's lock."""
    stale = sorted(path for path in Path(folder).glob(f"*{TEMPORARY}*") if path.is_file())
    for path in stale:
        path.unlink()
    return stale


class FolderLock:
    """Exclusive ownership of a folder for as long as the process lives or the `with` block lasts.

    The kernel drops the lock when its owner dies, so a stale one is taken over; `.lock` names host, process and time for
    the message. POSIX record locks are used: forked loader workers do not inherit them.

    Raises InputError naming the owner when another process holds the folder and `wait` seconds have passed.
    """

    def __init__(self, folder: str | Path, wait: float = 0.0):
        self.path = Path(folder) / ".lock"
        self.wait = wait
        self.taken_over_from: dict | None = None
        self._handle: io.TextIOWrapper | None = None

    def __enter__(self) -> FolderLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not the atomic helper: the lock is on this very inode, which must stay in place.
        self._handle = open(self.path, "a+", encoding="utf-8")
        deadline = time.monotonic() + self.wait
        while not self._try_lock():
            if time.monotonic() >= deadline:
                owner = self._read_owner()
                self._handle.close()
                raise InputError(
                    f"{self.path.parent} is in use by process {owner.get('pid', '?')} on {owner.get('host', '?')} "
                    f"since {owner.get('since', '?')}; wait for it, or name another folder"
                )
            signals.check()
            time.sleep(0.05)
        self.taken_over_from = self._read_owner() or None
        self._handle.seek(0)
        self._handle.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": utc_now()}, self._handle)
        self._handle.flush()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.seek(0)
        self._handle.truncate()
        self._handle.close()

    def _try_lock(self) -> bool:
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _read_owner(self) -> dict:
        self._handle.seek(0)
        text = self._handle.read()
        try:
            return json.loads(text) if text else {}
        except ValueError:
            return {}


def utc_now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def visible_folders(base: Path, skip: Path | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield `base` and each folder below it with the sorted names of its files.

    Linked folders are entered, every real folder once; hidden folders and what lies in `skip` are left out.
    """
    seen = set() if skip is None else {os.path.realpath(skip)}
    for folder, folders, files in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(folder), sorted(files)
