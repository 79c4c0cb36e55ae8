"""What a log says when it takes no more lines."""

import pytest

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
