"""A file that is not read -> what it is, and how to convert it: sound files are never called broken."""

from __future__ import annotations

import struct

from common.errors import InputError
from data.decoding.tiff_tags import CONVERT_TIFF, is_tiff, tiff_kind

READ_KINDS = "JPEG, PNG, TIFF, WebP, BMP, AVIF, HEIC and cameras' raw files"
OPENINGS = {
    b"<": "the file holds HTML or XML, not an image",
    b"{": "the file holds JSON, not an image",
    b"GIF8": "GIF is not read; save it as PNG",
    b"8BPS": "a Photoshop file (PSD) is not read; save it as TIFF",
    b"gimp xcf": "a GIMP file (XCF) is not read; export it as TIFF",
    b"\xff\x0a": "JPEG XL is not read; save it as PNG or JPEG",
    b"\0\0\0\x0cJXL ": "JPEG XL is not read; save it as PNG or JPEG",
    b"\0\0\0\x0cjP  ": "JPEG 2000 is not read; save it as PNG or JPEG",
    b"\x76\x2f\x31\x01": "OpenEXR is not read; save it as 16-bit TIFF in sRGB",
    b"#?RADIANCE": "Radiance HDR is not read; save it as 16-bit TIFF in sRGB",
    b"\0\x05\x16\x07": "the file is macOS side data (AppleDouble), not an image",
    b"version https://git-lfs": "the file is a Git LFS pointer; fetch the image itself",
}
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})


class NeedsPackage(InputError):
    """An optional extra would read this file; not a verdict on the file."""


def brands_of(content: bytes) -> set[bytes]:
    """The brands of a file of the MPEG-4 family (HEIC, AVIF, CR3, films); empty for others."""
    if content[4:8] != b"ftyp":
        return set()
    end = min(len(content), struct.unpack(">I", content[:4])[0], 256)
    return {content[8:12]} | {content[start : start + 4] for start in range(16, end - 3, 4)}


def what_it_is(content: bytes) -> str:
    """What the first bytes say about a file that no reader recognises."""
    if not content:
        return "the file is empty"
    brands = brands_of(content)
    if b"crx " in brands:
        return "a Canon raw file; give it the ending .cr3"
    if brands:
        kind = (
            "AVIF that is broken, or needs Pillow 11.3 or newer,"
            if brands & AVIF_BRANDS
            else "a film, or a kind near to one,"
        )
        return f"{kind} is not read; save it as JPEG, PNG or TIFF"
    if is_tiff(content) and (kind := tiff_kind(content)):
        return f"{kind} is not read; {CONVERT_TIFF}"
    return known_opening(content) or f"not an image that is read here ({READ_KINDS}), or its header is broken"


def known_opening(content: bytes) -> str:
    """What the file is by its opening, blanks left out; "" for others."""
    start = content.lstrip(b"\xef\xbb\xbf \r\n\t")[:32]
    for opening, what in OPENINGS.items():
        if content.startswith(opening) or start.startswith(opening):
            return what
    return ""
