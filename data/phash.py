"""Perceptual hash of an image, and the search for rows whose images look the same.

pHash: the signs of the 8 x 8 lowest DCT frequencies of a 32 x 32 luma against their median (Zauner, "Implementation and
benchmarking of perceptual image hash functions", 2010, section 3.2.1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 32
KEPT = 8
MAX_BITS = 6
FLAT_STD = 2.0  # in 8-bit codes; below it the signs are those of noise
BLOCK = 1024
_STEPS = np.arange(SIDE)
DCT = np.cos(np.pi * np.outer(np.arange(KEPT), 2 * _STEPS + 1) / (2 * SIDE))


class NearDuplicate(NamedTuple):
    """Two rows by index (first < second), and how many bits their src and tar hashes differ."""

    first: int
    second: int
    src_bits: int
    tar_bits: int


def perceptual_hash(image: np.ndarray) -> int | None:
    """64-bit hash of (H, W, 3) uint8 sRGB; None when the image is flat (luma varies by less than 2 codes)."""
    luma = np.asarray(Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    if luma.std() < FLAT_STD:
        return None
    frequencies = (DCT @ luma @ DCT.T).ravel()
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")


def near_duplicates(src_hashes: list[int | None], tar_hashes: list[int | None]) -> list[NearDuplicate]:
    """All pairs of rows whose src and tar hashes both differ by at most 6 bits; rows with a flat image are left out."""
    kept = [row for row, hashes in enumerate(zip(src_hashes, tar_hashes, strict=True)) if None not in hashes]
    src = np.array([src_hashes[row] for row in kept], dtype=np.uint64)
    tar = np.array([tar_hashes[row] for row in kept], dtype=np.uint64)
    found = []
    for start in range(0, len(kept), BLOCK):
        close = np.bitwise_count(src[start : start + BLOCK, None] ^ src[None, start:]) <= MAX_BITS
        rows, columns = (side + start for side in np.nonzero(close))
        # Few rows pass the first test, so that the second one costs nothing.
        src_bits = np.bitwise_count(src[rows] ^ src[columns])
        tar_bits = np.bitwise_count(tar[rows] ^ tar[columns])
        hits = np.nonzero((rows < columns) & (tar_bits <= MAX_BITS))[0]
        found += [
            NearDuplicate(kept[rows[hit]], kept[columns[hit]], int(src_bits[hit]), int(tar_bits[hit])) for hit in hits
        ]
    return found
