"""What a script says before it ends: one message, with the flag that named the file."""

import pytest

import create_data_splits
import train_darkir_cv
from common.exits import with_flag
from tests.helpers.photos import write_pairs
from tests.helpers.train_runs import SMALLEST


@pytest.mark.parametrize(
    ("message", "words", "flag"),
    [
        ("a/b.jsonl does not exist", ["--x", "1", "--train_jsonl", "a/b.jsonl"], "--train_jsonl"),
        ("a/b.jsonl:3: not JSON", ["--train_jsonl=a/b.jsonl"], "--train_jsonl"),
        ("a/fold_1: Not a directory", ["--output_dir", "./a/"], "--output_dir"),
        ("two.pt: damaged", ["--checkpoint", "one.pt", "two.pt", "--tta"], "--checkpoint"),
        ("1 pairs are too few", ["--fold", "12"], None),
        ("--fold 3: there are 2", ["--fold", "3"], None),
        ("ab is missing", ["--output_dir", "a"], None),
        ("tta is no file", ["--tta"], None),
    ],
)
def test_the_flag_is_the_one_whose_path_the_message_begins_with(message, words, flag):
    assert with_flag(message, words) == (message if flag is None else f"{flag} {message}")


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
