"""Sizes of an input and its target -> the same part of both, and the one size in which they leave.

A raw decoder gives a border of pixels that the rendition lacks; a rendition may be scaled, or turned against the raw
file's own flag. What differs by more than that was cropped by the expert, or is another photo. Pure functions.
"""

from __future__ import annotations

from typing import NamedTuple

BORDER = 0.015  # measured: 96 of 100 FiveK pairs differ by about 0.7 %
ASPECT = 0.01

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
    long = max(width, height)
    scale = min(1.0, max_resolution / long)
    return int(width * scale + 0.5), int(height * scale + 0.5)


def _centred(size: Size, part: Size) -> Box:
    # Whole pixels: half a pixel would blur a part that is only cut out.
    left, top = (size[0] - part[0]) // 2, (size[1] - part[1]) // 2
    return (left, top, left + part[0], top + part[1])
