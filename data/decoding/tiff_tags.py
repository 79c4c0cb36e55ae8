"""Content of a TIFF -> what kind it is, in words, and how many photos it holds; decodes nothing, and reads BigTIFF too."""

from __future__ import annotations

import struct
from collections.abc import Iterator

TIFF_OPENINGS = (b"II*\0", b"MM\0*")
BIG_TIFF_OPENINGS = (b"II+\0", b"MM\0+")
CONVERT_TIFF = (
    "save it as interleaved 8- or 16-bit RGB with ZIP (ImageMagick: magick IN.tif -depth 16 -compress zip OUT.tif)"
)
# Tags of a TIFF's directory, and their values in words.
SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, FORMAT = 254, 258, 259, 262, 277, 284, 339
SMALLER_VERSION, MASK = 1, 4  # bits of SUBFILE
MOST_PAGES, MOST_TAGS = 1000, 500  # a broken file may claim any number, or lead in circles
SHORT, LONG = 3, 4
COLOURS = {
    0: "gray",
    1: "gray",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "Lab",
    9: "Lab",
    10: "Lab",
}
FORMATS = {2: "signed", 3: "floating-point"}
COMPRESSIONS = {
    1: "",
    5: "LZW",
    6: "old JPEG",
    7: "JPEG",
    8: "ZIP",
    32946: "ZIP",
    32773: "PackBits",
    34712: "JPEG 2000",
}
COMPRESSIONS |= {33003: "JPEG 2000", 33005: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 34933: "PNG", 50000: "Zstandard"}
COMPRESSIONS |= {50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"}


def is_tiff(content: bytes) -> bool:
    """Whether the file opens as TIFF or BigTIFF."""
    return content.startswith(TIFF_OPENINGS + BIG_TIFF_OPENINGS)


def count_photos(content: bytes) -> int:
    """How many pages hold a photo: neither a smaller version of another page nor a mask."""
    try:
        return sum(not tags.get(SUBFILE, (0,))[0] & (SMALLER_VERSION | MASK) for tags in _directories(content))
    except struct.error:
        return 1  # whoever decodes it says what is broken


def tiff_bits(content: bytes) -> int:
    """Most bits of a sample of a TIFF's first page; 0 for other files and broken ones."""
    try:
        return max(next(_directories(content), {}).get(BITS, (1,))) if is_tiff(content) else 0
    except struct.error:
        return 0


def tiff_kind(content: bytes) -> str:
    """A TIFF's kind in words, from its first directory: "big-endian BigTIFF of 3 x 16-bit RGB, LZW"; "" if broken."""
    order, big = "<" if content.startswith(b"II") else ">", content[2:4].strip(b"\0") == b"+"
    try:
        tags = next(_directories(content), {})
        bits = tags.get(BITS, (1,))
        count = tags.get(SAMPLES, (1,))[0]
        colours = COLOURS.get(tags[PHOTOMETRIC][0], f"colours of kind {tags[PHOTOMETRIC][0]}")
    except (struct.error, KeyError, IndexError):
        return ""
    words = ["big-endian" if order == ">" else "", "BigTIFF" if big else "TIFF", "of", f"{count} x {bits[0]}-bit"]
    words += [FORMATS.get(tags.get(FORMAT, (1,))[0], ""), colours]
    packing = tags.get(COMPRESSION, (1,))[0]
    more = ["separate planes"] if tags.get(PLANAR, (1,))[0] == 2 else []
    more += [name] if (name := COMPRESSIONS.get(packing, f"compression {packing}")) else []
    return ", ".join([" ".join(word for word in words if word), *more])


def _directories(content: bytes) -> Iterator[dict[int, tuple[int, ...]]]:
    """Whole numbers of each page's directory, by tag. Raises struct.error for a broken file."""
    order, big = "<" if content.startswith(b"II") else ">", content[2:4].strip(b"\0") == b"+"
    long_word, head, step, room = (f"{order}Q", 8, 20, 8) if big else (f"{order}I", 2, 12, 4)
    (start,) = struct.unpack_from(long_word, content, 8 if big else 4)
    seen = {0}
    while start not in seen and len(seen) <= MOST_PAGES:
        seen.add(start)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", content, start)
        if count > MOST_TAGS:
            raise struct.error(f"{count} tags")
        end = start + head + step * count
        tags = {}
        for entry in range(start + head, end, step):
            tag, kind = struct.unpack_from(f"{order}HH", content, entry)
            (length,) = struct.unpack_from(long_word, content, entry + 4)
            if kind in (SHORT, LONG) and 0 < length <= 16:
                word, size = {SHORT: ("H", 2), LONG: ("I", 4)}[kind]
                place = entry + step - room
                if size * length > room:
                    (place,) = struct.unpack_from(long_word, content, place)
                tags[tag] = struct.unpack_from(f"{order}{length}{word}", content, place)
        yield tags
        (start,) = struct.unpack_from(long_word, content, end)
