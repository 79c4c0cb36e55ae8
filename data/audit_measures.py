"""One pair of photos -> numbers that tell whether it looks right. Opens each image once, at a fraction of its size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.audit_alignment import Alignment, align
from data.audit_small import Small, read_small
from data.audit_structure import best_turn, local_structure, similarity
from data.manifest import Pair
from data.phash import perceptual_hash

LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255
THUMB_SIDE = 128
SAME_SCENE = 0.45  # similarity of structure
SAME_TURNED = 0.55
WHITE, NEARLY_WHITE = 250, 235  # second highest channel of a pixel
PSNR_CAP_DB = 100.0
CHANGES = ("brightness", "dark end", "bright end", "saturation", "contrast", "detail", "white")


@dataclass(frozen=True)
class Side:
    """One image: native size (upright), EXIF orientation, name of the ICC profile, perceptual hash, share of white."""

    width: int
    height: int
    orientation: int
    profile: str
    phash: int | None
    white: float


@dataclass(frozen=True)
class Measures:
    """alignment: of tar on src, in native pixels of src; None when they cannot be aligned.

    pixel: native pixels that one measured pixel stands for.

    structure: similarity of the local structure, -1 to 1, after alignment; None when one image is flat.
    turned: what was done to tar, when undoing it makes it fit src; else None.
    lost_in_tar: share of the frame that is white in tar and not nearly so in src; lost_in_src: the other way round.
    psnr: src against tar, dB.
    change: from src to tar, in the order of CHANGES; brightness in stops, the others as parts of the range.
    """

    src: Side
    tar: Side
    alignment: Alignment | None
    pixel: float
    structure: float | None
    turned: str | None
    lost_in_tar: float
    lost_in_src: float
    psnr: float
    change: tuple[float, ...]

    @property
    def same_size(self) -> bool:
        return (self.src.width, self.src.height) == (self.tar.width, self.tar.height)


def measure(pair: Pair) -> Measures:
    """Read both images of `pair` and compare them; DataError for an image that cannot be read."""
    return compare(read_small(pair.src_path), read_small(pair.tar_path))


def compare(src: Small, tar: Small) -> Measures:
    """Measure a pair that has been read; a tar of another size is stretched to that of src."""
    height, width = src.pixels.shape[:2]
    stretched = _sized(tar.pixels, (width, height))
    lumas = [pixels @ LUMA for pixels in (src.pixels, stretched)]
    alignment = align(*lumas)
    structure = _structure(*lumas, alignment)
    thumbs = [_sized(pixels, _thumb_size(width, height)) for pixels in (src.pixels, stretched)]
    whites = [_second_channel(thumb) for thumb in thumbs]
    pixel = src.width / width
    return Measures(
        _side(src, whites[0]),
        _side(tar, whites[1]),
        alignment.scaled(pixel) if alignment else None,
        pixel,
        structure,
        _turned(src.pixels, tar.pixels) if structure is not None and structure < SAME_SCENE else None,
        float(((whites[1] >= WHITE) & (whites[0] < NEARLY_WHITE)).mean()),
        float(((whites[0] >= WHITE) & (whites[1] < NEARLY_WHITE)).mean()),
        _psnr(src.pixels, stretched),
        tuple((_look(thumbs[1]) - _look(thumbs[0])).tolist()),
    )


def _structure(src: np.ndarray, tar: np.ndarray, alignment: Alignment | None) -> float | None:
    """Similarity as they are or after alignment, whichever is higher: an alignment may have been found by chance."""
    size = _thumb_size(src.shape[1], src.shape[0])
    first, second = (local_structure(_sized(luma, size)) for luma in (src, tar))
    found = [similarity(first, second)]
    if alignment is not None:
        found.append(similarity(first, second, alignment.scaled(size[0] / src.shape[1])))
    return max((value for value in found if value is not None), default=None)


def _turned(src: np.ndarray, tar: np.ndarray) -> str | None:
    square = (THUMB_SIDE, THUMB_SIDE)
    name, fit = best_turn(*(local_structure(_sized(pixels, square) @ LUMA) for pixels in (src, tar)))
    return name if fit >= SAME_TURNED else None


def _side(small: Small, second_channel: np.ndarray) -> Side:
    white = float((second_channel >= WHITE).mean())
    return Side(small.width, small.height, small.orientation, small.profile, perceptual_hash(small.pixels), white)


def _look(thumb: np.ndarray) -> np.ndarray:
    """How bright, colourful and contrasted (H, W, 3) uint8 is: the numbers behind CHANGES."""
    luma = thumb @ LUMA
    low, high = np.percentile(luma, (10, 90))
    saturation = (thumb.max(axis=2).astype(np.float32) - thumb.min(axis=2)).mean() / 255
    detail = np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()
    white = (_second_channel(thumb) >= WHITE).mean()
    return np.array([np.log2(luma.mean() + 0.01), low, high, saturation, luma.std(), detail, white])


def _second_channel(pixels: np.ndarray) -> np.ndarray:
    """The middle one of three channels: where it is at the top, at most one channel still tells something."""
    return pixels.sum(axis=2, dtype=np.int16) - pixels.max(axis=2) - pixels.min(axis=2)


def _psnr(src: np.ndarray, tar: np.ndarray) -> float:
    error = np.subtract(src, tar, dtype=np.float32).ravel()
    mean = float(error @ error) / error.size
    return PSNR_CAP_DB if mean == 0 else min(PSNR_CAP_DB, float(10 * np.log10(255**2 / mean)))


def _thumb_size(width: int, height: int) -> tuple[int, int]:
    reduction = max(1.0, max(width, height) / THUMB_SIDE)
    # Detail is a difference of neighbours: it takes two.
    return max(2, round(width / reduction)), max(2, round(height / reduction))


def _sized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if size == image.shape[1::-1]:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
