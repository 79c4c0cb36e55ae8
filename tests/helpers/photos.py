"""Tiny photo pairs for tests: smooth random scenes, the source darker and colour-cast, saved as PNG."""

from pathlib import Path

import numpy as np
from PIL import Image

from common.files import write_jsonl


def scene(seed: int, width: int = 24, height: int = 20) -> np.ndarray:
    """A smooth uint8 (height, width, 3) picture; every seed gives another one."""
    small = np.random.default_rng(seed).integers(30, 250, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def darker(image: np.ndarray) -> np.ndarray:
    """The same picture as a camera would have it without retouching."""
    return (image * np.array([0.45, 0.5, 0.6])).astype(np.uint8)


def write_pairs(folder: Path, count: int, first_seed: int = 0, width: int = 24, height: int = 20) -> Path:
    """`count` pairs under `folder`, and its pairs.jsonl."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(first_seed, first_seed + count):
        tar = scene(seed, width, height)
        row = {side: f"images/{seed:03d}_{side}.png" for side in ("src", "tar")}
        Image.fromarray(darker(tar)).save(folder / row["src"])
        Image.fromarray(tar).save(folder / row["tar"])
        rows.append(row)
    write_jsonl(folder / "pairs.jsonl", rows)
    return folder / "pairs.jsonl"
