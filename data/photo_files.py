"""A photo file -> upright sRGB pixels with all their bits, and the EXIF worth keeping; and both -> the bytes of a new file.

Files are written as JPEG, PNG or TIFF, with 8 or 16 bits a sample and the sRGB profile. Pillow writes neither 16-bit colour nor
compressed TIFF with EXIF: the two small containers for those are made here. Needs no torch.
Sources: PNG third edition (W3C, 2023); TIFF revision 6.0 with the predictor and deflate of its supplement.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from common.errors import InputError
from data.decoding.heif import is_heic, open_heic
from data.decoding.raw import is_raw
from data.decoding.stated import EXIF_ERRORS, PNG_OPENING, directory_of, sound_exif
from data.decoding.tiff_tags import is_tiff, tiff_bits
from data.deep_images import is_deep
from data.images import DECODE_ERRORS, FORMATS, decode_bytes

RAW, HEIF = "RAW", "HEIF"
KINDS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}  # that are written, and their endings

# Of the first directory only what describes the photo; sizes, offsets and compression belong to the old file.
DESCRIBING = (
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright),
)
# What Pillow's EXIF writer raises for a value that does not fit its tag.
WRITE_ERRORS = (TypeError, AttributeError, ValueError, OverflowError, struct.error)
COLOR_SPACE, PIXEL_WIDTH, PIXEL_HEIGHT, SRGB = 40961, 40962, 40963, 1

JPEG_SEGMENT = 65533  # bytes
DATE = slice(24, 36)  # of an ICC profile's header
SIXTEEN_BITS, TRUECOLOUR, FILTER_UP = 16, 2, 2
# TIFF tags, and values of three of them.
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS = 256, 257, 258, 259, 262, 273
SAMPLES, ROWS, COUNTS, PREDICTOR, PROFILE = 277, 278, 279, 317, 34675
DEFLATE, RGB, DIFFERENCES = 8, 2, 2


@dataclass(frozen=True)
class Photo:
    """pixels: (H, W, 3) uint8, or uint16 when the file has more than 8 bits, upright sRGB. kind: JPEG, ..., RAW, HEIF."""

    pixels: np.ndarray
    kind: str
    exif: Image.Exif


def photo_of(content: bytes, path: Path) -> Photo:
    """The photo, at native size, in a file's content; `path` says its ending and stands in messages.

    Raises InputError naming the file when it is no whole photo, or needs an optional extra.
    """
    if is_raw(path):
        pixels = decode_bytes(content, path, dtype=np.uint16)
        return Photo(pixels, RAW, _kept(_exif_of_raw(content)))
    if is_heic(content):
        image = open_heic(content, path)
        dtype = np.uint16 if image.info.get("bit_depth", 8) > 8 else np.uint8
        exif = Image.Exif()
        with contextlib.suppress(*EXIF_ERRORS):
            exif.load(image.info.get("exif") or b"")
        return Photo(decode_bytes(content, path, dtype=dtype), HEIF, _kept(exif))
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            kind, deep, exif = image.format, is_deep(image), _kept(sound_exif(image))
    except DECODE_ERRORS:
        # A kind of TIFF that another reader reads, or decode_bytes has the better message.
        kind, deep, exif = "TIFF" if is_tiff(content) else "", tiff_bits(content) > 8, Image.Exif()
    return Photo(decode_bytes(content, path, dtype=np.uint16 if deep else np.uint8), kind, exif)


def _exif_of_raw(content: bytes) -> Image.Exif:
    """The EXIF of a raw file that is laid out as TIFF, as most are, some under another opening; else an empty one."""
    exif = Image.Exif()
    opening = {b"II": b"II*\0", b"MM": b"MM\0*"}.get(content[:2], b"")
    with contextlib.suppress(*EXIF_ERRORS):
        if opening:
            exif.load(opening + content[4:])
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
        entries = {tag: _exact(value) for tag, value in directory_of(exif, directory).items()}
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


def photo_bytes(pixels: np.ndarray, kind: str, exif: Image.Exif, quality: int = 95) -> bytes:
    """Pixels (H, W, 3) uint8, or uint16 for PNG and TIFF -> the content of a file of `kind`; JPEG without chroma subsampling.

    Raises InputError for EXIF that no JPEG can hold.
    """
    if kind == "TIFF":
        return _tiff(pixels, exif)
    if pixels.dtype == np.uint16:
        return _png16(pixels, exif)
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    options: dict[str, Any] = {"icc_profile": srgb_profile()} | ({"exif": exif} if len(exif) else {})
    if kind == "JPEG":
        if len(exif.tobytes()) > JPEG_SEGMENT:
            raise InputError("its EXIF (a maker note, most often) is too long for JPEG; use --format png or tiff")
        options |= {"quality": quality, "subsampling": 0}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """littlecms's sRGB profile, without the moment at which it was made: equal pixels make equal files."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[DATE] = bytes(12)
    return bytes(profile)


def _png16(pixels: np.ndarray, exif: Image.Exif) -> bytes:
    rows = pixels.astype(">u2").view(np.uint8).reshape(len(pixels), -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.concatenate([np.full((len(rows), 1), FILTER_UP, np.uint8), rows - above], axis=1)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], SIXTEEN_BITS, TRUECOLOUR, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"iCCP", b"sRGB\0\0" + zlib.compress(srgb_profile()))]
    if len(exif):
        chunks.append((b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return PNG_OPENING + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def _tiff(pixels: np.ndarray, exif: Image.Exif) -> bytes:
    height, width, samples = pixels.shape
    left = np.concatenate([np.zeros_like(pixels[:, :1]), pixels[:, :-1]], axis=1)
    strip = zlib.compress((pixels - left).astype(pixels.dtype.newbyteorder("<")).tobytes(), 6)
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II\x2a\x00\x00\x00\x00\x00")
    for tag, value in exif.items():
        directory[tag] = dict(exif.get_ifd(tag)) or value
    directory[WIDTH], directory[LENGTH], directory[BITS] = width, height, (8 * pixels.itemsize,) * samples
    directory[COMPRESSION], directory[PHOTOMETRIC], directory[PREDICTOR] = DEFLATE, RGB, DIFFERENCES
    directory[SAMPLES], directory[ROWS], directory[COUNTS] = samples, height, len(strip)
    directory[OFFSETS] = 0  # from the directory's end
    directory.tagtype[PROFILE] = 7
    directory[PROFILE] = srgb_profile()
    return struct.pack("<2sHI", b"II", 42, 8) + directory.tobytes(8) + strip
