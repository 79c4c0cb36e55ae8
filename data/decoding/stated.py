"""The colours that an image file states, in its ICC profile or elsewhere -> an ICC profile; and its EXIF, if it is sound.

In order: PNG's cICP (or HEIF's nclx) chunk, the ICC profile, PNG's sRGB chunk, PNG's gAMA and cHRM, EXIF. Cameras that shoot
Adobe RGB embed no profile: EXIF's InteroperabilityIndex says R03. What says sRGB or nothing gives None.
Sources: PNG third edition (W3C, 2025) 4.3 for the order; H.273 (2021) tables 2 and 3 for code points; DCF 2.0 and EXIF 2.32;
Adobe RGB (1998) Color Image Encoding 4.3.
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import ExifTags, Image

from data.colour import SRGB_CHROMATICITIES, matrix_profile, para_tag, power_tag, primaries_to_pcs
from data.deep_images import UnsupportedImage

# What Pillow's EXIF reader raises for a block that is no TIFF, or is damaged.
EXIF_ERRORS = (SyntaxError, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, struct.error)
PNG_OPENING = b"\x89PNG\r\n\x1a\n"
ADOBE_COLORANTS = (
    (0.60974, 0.31111, 0.01947),
    (0.20528, 0.62567, 0.06087),
    (0.14919, 0.06322, 0.74457),
)  # of its profile
ADOBE_GAMMA = 563 / 256
COLOR_SPACE_SRGB, COLOR_SPACE_ADOBE, UNCALIBRATED = 1, 2, 65535  # 2 is no EXIF, but written by some cameras
ADOBE_INDEX = "R03"

# How far gAMA and cHRM may be from sRGB's and still mean sRGB, as libpng has it: writers round, and gAMA cannot say its curve.
GAMMA_TOLERANCE, CHROMATICITY_TOLERANCE = 0.05, 0.01
SRGB_GAMMA = 2.2

Chromaticities = tuple[float, ...]  # white x y, red x y, green x y, blue x y
D65, DCI_WHITE = (0.3127, 0.3290), (0.314, 0.351)
PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB_CHROMATICITIES,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (*DCI_WHITE, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
UNSPECIFIED = 2
SRGB_CURVE = para_tag(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# The curves of video (1, 6, 14, 15) describe cameras; on a screen such pictures are shown as sRGB ones are.
TRANSFERS = dict.fromkeys((1, 6, 13, 14, 15), SRGB_CURVE) | {4: power_tag(2.2), 5: power_tag(2.8), 8: power_tag(1.0)}
HDR = {16: "PQ", 18: "HLG"}


def sound_exif(image: Image.Image) -> Image.Exif:
    """The EXIF of an image; empty when it has none, or a broken one, which says nothing about the pixels."""
    try:
        return image.getexif()
    except EXIF_ERRORS:
        return Image.Exif()


def directory_of(exif: Image.Exif, directory: int) -> dict:
    """A directory of EXIF, such as ExifTags.IFD.Exif; empty when it is missing or broken."""
    try:
        entries = exif.get_ifd(directory)
    except EXIF_ERRORS:
        return {}
    return entries if isinstance(entries, dict) else {}


def stated_profile(image: Image.Image, content: bytes) -> bytes | None:
    """The ICC profile of the colours that an opened image states, `content` being its file; None: sRGB, or not stated.

    Raises UnsupportedImage for colours that are stated, but not read, such as HDR.
    """
    chunks = _png_chunks(content) if image.format == "PNG" else {}
    if len(cicp := chunks.get(b"cICP", b"")) == 4 and UNSPECIFIED not in cicp[:2]:
        if cicp[2] != 0 or cicp[3] != 1:
            raise UnsupportedImage("PNG with video levels or YCbCr in its cICP chunk; save it as full-range RGB")
        return coded_profile(cicp[0], cicp[1])
    if icc := image.info.get("icc_profile"):
        return icc
    if b"sRGB" in chunks:
        return None
    if b"gAMA" in chunks or b"cHRM" in chunks:
        return _measured_profile(chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b""))
    return _exif_profile(sound_exif(image))


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """The ICC profile of H.273's code points for primaries and transfer characteristics; None for sRGB's own.

    Raises UnsupportedImage for HDR, and for code points that no photo has.
    """
    if transfer in HDR:
        raise UnsupportedImage(f"an HDR image ({HDR[transfer]}); save it as SDR, in sRGB or with an ICC profile")
    if primaries not in PRIMARIES or transfer not in TRANSFERS:
        raise UnsupportedImage(
            f"colours of code points {primaries}/{transfer} (cICP, nclx) are not read; save it in sRGB"
        )
    if primaries == 1 and TRANSFERS[transfer] == SRGB_CURVE:
        return None
    name = f"colours of code points {primaries}/{transfer}"
    return matrix_profile(primaries_to_pcs(PRIMARIES[primaries]).T, TRANSFERS[transfer], name)


def _png_chunks(content: bytes) -> dict[bytes, bytes]:
    """The chunks before the pixels, the first of each name."""
    chunks: dict[bytes, bytes] = {}
    start = len(PNG_OPENING)
    while start + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, start)
        if name in (b"IDAT", b"IEND"):
            break
        chunks.setdefault(name, content[start + 8 : start + 8 + length])
        start += 12 + length
    return chunks


def _measured_profile(gama: bytes, chrm: bytes) -> bytes | None:
    """gAMA and cHRM, of which one may be missing; None when they say sRGB, or cannot be meant."""
    gamma = 1e5 / value if len(gama) == 4 and (value := struct.unpack(">I", gama)[0]) else None
    corners: Chromaticities = SRGB_CHROMATICITIES
    if len(chrm) == 32:
        corners = tuple(value / 1e5 for value in struct.unpack(">8I", chrm))
    far = max(abs(one - other) for one, other in zip(corners, SRGB_CHROMATICITIES, strict=True))
    if far <= CHROMATICITY_TOLERANCE:
        corners = SRGB_CHROMATICITIES
        if gamma is None or abs(gamma / SRGB_GAMMA - 1) <= GAMMA_TOLERANCE:
            return None
    if gamma is not None and not 0.1 < gamma < 10:
        return None
    try:
        columns = primaries_to_pcs(corners)
    except (ZeroDivisionError, np.linalg.LinAlgError):
        return None
    if not np.isfinite(columns).all() or np.abs(columns).max() > 2:
        return None
    return matrix_profile(columns.T, SRGB_CURVE if gamma is None else power_tag(gamma), "gAMA and cHRM of the file")


def _exif_profile(exif: Image.Exif) -> bytes | None:
    """Adobe RGB where EXIF says so: uncalibrated, and R03 among the rules of interoperability."""
    entries = directory_of(exif, ExifTags.IFD.Exif)
    space = entries.get(ExifTags.Base.ColorSpace, UNCALIBRATED)
    if space == COLOR_SPACE_ADOBE:
        return adobe_rgb()
    if space != UNCALIBRATED:
        return None
    index = directory_of(exif, ExifTags.IFD.Interop).get(1)
    index = index.decode("latin-1") if isinstance(index, bytes) else index
    return adobe_rgb() if isinstance(index, str) and index.rstrip("\0 ") == ADOBE_INDEX else None


def adobe_rgb() -> bytes:
    """Adobe RGB (1998), with the numbers of Adobe's own profile."""
    return matrix_profile(ADOBE_COLORANTS, power_tag(ADOBE_GAMMA), "Adobe RGB (1998), by EXIF")
