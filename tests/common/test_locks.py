"""The lock of a folder: odd lock files, file systems without locks, one owner at a time."""

import errno
import fcntl
import json
import os
import socket

import pytest

from common.errors import InputError
from common.locks import HELD, LOCK, FolderLock
from tests.helpers.lock_holder import locked_by_another


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]", b"[" * 50_000, b'{"pid": "x"}', b"null"])
def test_a_damaged_lock_file_is_no_reason_to_stop(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path):
    target = tmp_path / "notes.txt"
    target.write_text("theirs")
    (tmp_path / LOCK).symlink_to(target)
    with pytest.raises(InputError, match="is a link"), FolderLock(tmp_path):
        pass
    assert target.read_text() == "theirs"


def test_a_process_never_takes_its_own_lock_twice(tmp_path):
    """Closing the second descriptor would drop the first one's lock."""
    with FolderLock(tmp_path), pytest.raises(RuntimeError), FolderLock(tmp_path):
        pass
    with FolderLock(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_has_a_marker_for_one(tmp_path, monkeypatch, code):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lines = []
    with FolderLock(tmp_path, warn=lines.append):
        owner = json.loads((tmp_path / HELD).read_text())
        assert owner["pid"] == os.getpid() and "has no locks" in lines[0]
    assert not (tmp_path / HELD).exists()
    for host, pid in ((socket.gethostname(), 1), ("elsewhere", 2**22 + 1)):
        (tmp_path / HELD).write_text(json.dumps({"host": host, "pid": pid}))
        with pytest.raises(InputError, match=f"in use by process {pid} on {host}.*delete"), FolderLock(tmp_path):
            pass
    (tmp_path / HELD).write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))  # no such process
    with FolderLock(tmp_path):
        pass


def test_another_process_is_named_and_waited_for(tmp_path):
    with locked_by_another(tmp_path) as owner, pytest.raises(InputError, match=f"process {owner.pid} on"):
        FolderLock(tmp_path, wait=0.2).__enter__()
