"""A pair that was found -> JPEGs to look at: both sides small, and a close-up of both in one for a displaced target."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.audit_alignment import Alignment
from data.audit_measures import LUMA
from data.audit_small import read_small
from data.audit_structure import local_structure
from data.images import decode, resize
from data.manifest import Pair

SIDE = 360  # pixels of the long side
QUALITY = 82
CLOSE_UP = (96, 72)  # native pixels
GRID = 7
CONTRAST = 45.0  # codes a local deviation


@dataclass(frozen=True)
class Pictures:
    """JPEG files; close_up: source red and target cyan over each other at native size, or None."""

    src: bytes
    tar: bytes
    close_up: bytes | None


def take_pictures(pair: Pair, alignment: Alignment | None) -> Pictures:
    """Read both images of `pair`; alignment: where its target is displaced, to choose the part for the close-up."""
    src, tar = (_jpeg(_fitted(read_small(path).pixels)) for path in (pair.src_path, pair.tar_path))
    return Pictures(src, tar, None if alignment is None else _close_up(pair, alignment))


def _close_up(pair: Pair, alignment: Alignment) -> bytes:
    """Where the displacement shows most: the part with much texture in both images and a large displacement."""
    src, tar = (decode(path) for path in (pair.src_path, pair.tar_path))
    height, width = src.shape[:2]
    columns, rows = min(CLOSE_UP[0], width), min(CLOSE_UP[1], height)
    best, shown = -1.0, None
    for top in np.linspace(0, height - rows, GRID).astype(int):
        for left in np.linspace(0, width - columns, GRID).astype(int):
            parts = [image[top : top + rows, left : left + columns] @ LUMA for image in (src, tar)]
            place = complex(left + (columns - width) / 2, top + (rows - height) / 2)
            visible = min(float(part.std()) for part in parts) * abs(alignment.displacement(place))
            if visible > best:
                best, shown = visible, parts
    red, cyan = ((128 + CONTRAST * local_structure(part)).clip(0, 255).astype(np.uint8) for part in shown)
    overlay = Image.fromarray(np.stack([red, cyan, cyan], axis=2))
    factor = -(-SIDE // columns)
    return _jpeg(np.asarray(overlay.resize((columns * factor, rows * factor), Image.Resampling.BICUBIC)))


def _fitted(pixels: np.ndarray) -> np.ndarray:
    reduction = max(1.0, max(pixels.shape) / SIDE)
    return resize(pixels, (max(1, round(pixels.shape[1] / reduction)), max(1, round(pixels.shape[0] / reduction))))


def _jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
