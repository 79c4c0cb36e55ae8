"""TIFF and PNG with more than 8 bits a sample -> all their bits, decoded by Pillow alone.

Pillow keeps only the high byte of 16-bit colour samples, and has an unpacker for either byte order. So such a file is
decoded twice, the second time with the other byte order, which gives the low bytes. Compression, predictor, tiles and
interlacing stay Pillow's and libtiff's work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile

BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR = 258, 262, 284  # TIFF tags
WHITE_IS_ZERO = 0
OTHER = ";16B" if sys.byteorder == "little" else ";16L"
OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": OTHER}


class UnsupportedImage(ValueError):
    """The file is sound, but of a kind that is not read; the message says which."""


class UnreadLayout(UnsupportedImage):
    """Pillow would misread it; another reader may do better."""


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether an opened, not yet loaded image has more than 8 bits a sample."""
    if image.mode.startswith("I;16") or (bool(image.tile) and ";16" in _rawmode(image.tile[0])):
        return True
    # Uncompressed planes of 16 bits have the rawmodes of 8 bits, and Pillow would read them so.
    tags = getattr(image, "tag_v2", {})
    return tags.get(PLANAR, 1) != 1 and max(tags.get(BITS_PER_SAMPLE, (1,))) == 16


def read_deep(image: ImageFile.ImageFile, reopen: Callable[[], ImageFile.ImageFile]) -> np.ndarray:
    """Samples (H, W, C) uint16 of an opened deep image; C: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA or CMYK.

    `reopen` opens the same file again. The image is loaded by this call; orientation is left to the caller, as with
    `image.load()`. Raises UnsupportedImage, and what Pillow raises for broken files.
    """
    if image.mode.startswith("I;16"):
        return _read_gray(image)
    rawmode = _rawmode(image.tile[0])
    tags = getattr(image, "tag_v2", {})
    if tags.get(PLANAR, 1) != 1:
        raise UnreadLayout("16-bit TIFF with separate planes; save it interleaved")
    if rawmode.startswith("RGBa"):
        raise UnsupportedImage("16-bit TIFF with premultiplied alpha; save it with straight alpha or none")
    if rawmode == "LA;16B":
        # One RGBA pixel of 8 bits holds the four bytes of a gray and an alpha sample.
        image.tile = [_with_rawmode(tile, {";16B": ""}, "RGBA") for tile in image.tile]
        image.load()
        return np.ascontiguousarray(np.asarray(image)).view(">u2").astype(np.uint16)
    low = reopen()
    low.tile = [_with_rawmode(tile, OTHER_BYTE) for tile in low.tile]
    for part in (image, low):
        part.load()
    samples = np.asarray(image).astype(np.uint16)
    return samples * np.uint16(256) + np.asarray(low)


def _read_gray(image: Image.Image) -> np.ndarray:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    white_is_zero = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    image.load()
    samples = np.asarray(image).astype(np.uint16)[..., None]
    if bits < 16:
        top = 2**bits - 1
        samples = ((samples.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)
    # Pillow inverts 8-bit samples of such files, and leaves 16-bit ones as they are.
    return 65535 - samples if white_is_zero else samples


def _rawmode(tile: ImageFile._Tile) -> str:
    args = tile[3]
    # Without arguments: a TypeError, as other broken files raise it.
    return args if isinstance(args, str) else str(args[0])  # type: ignore[index]


def _with_rawmode(tile: ImageFile._Tile, endings: dict[str, str], stem: str | None = None) -> ImageFile._Tile:
    """The tile (decoder, extents, offset, args) with the rawmode's ending exchanged, and its stem when given."""
    rawmode = _rawmode(tile)
    changed = (stem or rawmode[:-4]) + endings[rawmode[-4:]]
    return tile._replace(args=(changed, *tile.args[1:]) if isinstance(tile.args, tuple) else changed)
