"""Content of one file of a FiveK pair -> upright sRGB pixels, and what kind of file it was."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from data import colour
from data.colour import ProfileError, parse_profile
from data.decoding.raw import develop, is_raw
from data.decoding.stated import directory_of, sound_exif
from data.deep_images import UnsupportedImage
from data.fivek.find import SourceFile
from data.images import DECODE_ERRORS, DNG_VERSION, FORMATS, decode_bytes, profile_of

DNG, RAW, JPEG = "dng", "raw", "jpeg"


@dataclass(frozen=True)
class Kind:
    """format: dng (or the ending of another raw file), jpeg, png, tiff, webp or bmp.

    size: (width, height) as stored, (0, 0) where only decoding tells.
    profile: raw, none, srgb (or within a code of it), matrix (converted exactly), table (littlecms, 8 bit), broken.
    captured: the camera's date and time, "" if unknown.
    """

    format: str
    size: tuple[int, int]
    profile: str
    captured: str


@dataclass(frozen=True)
class DecodedImage:
    """pixels: (H, W, 3) uint8 sRGB, upright, decoded at 1/scale of native_size (width, height)."""

    pixels: np.ndarray
    scale: int
    native_size: tuple[int, int]


def kind_of(content: bytes, file: SourceFile) -> Kind:
    """Look at the header. What no reader recognises is left to `read_image`, which says why."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            captured = _captured(image)
            if is_raw(file.path):
                return Kind(file.suffix.lstrip("."), (0, 0), RAW, captured)
            if image.format == "TIFF" and DNG_VERSION in image.tag_v2:
                return Kind(DNG, (0, 0), RAW, captured)
            name = {"MPO": JPEG}.get(image.format, image.format.lower())
            icc = image.info.get("icc_profile") if image.mode == "CMYK" else profile_of(image, content)
            return Kind(name, image.size, _profile_kind(icc), captured)
    except (UnidentifiedImageError, UnsupportedImage, *DECODE_ERRORS):
        # A real raw file may have a preview that Pillow does not know.
        return Kind(file.suffix.lstrip("."), (0, 0), RAW if is_raw(file.path) else "none", "")


def read_image(
    content: bytes,
    file: SourceFile,
    kind: Kind,
    *,
    jpeg_scale: int,
    long_side: int,
    auto_wb: bool,
    assume_prophoto: bool,
) -> DecodedImage:
    """Decode one file at full size, or smaller where its long side still reaches `long_side`.

    jpeg_scale applies to JPEG. Raises InputError naming the file, NeedsPackage when an optional extra is missing.
    """
    if kind.profile == RAW:
        pixels, scale = develop(content, file.path, long_side, auto_wb)
        return DecodedImage(pixels, scale, (pixels.shape[1] * scale, pixels.shape[0] * scale))
    untagged = colour.prophoto() if assume_prophoto else None
    pixels = decode_bytes(content, file.path, jpeg_scale=jpeg_scale, untagged=untagged)
    if kind.format != JPEG or jpeg_scale == 1:
        return DecodedImage(pixels, 1, pixels.shape[1::-1])
    upright = kind.size if pixels.shape[1] == -(-kind.size[0] // jpeg_scale) else kind.size[::-1]
    return DecodedImage(pixels, jpeg_scale, upright)


def _profile_kind(icc: bytes | None) -> str:
    if not icc:
        return "none"
    try:
        profile = parse_profile(icc)
    except ProfileError:
        return "broken"
    if profile is None:
        return "srgb"
    return "table" if profile.curves is None else "matrix"


def _captured(image: Image.Image) -> str:
    exif = sound_exif(image)
    taken = directory_of(exif, ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal) or exif.get(
        ExifTags.Base.DateTime
    )
    return taken.strip("\0 ") if isinstance(taken, str) else ""
