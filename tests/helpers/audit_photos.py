"""Textured pictures for the audit's tests, their sources with another exposure, colour and noise, and files of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from common.files import write_jsonl
from data.audit.measures import Measures, Small, compare

SIZE = (168, 128)


def picture(seed: int, size: tuple[int, int] = SIZE, zoom: float = 1.0) -> np.ndarray:
    """(height, width, 3) uint8 with edges and texture of several sizes; zoom 4 draws the same picture 4 times larger."""
    random = np.random.default_rng(seed)
    size = (round(size[0] * zoom), round(size[1] * zoom))
    total = np.zeros((size[1], size[0], 3), np.float32)
    for cells, strength in ((4, 40), (12, 30), (40, 25), (80, 15)):
        small = (128 + random.normal(0, strength, (cells, cells, 3))).clip(0, 255).astype(np.uint8)
        total += np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC), np.float32) - 128
    return (total + 128).clip(4, 244).astype(np.uint8)


def as_shot(image: np.ndarray, seed: int = 0, gain: float = 0.4) -> np.ndarray:
    """Darker, with a colour cast, another tone curve and noise."""
    shot = 255 * (image / 255 * np.array([gain, gain * 1.1, gain * 1.3])) ** 1.1
    return (shot + np.random.default_rng(seed).normal(0, 1.5, image.shape)).clip(0, 255).astype(np.uint8)


def small(pixels: np.ndarray, profile: str = "sRGB", orientation: int = 1, times: int = 1) -> Small:
    """An image as if it had been read, `times` as large in its file."""
    height, width = pixels.shape[:2]
    return Small(pixels, width * times, height * times, orientation, profile)


def measures_of(src: np.ndarray, tar: np.ndarray) -> Measures:
    return compare(small(src), small(tar))


def write_photos(folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Path:
    """Save (src, tar) pictures as PNG below `folder`; returns its pairs.jsonl."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, sides in enumerate(pairs):
        row = {side: f"images/{number:02d}_{side}.png" for side in ("src", "tar")}
        for name, image in zip(row.values(), sides, strict=True):
            Image.fromarray(image).save(folder / name, compress_level=1)
        rows.append(row)
    write_jsonl(folder / "pairs.jsonl", rows)
    return folder / "pairs.jsonl"
