"""Exclusive ownership of a folder, also where the file system has no locks. Needs no torch."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from common import signals
from common.errors import InputError
from common.files import is_alive, utc_now
from common.jsonl import parse_json
from common.log import alive

LOCK, HELD, REMOVAL = ".lock", ".lock.held", ".removal"
# NFS without lockd, Lustre mounted without -o flock, some FUSE file systems.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
LONGEST_OWNER = 4096  # bytes; what is longer was not written here
PATIENCE_SECONDS = 3.0  # after which a wait is told
POLL_SECONDS = 0.05

_held_here: set[str] = set()  # folders: closing a second descriptor of a lock file would drop the first one's lock


class FolderLock:
    """Exclusive ownership of a folder for as long as the process lives or the `with` block lasts.

    The kernel drops the lock when its owner dies, so a stale one is taken over; `.lock` names host, process and time for
    the message. POSIX record locks are used: forked loader workers do not inherit them. On a file system without locks the
    owner is who made `.lock.held`; `warn` is told so, and a dead owner is only known on its own host.

    Raises InputError naming the owner when another process holds the folder and `wait` seconds have passed, and for a `.lock`
    that is a link or cannot be opened.
    """

    def __init__(self, folder: str | Path, warn: Callable[[str], None], wait: float = 0.0):
        self.folder = Path(folder)
        self.wait, self.warn = wait, warn
        self.taken_over_from: dict | None = None
        self._handle = -1
        self._has_marker = False

    def __enter__(self) -> FolderLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = os.path.realpath(self.folder)
        if place in _held_here:
            raise RuntimeError(f"{self.folder}: this process holds the lock already")
        self._handle = self._open()
        try:
            began, told = time.monotonic(), False
            while not self._try_lock():
                waited = time.monotonic() - began
                if waited >= self.wait:
                    raise InputError(f"{self._in_use()}; wait for it, or name another folder{self._way_out()}")
                if waited >= PATIENCE_SECONDS and not told:
                    self.warn(f"Waiting: {self._in_use()}{self._way_out()}")
                    told = True
                signals.check()
                alive()
                time.sleep(POLL_SECONDS)
            self.taken_over_from = _owner(os.pread(self._handle, LONGEST_OWNER, 0))
            self._write(_identity())
        except BaseException:
            self._release()
            raise
        _held_here.add(place)
        return self

    def __exit__(self, *exception: object) -> None:
        _held_here.discard(os.path.realpath(self.folder))
        try:
            self._write(b"")
        finally:
            self._release()

    def _release(self) -> None:
        os.close(self._handle)
        if self._has_marker:
            (self.folder / HELD).unlink(missing_ok=True)

    def _open(self) -> int:
        path = self.folder / LOCK
        try:
            # Not the atomic helper: the lock is on this very inode, which must stay in place.
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise InputError(f"{path} is a link, not the lock of this toolkit; remove it") from None
            if error.errno in (errno.EACCES, errno.EPERM) and path.exists():
                raise InputError(
                    f"{path} cannot be opened ({error.strerror}): it belongs to another user; remove it when no run uses "
                    f"{self.folder}, or name another folder"
                ) from None
            raise

    def _try_lock(self) -> bool:
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return self._try_marker(error)
        return True

    def _try_marker(self, reason: OSError) -> bool:
        """Make `.lock.held`, in place of a dead process of this host if need be."""
        path = self.folder / HELD
        if not _create(path) and not (self._remove_dead(path) and _create(path)):
            return False
        self._has_marker = True
        self.warn(
            f"⚠️  {self.folder / LOCK}: this file system has no locks ({reason.strerror}); {HELD} stands in for one: "
            "delete it when a killed run on another machine has left it"
        )
        return True

    def _remove_dead(self, path: Path) -> bool:
        """Delete the marker of a dead process of this host. One process at a time does that, and looks again when it is its turn:
        else two that saw the same dead owner would delete each other's."""
        turn = path.with_name(path.name + REMOVAL)
        if not _is_dead(path) or not _create(turn):
            return False
        try:
            if _is_dead(path):
                path.unlink()
        finally:
            turn.unlink()
        return True

    def _in_use(self) -> str:
        owner = _owner_of(self.folder / HELD) or _owner(os.pread(self._handle, LONGEST_OWNER, 0)) or {}
        return (
            f"{self.folder} is in use by process {owner.get('pid', '?')} on {owner.get('host', '?')} "
            f"since {owner.get('since', '?')}"
        )

    def _way_out(self) -> str:
        held, turn = self.folder / HELD, self.folder / f"{HELD}{REMOVAL}"
        also = f" and {turn}" if turn.exists() else ""  # of a process that was killed while it took the lock over
        return f"; if that process is gone, delete {held}{also}" if held.exists() else ""

    def _write(self, content: bytes) -> None:
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, content, 0)


def _create(path: Path) -> bool:
    """Make `path`, which names this process; False when it exists."""
    try:
        marker = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(marker, _identity())
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(marker)
    return True


def _is_dead(path: Path) -> bool:
    """Whether a process of this host made `path` and is gone."""
    owner = _owner_of(path) or {}
    pid = owner.get("pid")
    return owner.get("host") == socket.gethostname() and type(pid) is int and not is_alive(pid)


def _owner_of(path: Path) -> dict | None:
    try:
        return _owner(path.read_bytes()[:LONGEST_OWNER])
    except FileNotFoundError:
        return None


def _identity() -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": utc_now()}).encode()


def _owner(content: bytes) -> dict | None:
    """What a lock file says; None when it is empty or anything that this module did not write."""
    try:
        owner = parse_json(content.decode("utf-8"))
    except ValueError:
        return None
    return owner if isinstance(owner, dict) and "pid" in owner else None
