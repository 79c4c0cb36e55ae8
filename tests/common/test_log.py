"""What a log and a writer say when the disk is full."""

import pytest

from common.files import write_bytes
from common.log import RunLog


def test_a_log_that_takes_no_more_lines_says_so_once_and_the_work_goes_on(tmp_path, capsys):
    log = RunLog(tmp_path / "train.log")
    log("first")
    (tmp_path / "train.log").unlink()
    (tmp_path / "train.log").symlink_to("/dev/full")
    log("second")
    log("third")
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["first", "second", "third"]
    assert shown.err.count("train.log") == shown.err.count("\n") == 1 and "No space left" in shown.err


def test_a_log_that_cannot_be_begun_is_an_error_with_its_path(tmp_path):
    (tmp_path / "train.log").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as fault:
        RunLog(tmp_path / "train.log")("first")
    assert fault.value.filename == str(tmp_path / "train.log")


def test_a_full_disk_is_told_with_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as fault:
        write_bytes(tmp_path / "state.pt", b"content")
    assert fault.value.filename == str(tmp_path / "state.pt") and not list(tmp_path.iterdir())
