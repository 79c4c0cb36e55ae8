"""HEIC of a phone or camera -> upright sRGB, by an optional extra: pillow-heif (libheif). Needs no torch."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from data.colour import ProfileError
from data.decoding.stated import UNSPECIFIED, coded_profile
from data.decoding.unread import AVIF_BRANDS, HEIC_BRANDS, NeedsPackage, brands_of
from data.decoding.upright import MAX_PIXELS, filled, to_upright_srgb
from data.deep_images import UnsupportedImage

HEIF_ENDINGS = frozenset({".heic", ".heif", ".hif"})
HEIF_INSTALL = "HEIC files need pillow-heif: pip install -r requirements-heif.txt"
HEIF_ERRORS = (ValueError, OSError, KeyError, IndexError, TypeError, RuntimeError, EOFError, SyntaxError, struct.error)
COLR_NCLX = b"colrnclx"


def is_heic(content: bytes) -> bool:
    """Whether the file opens as HEIC."""
    brands = brands_of(content)
    return bool(brands & HEIC_BRANDS) and not brands & AVIF_BRANDS  # both kinds may be called mif1 besides


@functools.lru_cache(maxsize=1)
def heif_version() -> str | None:
    """Version of pillow-heif, which carries its libheif; None without it."""
    try:
        return importlib.metadata.version("pillow-heif")
    except importlib.metadata.PackageNotFoundError:
        return None


def open_heic(content: bytes, name: str | Path) -> Any:
    """The first photo of a HEIC file, as pillow_heif.HeifFile, its samples with all their bits.

    Raises InputError naming the file when it is broken, NeedsPackage without pillow-heif.
    """
    if importlib.util.find_spec("pillow_heif") is None:
        raise NeedsPackage(f"{name}: {HEIF_INSTALL}, or save it as JPEG")
    import pillow_heif

    try:
        return pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=False)
    except HEIF_ERRORS as error:
        raise InputError(f"{name}: broken HEIC image: {error}") from None


def decode_heic(content: bytes, name: str | Path, untagged: bytes | None = None, dtype: type = np.uint8) -> np.ndarray:
    """A HEIC file as (H, W, 3) upright sRGB of `dtype`; libheif has turned it already, whatever its EXIF says.

    untagged: as in data.images. Raises InputError naming the file, NeedsPackage without pillow-heif.
    """
    image = open_heic(content, name)
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise InputError(f"{name}: more than {MAX_PIXELS // 10**6} megapixels")
    try:
        samples = np.asarray(image)
        samples = samples[..., None] if samples.ndim == 2 else samples
        bits = image.info.get("bit_depth", 8)
        if samples.dtype == np.uint16:
            samples = filled(samples >> (16 - bits), bits)  # pillow-heif leaves the low bits empty
        icc = image.info.get("icc_profile") or coded_colours(content) or untagged
        return to_upright_srgb(samples, False, icc, 1, dtype)
    except UnsupportedImage as error:
        raise InputError(f"{name}: {error}") from None
    except ProfileError as error:
        raise InputError(f"{name}: embedded ICC profile: {error}") from None
    except HEIF_ERRORS as error:
        raise InputError(f"{name}: broken HEIC image: {error}") from None


def coded_colours(content: bytes) -> bytes | None:
    """The ICC profile of the code points (`nclx`) of a HEIC or AVIF file; None for sRGB's, or without them.

    Raises UnsupportedImage for HDR.
    """
    place = content.find(COLR_NCLX)
    if place < 0 or place + 12 > len(content):
        return None
    primaries, transfer = struct.unpack_from(">HH", content, place + len(COLR_NCLX))
    return None if UNSPECIFIED in (primaries, transfer) else coded_profile(primaries, transfer)
