"""A photo file -> its upright sRGB pixels with all their bits, and what should stay of its EXIF. Needs no torch."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from data.deep_images import is_deep
from data.errors import DataError
from data.images import DECODE_ERRORS, FORMATS, decode_bytes, read_file
from data.raw import INSTALL, develop, has_rawpy

RAW_ENDINGS = (".dng",)
ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", *RAW_ENDINGS)
RAW = "DNG"
# Of the first directory only what describes the photo; sizes, offsets and compression belong to the old file.
DESCRIBING = (
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright),
)
# What Pillow's EXIF writer raises for a value that does not fit its tag.
WRITE_ERRORS = (TypeError, AttributeError, ValueError, OverflowError, struct.error)
COLOR_SPACE, PIXEL_WIDTH, PIXEL_HEIGHT, SRGB = 40961, 40962, 40963, 1


@dataclass(frozen=True)
class Photo:
    """pixels: (H, W, 3) uint8, or uint16 when the file has more than 8 bits, upright sRGB. kind: JPEG, PNG, TIFF, ..., DNG."""

    pixels: np.ndarray
    kind: str
    exif: Image.Exif


def read_photo(path: Path) -> Photo:
    """Read a photo at native size. Raises DataError naming the file when it is no whole photo, or a DNG without rawpy."""
    content = read_file(path)
    if path.suffix.lower() in RAW_ENDINGS:
        if not has_rawpy():
            raise DataError(f"{path}: {INSTALL}")
        pixels, _ = develop(content, path, deep=True)
        return Photo(pixels, RAW, _kept(_exif_of_tiff(content)))
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            kind, deep, exif = image.format, is_deep(image), _kept(image.getexif())
    except DECODE_ERRORS:
        kind, deep, exif = "", False, Image.Exif()  # decode_bytes has the better message
    return Photo(decode_bytes(content, path, dtype=np.uint16 if deep else np.uint8), kind, exif)


def _exif_of_tiff(content: bytes) -> Image.Exif:
    """What a DNG says of itself: it is a TIFF, whose entries are EXIF's. LibRaw has found it sound before."""
    exif = Image.Exif()
    exif.load(content)
    return exif


def _kept(exif: Image.Exif) -> Image.Exif:
    """What stays true of the restored photo: not the orientation, which is applied, nor the thumbnail or the old file's layout.

    Broken entries, such as text in the place of a fraction, are left out.
    """
    kept = Image.Exif()
    for tag in DESCRIBING:
        if tag in exif and _is_writable({tag: _exact(exif[tag])}):
            kept[tag] = _exact(exif[tag])
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        entries = {tag: _exact(value) for tag, value in exif.get_ifd(directory).items()}
        entries = {tag: value for tag, value in entries.items() if _is_writable({directory: {tag: value}})}
        if entries:
            kept.get_ifd(directory).update(entries)
            kept[directory] = kept.get_ifd(directory)
    return kept


def _exact(value: object) -> object:
    """Text with more than ASCII as its bytes: Pillow reads it as Latin-1, and would write question marks."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def _is_writable(entry: dict[int, object]) -> bool:
    """Whether Pillow can write an entry: it reads what it cannot write."""
    exif = Image.Exif()
    exif.update(entry)
    try:
        exif.tobytes()
    except WRITE_ERRORS:
        return False
    return True


def with_size(exif: Image.Exif, width: int, height: int) -> Image.Exif:
    """EXIF that says sRGB and the size of the photo as it is written; an empty one stays empty."""
    entries = exif.get_ifd(ExifTags.IFD.Exif)
    if entries:
        entries.update({COLOR_SPACE: SRGB, PIXEL_WIDTH: width, PIXEL_HEIGHT: height})
    return exif
