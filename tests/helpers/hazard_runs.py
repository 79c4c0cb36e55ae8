"""Training and evaluation of one tiny model in this process, on a few photos of their own."""

import json
from pathlib import Path

import pytest

import evaluate_darkir_test
import train_darkir_cv
from common.files import write_jsonl
from tests.helpers.photos import write_pairs
from tests.helpers.train_runs import SMALLEST


@pytest.fixture(scope="session")
def own_photos(tmp_path_factory) -> Path:
    """Eight pairs: four for training, two for validation, two that nothing has seen; nothing is written beside them."""
    folder = tmp_path_factory.mktemp("own_photos")
    rows = [json.loads(line) for line in write_pairs(folder, 8, first_seed=400).read_text().splitlines()]
    for name, part in (("train", rows[:4]), ("val", rows[4:6]), ("test", rows[6:])):
        write_jsonl(folder / f"{name}.jsonl", part)
    return folder


def train(folder: Path, output: Path, *flags, rows: str = "train.jsonl") -> int:
    """Train for one epoch on the rows of `folder`; the exit code."""
    argv = ["--train_jsonl", folder / rows, "--output_dir", output, *SMALLEST, *flags]
    return train_darkir_cv.main([str(argument) for argument in argv])


def evaluate(weights: Path, rows: Path, output: Path, *flags) -> int:
    """Evaluate one checkpoint on the pairs of `rows`; the exit code."""
    argv = ["--checkpoint", weights, "--test_jsonl", rows, "--output_dir", output, "--num_workers", 0, *flags]
    return evaluate_darkir_test.main([str(argument) for argument in argv])
