"""Small FiveK folders for tests, and a run of prepare_fivek_robust.py on them in this process."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

import prepare_fivek_robust
from tests.helpers import image_files
from tests.helpers.exits import refusal
from tests.helpers.photos import darker, scene

WIDTH, HEIGHT = 64, 48
SMALL = ("--min_resolution", "32", "--workers", "1")


def target(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture; every seed gives another one."""
    return scene(seed, width, height)


def source(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """The same picture before retouching."""
    return darker(scene(seed, width, height))


def encoded(image: np.ndarray | Image.Image, kind: str = "JPEG", **options) -> bytes:
    """The picture as a file's content; a JPEG of quality 95 unless told otherwise."""
    return image_files.encoded(image, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)


def put(folder: Path, name: str, content: bytes = b"x") -> Path:
    """Write one file below `folder`, in a folder made for it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_pairs(folder: Path, numbers, kind: str = "JPEG") -> Path:
    """Sound pairs in the layout of the user's guide; returns `folder`."""
    for number in numbers:
        name = f"a{number:04d}-photo {number % 3}.{kind.lower()}"
        put(folder, f"input/{name}", encoded(source(number), kind))
        put(folder, f"output_expert_C/{name}", encoded(target(number), kind))
    return folder


def run(fivek: Path, output: Path, *more) -> int:
    """The script's exit code."""
    argv = ["--fivek_dir", fivek, "--output_dir", output, *SMALL, *more]
    return prepare_fivek_robust.main([str(argument) for argument in argv])


def refused(capsys, *argv) -> str:
    """The message of a run that must end with exit code 2."""
    return refusal(capsys, prepare_fivek_robust.main, *argv)


def rows(output: Path, part: str) -> list[dict]:
    """The rows of train.jsonl or val.jsonl; none when there is no such file."""
    path = output / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keys(output: Path, part: str) -> set[str]:
    """The keys in train.jsonl or val.jsonl."""
    return {Path(row["src"]).name.removesuffix("_src.jpg") for row in rows(output, part)}


def rejected(output: Path) -> list[dict]:
    """The rows of rejected.csv."""
    with (output / "rejected.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def reason_of(output: Path, key: str) -> str:
    """Why a photo makes no pair, from rejected.csv; "" when it is not there."""
    return next((row["reason"] for row in rejected(output) if row["key"] == key), "")


def metadata(output: Path) -> dict:
    """dataset_metadata.json."""
    return json.loads((output / "dataset_metadata.json").read_text())


def record(output: Path, key: str) -> dict:
    """meta/KEY.json."""
    return json.loads((output / "meta" / f"{key}.json").read_text())


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below `folder`: content, and for images the time that rows record."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns if path.suffix == ".jpg" else 0)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
