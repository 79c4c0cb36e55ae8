"""What a script says before it ends: one message, with the flag that named the file."""

import errno
from pathlib import Path

import pytest

import create_data_splits
import train_darkir_cv
from common.errors import InputError
from common.exits import flagged
from darkir.errors import ModelError
from tests.helpers.photos import write_pairs
from tests.helpers.train_runs import SMALLEST


@pytest.mark.parametrize(
    ("message", "path", "is_named"),
    [
        ("a/b.jsonl does not exist", "a/b.jsonl", True),
        ("a/b.jsonl:3: not JSON", Path("./a/b.jsonl"), True),
        ("a/fold_1 holds a run", "a/", True),
        ("./none.txt does not exist", "./none.txt", True),
        ("two.pt: damaged", "one.pt", False),
        ("ab is missing", "a", False),
        ("--base_dir a is missing", "a", False),
        ("a is missing", None, False),
    ],
)
def test_an_error_about_the_path_of_a_flag_names_the_flag(message, path, is_named):
    for kind in (InputError, ModelError):
        with pytest.raises(ValueError) as caught, flagged("--flag", path):
            raise kind(message)
        assert str(caught.value) == (f"--flag {message}" if is_named else message)


def test_an_error_of_the_system_keeps_its_kind():
    with pytest.raises(NotADirectoryError) as caught, flagged("--output_dir", "a"):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/run")
    assert caught.value.filename == "--output_dir a/run"


def test_files_that_cannot_be_are_named_with_their_flag(tmp_path, capsys):
    rows = write_pairs(tmp_path, 3)
    long, file = tmp_path / ("x" * 300), tmp_path / "file"
    file.write_text("")
    training = {
        "--train_jsonl": ["--train_jsonl", tmp_path / "none.jsonl", "--output_dir", tmp_path / "run"],
        "--pretrained_path": ["--train_jsonl", rows, "--output_dir", tmp_path / "run", "--pretrained_path", long],
        "--output_dir": ["--train_jsonl", rows, "--output_dir", file / "run"],
    }
    for flag, argv in training.items():
        assert train_darkir_cv.main([str(word) for word in [*argv, *SMALLEST]]) == 2
        assert capsys.readouterr().err.startswith(f"error: {flag} {tmp_path}"), flag
    assert create_data_splits.main(["--input_dir", str(tmp_path / "none"), "--output_dir", str(tmp_path / "s")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --input_dir {tmp_path / 'none'}")
