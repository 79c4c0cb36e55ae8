"""TIFF of a kind that Pillow does not read -> sRGB, by tifffile (an optional extra): planes, big-endian BigTIFF and the like."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from pathlib import Path

import numpy as np

from data.colour import ProfileError
from data.errors import DataError
from data.images import MAX_PIXELS, to_upright_srgb

ORIENTATION, ICC_PROFILE = 274, 34675
OPENINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
INSTALL = "tifffile reads more kinds of TIFF: pip install -r requirements-fivek.txt"


def has_tifffile() -> bool:
    """Whether the optional extra is installed; it is imported only when a file needs it."""
    return importlib.util.find_spec("tifffile") is not None


def is_tiff(content: bytes) -> bool:
    """Whether the file opens as TIFF or BigTIFF."""
    return content.startswith(OPENINGS)


def decode_odd_tiff(content: bytes, name: str | Path, untagged: bytes | None = None) -> np.ndarray:
    """First page of an RGB or gray TIFF of 8 or 16 bits as (H, W, 3) uint8 upright sRGB; `untagged` as in data.images.

    Raises DataError naming the file: not such a TIFF, a compression that tifffile alone cannot undo, or broken.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages[0]
            if page.imagewidth * page.imagelength > MAX_PIXELS:
                raise DataError(f"{name}: more than {MAX_PIXELS // 10**6} megapixels")
            samples = page.asarray()
            tags = {number: page.tags[number].value for number in (ORIENTATION, ICC_PROFILE) if number in page.tags}
            axes, photometric = page.axes, page.photometric.name
    except DataError:
        raise
    except (ValueError, OSError, KeyError, IndexError, TypeError, RuntimeError, struct.error, zlib.error) as error:
        raise DataError(f"{name}: TIFF that tifffile cannot read either: {error}") from None
    if samples.dtype not in (np.uint8, np.uint16) or photometric not in ("RGB", "MINISBLACK"):
        raise DataError(f"{name}: TIFF with {samples.dtype} samples of kind {photometric}; 8- or 16-bit RGB is read")
    samples = np.moveaxis(samples, axes.index("S"), -1) if "S" in axes else samples[..., None]
    if samples.ndim != 3 or samples.shape[2] > 4:
        raise DataError(f"{name}: TIFF with axes {axes} {samples.shape}; one page of 1 to 4 channels is read")
    try:
        icc = tags.get(ICC_PROFILE) or untagged
        return to_upright_srgb(samples, False, icc, tags.get(ORIENTATION, 1), np.uint8)
    except ProfileError as error:
        raise DataError(f"{name}: embedded ICC profile: {error}") from None
