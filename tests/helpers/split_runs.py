"""Runs of create_data_splits.py in this process, and a small set of photos for them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import create_data_splits
from tests.helpers.exits import refusal
from tests.helpers.image_files import make_pairs, noise, save, write_rows


def run(*argv) -> int:
    """The script's exit code."""
    return create_data_splits.main([str(argument) for argument in argv])


def rows(path: Path) -> list[dict]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refused(capsys, *argv) -> str:
    """The message of a run that must end with exit code 2."""
    return refusal(capsys, create_data_splits.main, *argv)


@pytest.fixture
def rooms(tmp_path) -> Path:
    """A folder with photos/: 24 pairs, of which 12 belong to three rooms of 4."""
    groups = {number: f"room {number // 4}" for number in range(12)}
    make_pairs(tmp_path / "photos", 24, groups)
    return tmp_path


def rooms_argv(rooms: Path, *more) -> tuple:
    """The arguments that split the pairs of `rooms` into its folder s/, with 5 of them as the test set."""
    return ("--input_jsonl", rooms / "photos/pairs.jsonl", "--output_dir", rooms / "s", "--test_size", 5, *more)


def add_near_duplicate(photos: Path) -> None:
    """Two more pairs: photo-like ones, the second a recompressed copy of the first."""
    names = []
    for number, quality in ((90, 95), (91, 60)):
        names.append({side: f"images/{number}_{side}.jpg" for side in ("src", "tar")})
        for seed, side in enumerate(("src", "tar")):
            image = np.asarray(Image.fromarray(noise(seed + 900, 8, 6)).resize((64, 48), Image.Resampling.BICUBIC))
            save(image, photos / names[-1][side], quality=quality)
    write_rows(photos / "pairs.jsonl", rows(photos / "pairs.jsonl") + names)


def sides(folder: Path, fold: int, *srcs: str) -> list[str]:
    """Where the split in `folder` has put the photos: "test", "train" or "val"."""
    names = {"test": "test.jsonl", "train": f"fold_{fold}/train.jsonl", "val": f"fold_{fold}/val.jsonl"}
    side = {row["src"]: part for part, name in names.items() for row in rows(folder / name)}
    return [side[src] for src in srcs]
