"""What a script says before it ends: one message, with the flag that named the file."""

import errno
import shutil
from pathlib import Path

import pytest

import create_data_splits
import train_darkir_cv
from common.errors import InputError, RunFailed
from common.exits import flagged, output_folder
from darkir.errors import ModelError
from engine.training import train as training
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


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path, capsys, monkeypatch):
    rows = write_pairs(tmp_path, 3)
    commands = {
        train_darkir_cv: ["--train_jsonl", rows, *SMALLEST],
        create_data_splits: ["--input_jsonl", rows, "--n_folds", 1, "--test_size", 1],
    }
    for script, flags in commands.items():
        argv = [str(word) for word in flags]
        assert script.main([*argv, "--output_dir", "/proc/none/run"]) == 2
        said = capsys.readouterr().err
        assert (
            said
            == "error: --output_dir /proc/none/run cannot be made (No such file or directory); name another folder\n"
        )
        with monkeypatch.context() as patch:
            patch.setattr("common.exits.os.access", lambda path, mode: False)
            assert script.main([*argv, "--output_dir", str(tmp_path / "run" / "a")]) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            f"error: --output_dir {tmp_path / 'run' / 'a'} cannot be written to: {tmp_path} does not let"
        )
        assert said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_an_output_folder_that_is_removed_meanwhile_is_told(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(RunFailed, match=f"--output_dir {folder} was removed"), output_folder("--output_dir", folder):
        (folder / "part").mkdir(parents=True)
        shutil.rmtree(folder)
        (folder / "part" / "file").write_text("")
    assert not folder.exists()


@pytest.mark.parametrize("removed", ["run", "."])
def test_a_training_whose_folder_is_removed_ends_and_writes_no_part_of_a_run(tmp_path, capsys, monkeypatch, removed):
    rows = write_pairs(tmp_path, 4)
    score = training.score

    def score_and_remove(*arguments):
        shutil.rmtree(tmp_path / "out" / removed)
        return score(*arguments)

    monkeypatch.setattr(training, "score", score_and_remove)
    folder = tmp_path / "out" / "run"
    argv = ["--train_jsonl", rows, "--output_dir", folder, *SMALLEST]
    assert train_darkir_cv.main([str(word) for word in argv]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"failed: {folder} was removed") and said.count("\n") == 1
    assert not folder.exists()
