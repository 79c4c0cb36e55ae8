"""Image file -> the small version and the facts of its header that the audit measures. JPEGs are decoded small."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

from data.colour import parse_profile
from data.images import FORMATS, decode_bytes, read_file, resize

WORK_SIDE = 1000  # pixels of the long side: a 4000-pixel JPEG at a quarter needs no further resizing
SRGB = "sRGB"


@dataclass(frozen=True)
class Small:
    """pixels: (h, w, 3) uint8 sRGB, upright, long side at most 1000. width, height: native, upright.

    orientation: the EXIF tag, 1 without a sound one. profile: name of the embedded ICC profile; "sRGB" also without one.
    """

    pixels: np.ndarray
    width: int
    height: int
    orientation: int
    profile: str


def read_small(path: str | Path) -> Small:
    """Read and shrink one image; DataError, as `images.decode` raises it, for what is no whole image."""
    content = read_file(path)
    scale = _jpeg_scale(content)
    pixels = decode_bytes(content, path, jpeg_scale=scale)
    # Only now: what cannot be decoded has been refused with a reason.
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        size, icc = image.size, image.info.get("icc_profile")
        tag = image.getexif().get(ExifTags.Base.Orientation)
    # A broken tag may hold anything that EXIF can: text, fractions, NaN.
    orientation = int(tag) if tag in range(1, 9) else 1
    width, height = size[::-1] if orientation in (5, 6, 7, 8) else size
    reduction = max(1.0, max(width, height) / WORK_SIDE)
    target = (max(1, round(width / reduction)), max(1, round(height / reduction)))
    pixels = resize(pixels, target, _covered(pixels, width / scale, height / scale, orientation))
    return Small(pixels, width, height, orientation, _profile_name(icc))


def _jpeg_scale(content: bytes) -> int:
    """The largest of 1, 2, 4, 8 at which a JPEG's long side keeps 1000 pixels; 1 for other files."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return next(scale for scale in (8, 4, 2, 1) if scale == 1 or max(image.size) >= scale * WORK_SIDE)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1  # no JPEG, or a broken one, which the decoder refuses with its own words


def _covered(pixels: np.ndarray, width: float, height: float, orientation: int) -> tuple[float, float, float, float]:
    """The box of `pixels` that the photo fills: sides are rounded up, before the image is turned upright."""
    rows, columns = pixels.shape[:2]
    left = columns - width if orientation in (2, 3, 6, 7) else 0
    top = rows - height if orientation in (3, 4, 7, 8) else 0
    return left, top, left + width, top + height


def _profile_name(icc: bytes | None) -> str:
    if not icc or parse_profile(icc) is None:
        return SRGB
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip()
    except (ImageCms.PyCMSError, OSError):
        name = ""  # littlecms is stricter than what converts the colours
    return name or "a profile without a name"
