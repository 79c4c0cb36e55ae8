"""Runs of train_darkir_cv.py on a few tiny photos, in this process; the fixtures are made once for all test files."""

from pathlib import Path

import pytest

import create_data_splits
import train_darkir_cv
from common import signals
from tests.helpers.photos import write_pairs
from tests.helpers.run_records import differences, run_records

SMALL = ["--model_size", "tiny", "--resolution", "16", "--batch_size", "2", "--num_workers", "0", "--lambda_vgg", "0"]
SMALLEST = [*SMALL, "--epochs", "1", "--device", "cpu"]
# A run that reads and compares its rows and then ends with exit 2, by weights that are not there: for what it says of the rows.
ROWS_ALONE = ["--pretrained_path", "gone.pt", "--dry_run"]


@pytest.fixture(scope="session")
def two_folds(tmp_path_factory) -> Path:
    """9 pairs: 2 for the test, 2 folds of the other 7."""
    folder = tmp_path_factory.mktemp("photos")
    rows = write_pairs(folder, 9)
    flags = ["--test_size", "2", "--n_folds", "2", "--output_dir", str(folder / "split")]
    assert create_data_splits.main(["--input_jsonl", str(rows), *flags]) == 0
    return folder / "split"


@pytest.fixture(scope="session")
def finished_run(two_folds, tmp_path_factory) -> Path:
    """An uninterrupted run of both folds, two epochs each; a test must leave its checkpoints as they are."""
    output = tmp_path_factory.mktemp("run")
    assert train(two_folds, output, "--save_every", "1") == 0
    return output


@pytest.fixture(scope="session")
def finished_records(finished_run) -> dict[str, object]:
    """Every tensor and record of `finished_run`."""
    return run_records(finished_run)


def train(splits: Path, output: Path, *flags: str, epochs: int = 2) -> int:
    """Run the script on both folds."""
    argv = ["--data_splits_dir", str(splits), "--output_dir", str(output), "--epochs", str(epochs)]
    return train_darkir_cv.main([*argv, *SMALL, *flags])


def train_single(folder: Path, output: Path, *flags: str) -> int:
    """Run the script for one epoch on the rows of folder/pairs.jsonl, without folds."""
    argv = ["--train_jsonl", str(folder / "pairs.jsonl"), "--output_dir", str(output), "--epochs", "1"]
    return train_darkir_cv.main([*argv, *SMALL, *flags])


def stop_at(monkeypatch: pytest.MonkeyPatch, poll: int) -> None:
    """Pretend that SIGTERM came just before the `poll`-th time the run asks."""
    polls = iter(range(1, 10**6))
    monkeypatch.setattr(signals, "requested", lambda: "SIGTERM" if next(polls) >= poll else None)


def assert_same_results(records: dict[str, object], output: Path) -> None:
    """Every tensor and record of the run in `output` is that of `records`."""
    assert differences(records, run_records(output)) == []
