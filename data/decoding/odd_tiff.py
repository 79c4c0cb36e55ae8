"""TIFF of a kind that Pillow does not read -> upright sRGB, by an optional extra: tifffile.

It reads separate planes, big-endian BigTIFF, gray with alpha, further channels, and more. Needs no torch.
"""

from __future__ import annotations

import importlib.util
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from data.colour import ProfileError
from data.decoding.tiff_tags import CONVERT_TIFF, tiff_kind
from data.decoding.unread import NeedsPackage
from data.decoding.upright import MAX_PIXELS, filled, to_upright_srgb

TIFF_INSTALL = "Or let tifffile read it: pip install -r requirements-fivek.txt"
ORIENTATION, ICC_PROFILE = 274, 34675  # TIFF tags
COLOURS = {"MINISWHITE": 1, "MINISBLACK": 1, "RGB": 3, "SEPARATED": 4}  # and how many samples they are
PREMULTIPLIED, STRAIGHT = 1, 2
TIFFFILE_ERRORS = (ValueError, OSError, KeyError, IndexError, TypeError, RuntimeError, struct.error, zlib.error)


def decode_odd_tiff(
    content: bytes, name: str | Path, untagged: bytes | None = None, dtype: type = np.uint8
) -> np.ndarray:
    """First page of an RGB, gray or CMYK TIFF of up to 16 bits as (H, W, 3) upright sRGB of `dtype`.

    untagged: as in data.images. Raises InputError naming the file, with its kind and how to convert it: another kind, a compression
    that tifffile alone cannot undo, or broken; NeedsPackage without tifffile.
    """
    kind = tiff_kind(content)
    if not kind:
        raise InputError(f"{name}: broken image: a TIFF without a sound directory")
    if importlib.util.find_spec("tifffile") is None:
        raise NeedsPackage(f"{name}: {kind} is not read by Pillow; {CONVERT_TIFF}. {TIFF_INSTALL}")
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages[0]
            if page.imagewidth * page.imagelength > MAX_PIXELS:
                raise InputError(f"{name}: more than {MAX_PIXELS // 10**6} megapixels")
            icc, orientation = (page.tags.valueof(number) for number in (ICC_PROFILE, ORIENTATION))
            colours, bits = page.photometric.name, page.bitspersample
            extras = [int(extra) for extra in page.extrasamples]
            is_readable = colours in COLOURS and page.dtype is not None and page.dtype.kind in "ub" and bits <= 16
            if not is_readable or PREMULTIPLIED in extras or page.subsampling not in (None, (1, 1)):
                raise InputError(f"{name}: {kind} is not read; {CONVERT_TIFF}")
            _refuse_gaps(page, len(content))
            samples = page.asarray()
            samples = np.moveaxis(samples, page.axes.index("S"), -1) if "S" in page.axes else samples[..., None]
    except InputError:
        raise
    except TIFFFILE_ERRORS as error:
        raise InputError(f"{name}: {kind}: tifffile cannot read it ({error}); {CONVERT_TIFF}") from None
    count = COLOURS[colours]
    if samples.ndim != 3 or samples.shape[2] != count + len(extras):
        raise InputError(f"{name}: {kind} with samples of shape {samples.shape} is not read; {CONVERT_TIFF}")
    samples = filled(samples, bits)
    if colours == "MINISWHITE":
        samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
    if STRAIGHT in extras and colours != "SEPARATED":
        place = count + extras.index(STRAIGHT)
        samples = np.concatenate([samples[..., :count], samples[..., place : place + 1]], axis=2)
    else:
        samples = samples[..., :count]
    is_cmyk = colours == "SEPARATED"
    try:
        icc = icc or (None if is_cmyk else untagged)
        return to_upright_srgb(samples, is_cmyk, icc, orientation or 1, dtype)
    except ProfileError as error:
        raise InputError(f"{name}: embedded ICC profile: {error}") from None


def _refuse_gaps(page: Any, size: int) -> None:
    """ValueError where strips or tiles are missing or lie beyond the file's end: tifffile would fill them with black."""
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    is_short = page.compression == 1 and sum(count for _, count in parts) < page.nbytes
    if (
        len(parts) != math.prod(page.chunked)
        or is_short
        or any(not 0 < count <= size - start for start, count in parts)
    ):
        raise ValueError("strips or tiles are missing")
