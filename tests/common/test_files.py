"""Files that appear whole or not at all: what a full disk leaves, and writers that know nothing of each other."""

import pytest

from common.files import atomic_output, write_bytes


def test_a_full_disk_is_told_with_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as fault:
        write_bytes(tmp_path / "state.pt", b"content")
    assert fault.value.filename == str(tmp_path / "state.pt") and not list(tmp_path.iterdir())


def test_writers_with_one_process_id_do_not_meet_in_one_temporary_file(tmp_path):
    """As in containers, each of which counts its processes from 1."""
    with atomic_output(tmp_path / "report.html") as one, atomic_output(tmp_path / "report.html") as other:
        one.write_text("one")
        other.write_text("other")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "one"
