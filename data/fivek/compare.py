"""Two images -> do they show the same thing, which part of it do both show, and in which one size do they leave?

A raw decoder gives a border of pixels that the rendition lacks; a rendition may be scaled, or turned against the raw
file's own flag. What differs by more than that was cropped by the expert, or is another photo. Pure functions.

Whether two images show the same thing is the correlation of the gradients of 64 x 64 luma thumbnails. Measured on FiveK:
input against rendition at least 0.90, two experts at least 0.80, different photos at most 0.05, one turned at most 0.05,
shifted by 1 % 0.68.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

BORDER = 0.015  # measured: 96 of 100 FiveK pairs differ by about 0.7 %
ASPECT = 0.01
THUMB_SIZE = (64, 64)
REJECT_BELOW, WARN_BELOW = 0.5, 0.75
FLAT = 1e-3  # mean absolute gradient in 8-bit codes
FILLED_ROWS = THUMB_SIZE[1] // 8
ONE_COLOUR, DETAIL = 1.5, 15.0  # range of a band in 8-bit codes
MID_TONES = (16.0, 240.0)  # a clipped sky or a black floor is no filling

Size = tuple[int, int]
Box = tuple[float, float, float, float]


class Fit(NamedTuple):
    """How a pair is brought together. kind: equal, border, scaled. The boxes (left, top, right, bottom) have one aspect."""

    kind: str
    input_box: Box
    target_box: Box


def is_transposed(input_size: Size, target_size: Size) -> bool:
    """Whether the two fit only when one of them is turned by a quarter."""
    return fit(input_size, target_size) is None and fit(input_size[::-1], target_size) is not None


def fit(input_size: Size, target_size: Size) -> Fit | None:
    """The part that two images of sizes (width, height) show in common, centred; None when their shapes disagree."""
    if input_size == target_size:
        return Fit("equal", (0, 0, *input_size), (0, 0, *target_size))
    across, down = (one / other for one, other in zip(input_size, target_size, strict=True))
    if abs(across / down - 1) > ASPECT:
        return None
    if max(abs(across - 1), abs(down - 1)) <= BORDER:
        common = (min(input_size[0], target_size[0]), min(input_size[1], target_size[1]))
        return Fit("border", _centred(input_size, common), _centred(target_size, common))
    # One is a scaled copy: the aspect differs by rounding, or by a border on one axis.
    scale = min(across, down)
    part = (target_size[0] * scale, target_size[1] * scale)
    left, top = (input_size[0] - part[0]) / 2, (input_size[1] - part[1]) / 2
    return Fit("scaled", (left, top, left + part[0], top + part[1]), (0, 0, *target_size))


def output_size(common: Fit, max_resolution: int) -> Size:
    """(width, height) in which both leave: the smaller of the two parts, its long side at most `max_resolution`."""
    boxes = (common.input_box, common.target_box)
    width, height = min(((right - left, bottom - top) for left, top, right, bottom in boxes), key=max)
    scale = min(1.0, max_resolution / max(width, height))
    return int(width * scale + 0.5), int(height * scale + 0.5)


def _centred(size: Size, part: Size) -> Box:
    # Whole pixels: half a pixel would blur a part that is only cut out.
    left, top = (size[0] - part[0]) // 2, (size[1] - part[1]) // 2
    return (left, top, left + part[0], top + part[1])


def correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Correlation of two images (H, W, 3) uint8, of any sizes; None when one of them is flat."""
    gradients = [
        np.concatenate([np.diff(luma, axis=1).ravel(), np.diff(luma, axis=0).ravel()])
        for luma in (_luma(first), _luma(second))
    ]
    if min(np.abs(gradient).mean() for gradient in gradients) < FLAT:
        return None
    return float(np.corrcoef(gradients[0], gradients[1])[0, 1])


def has_filled_edge(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether an eighth of one image, along an edge, is a single mid-tone where the other one has detail.

    A decoder that gives up in the middle of a file fills the rest so; the correlation of what is left can be high.
    """
    lumas = (_luma(first), _luma(second))
    for quarter in range(4):
        bands = [np.rot90(luma, quarter)[:FILLED_ROWS] for luma in lumas]
        ranges = [band.max() - band.min() for band in bands]
        for band, own, other in zip(bands, ranges, ranges[::-1], strict=True):
            if own <= ONE_COLOUR and other >= DETAIL and MID_TONES[0] < band.mean() < MID_TONES[1]:
                return True
    return False


def saturation(image: np.ndarray) -> float:
    """Mean over a thumbnail of (largest - smallest channel) / 255."""
    small = np.asarray(Image.fromarray(image).resize(THUMB_SIZE, Image.Resampling.BOX), dtype=np.float64)
    return float((small.max(axis=2) - small.min(axis=2)).mean() / 255)


def _luma(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image).convert("L").resize(THUMB_SIZE, Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)
