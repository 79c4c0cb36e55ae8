"""Samples as a file stores them -> upright sRGB, alpha composited on white: the same for whatever reader decoded the file."""

from __future__ import annotations

import numpy as np
from PIL import Image

from data.colour import ProfileError, change_depth, parse_profile, to_srgb

MAX_PIXELS = 200_000_000


def to_upright_srgb(samples: np.ndarray, is_cmyk: bool, icc: bytes | None, orientation: int, dtype: type) -> np.ndarray:
    """Samples as a file stores them -> (H, W, 3) upright sRGB of `dtype` (uint8 or uint16), alpha composited on white.

    samples: (H, W, C) uint8 or uint16; C is 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA, or CMYK if `is_cmyk`.
    Raises ProfileError when `icc` does not fit.
    """
    has_alpha = not (is_cmyk or samples.shape[2] in (1, 3))
    colours, alpha = (samples[..., :-1], samples[..., -1:]) if has_alpha else (samples, None)
    # Deep samples are mixed with white before they are rounded to 8 bits.
    depth = dtype if alpha is None or samples.dtype == np.uint8 else samples.dtype.type
    result = _as_srgb(colours, is_cmyk, icc, depth)
    if alpha is not None:
        result = change_depth(_on_white(result, change_depth(alpha, depth)), dtype)
    return _oriented(result, orientation)


def filled(samples: np.ndarray, bits: int) -> np.ndarray:
    """Samples of 1 to 16 bits -> uint8, or uint16 for more than 8 bits, scaled with rounding to the whole range."""
    top, dtype = 2**bits - 1, np.uint8 if bits <= 8 else np.uint16
    if bits in (8, 16):
        return samples.astype(dtype)
    return ((samples.astype(np.uint32) * np.iinfo(dtype).max + top // 2) // top).astype(dtype)


def _as_srgb(samples: np.ndarray, is_cmyk: bool, icc: bytes | None, dtype: type) -> np.ndarray:
    """(H, W, 1, 3 or 4 = CMYK) -> (H, W, 3) sRGB of `dtype`."""
    space = "CMYK" if is_cmyk else {1: "GRAY", 3: "RGB"}[samples.shape[2]]
    profile = parse_profile(icc) if icc else None
    if profile is not None and (space, profile.space) == ("GRAY", "RGB"):
        samples, space = np.repeat(samples, 3, axis=2), "RGB"
    if profile is not None and space == "RGB" and profile.space == "GRAY":
        raise ProfileError("it is for gray images, but the image has colours")
    if profile is not None and (space == "CMYK") != (profile.space == "CMYK"):
        raise ProfileError(f"it is for {profile.space}, but the image is {space}")
    if profile is not None:
        return to_srgb(samples, profile, dtype)
    if is_cmyk:
        samples = np.asarray(Image.fromarray(change_depth(samples, np.uint8), mode="CMYK").convert("RGB"))
    samples = change_depth(samples, dtype)
    return np.repeat(samples, 3, axis=2) if space == "GRAY" else samples


def _on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite (H, W, 3) on white by (H, W, 1) alpha of the same depth, rounded."""
    top = int(np.iinfo(colours.dtype).max)
    if alpha.min() == top:
        return colours
    weight = alpha.astype(np.uint64)
    mixed = (colours * weight + top * (top - weight) + top // 2) // top
    return mixed.astype(colours.dtype)


def _oriented(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn the array upright by EXIF orientation 1 to 8 (values outside mean 1); the result is contiguous."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)
