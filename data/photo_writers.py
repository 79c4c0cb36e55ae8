"""sRGB pixels -> the bytes of a JPEG, PNG or TIFF file, 8 or 16 bits a sample, with EXIF and the sRGB profile. Needs no torch.

Pillow writes neither 16-bit colour nor compressed TIFF with EXIF: the two small containers for those are made here.
Sources: PNG third edition (W3C, 2023); TIFF revision 6.0 with the predictor and deflate of its supplement.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from data.errors import DataError

KINDS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}
PNG_OPENING = b"\x89PNG\r\n\x1a\n"
SIXTEEN_BITS, TRUECOLOUR, FILTER_UP = 16, 2, 2
DEFLATE, DIFFERENCES = 8, 2
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS = 256, 257, 258, 259, 262, 273
SAMPLES, ROWS, COUNTS, PREDICTOR, PROFILE = 277, 278, 279, 317, 34675
RGB = 2
JPEG_SEGMENT = 65533  # bytes
DATE = slice(24, 36)  # of an ICC profile's header


def photo_bytes(pixels: np.ndarray, kind: str, exif: Image.Exif, quality: int = 95) -> bytes:
    """Pixels (H, W, 3) uint8, or uint16 for PNG and TIFF -> the content of a file of `kind`; JPEG without chroma subsampling.

    Raises DataError for EXIF that no JPEG can hold.
    """
    if kind == "TIFF":
        return _tiff(pixels, exif)
    if pixels.dtype == np.uint16:
        return _png16(pixels, exif)
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    options = {"icc_profile": srgb_profile()} | ({"exif": exif} if len(exif) else {})
    if kind == "JPEG":
        if len(exif.tobytes()) > JPEG_SEGMENT:
            raise DataError("its EXIF (a maker note, most often) is too long for JPEG; use --format png or tiff")
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
