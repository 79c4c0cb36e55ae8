"""The lock of a folder: odd lock files, file systems without locks, one owner at a time."""

import errno
import fcntl
import json
import os
import socket

import pytest

from common import locks
from common.errors import InputError
from common.locks import HELD, LOCK, FolderLock
from tests.helpers.lock_holder import locked_by_another


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]", b"[" * 50_000, b'{"pid": "x"}', b"null"])
def test_a_damaged_lock_file_is_no_reason_to_stop(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with FolderLock(tmp_path, print):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path):
    target = tmp_path / "notes.txt"
    target.write_text("theirs")
    (tmp_path / LOCK).symlink_to(target)
    with pytest.raises(InputError, match="is a link"), FolderLock(tmp_path, print):
        pass
    assert target.read_text() == "theirs"


def test_a_process_never_takes_its_own_lock_twice(tmp_path):
    """Closing the second descriptor would drop the first one's lock."""
    with FolderLock(tmp_path, print), pytest.raises(RuntimeError), FolderLock(tmp_path, print):
        pass
    with FolderLock(tmp_path, print):
        pass


def test_a_wait_is_told_with_the_owner_it_waits_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.0)
    lines = []
    with locked_by_another(tmp_path) as owner, pytest.raises(InputError, match=f"in use by process {owner.pid} "):
        FolderLock(tmp_path, lines.append, wait=0.5).__enter__()
    assert len(lines) == 1 and lines[0].startswith("Waiting: ") and f"process {owner.pid} on" in lines[0]


def refuse_locks(monkeypatch, code: int = errno.ENOLCK) -> None:
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", refuse)


def marker(pid: int, host: str | None = None) -> str:
    return json.dumps({"host": host or socket.gethostname(), "pid": pid})


NO_PROCESS = 2**22 + 1


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_has_a_marker_for_one(tmp_path, monkeypatch, code):
    refuse_locks(monkeypatch, code)
    lines = []
    with FolderLock(tmp_path, lines.append):
        owner = json.loads((tmp_path / HELD).read_text())
        assert owner["pid"] == os.getpid() and "has no locks" in lines[0]
    assert not (tmp_path / HELD).exists()
    for host, pid in ((socket.gethostname(), 1), ("elsewhere", NO_PROCESS)):
        (tmp_path / HELD).write_text(marker(pid, host))
        with pytest.raises(InputError, match=f"in use by process {pid} on {host}.*delete"), FolderLock(tmp_path, print):
            pass
    (tmp_path / HELD).write_text(marker(NO_PROCESS))
    with FolderLock(tmp_path, print):
        pass


def test_a_dead_owners_marker_is_taken_over_by_one_process_only(tmp_path, monkeypatch):
    """Another process, which saw the same dead owner, is faster: its own marker must not be deleted."""
    refuse_locks(monkeypatch)
    (tmp_path / HELD).write_text(marker(NO_PROCESS))
    original = os.open

    def other_is_faster(path, *rest):
        if str(path).endswith(".removal"):
            (tmp_path / HELD).write_text(marker(1))
        return original(path, *rest)

    monkeypatch.setattr(os, "open", other_is_faster)
    with pytest.raises(InputError, match="in use by process 1 on"), FolderLock(tmp_path, print):
        pass
    assert (tmp_path / HELD).read_text() == marker(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, HELD]


def test_a_marker_that_goes_while_it_is_read_is_no_error(tmp_path, monkeypatch):
    refuse_locks(monkeypatch)
    (tmp_path / HELD).write_text(marker(1))
    original = type(tmp_path).read_bytes

    def gone(path):
        path.unlink(missing_ok=True)
        return original(path)

    monkeypatch.setattr(type(tmp_path), "read_bytes", gone)
    with FolderLock(tmp_path, print, wait=5):
        assert (tmp_path / HELD).exists()


def test_a_marker_that_cannot_be_written_does_not_stay(tmp_path, monkeypatch):
    refuse_locks(monkeypatch)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"), FolderLock(tmp_path, print):
        pass
    assert not (tmp_path / HELD).exists()


def test_another_process_is_named_and_waited_for(tmp_path):
    with locked_by_another(tmp_path) as owner, pytest.raises(InputError, match=f"process {owner.pid} on"):
        FolderLock(tmp_path, print, wait=0.2).__enter__()
