"""A camera's raw file -> upright sRGB, by an optional extra: rawpy (LibRaw). Every kind gets the same neutral development.

rawpy's defaults are not neutral: its gamma is BT.709's, it brightens, and even with no_auto_bright it stretches an image that
fills more than 75 % of the range. With the parameters below the result is within one code of colour science. A file without
white balance would silently be balanced automatically. Needs no torch.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import io
import os
from pathlib import Path

import numpy as np

from common.errors import InputError
from data.decoding.unread import NeedsPackage, known_opening
from data.decoding.upright import MAX_PIXELS

# What LibRaw 0.22 reads; it has no list of endings, but of cameras. A file's content does not tell: most raws open as TIFF.
RAW_ENDINGS = frozenset(
    ".3fr .ari .arw .bay .cap .cr2 .cr3 .crw .cs1 .dc2 .dcr .dcs .dng .drf .erf .fff .gpr .iiq .k25 .kc2 .kdc .mdc .mef .mos "
    ".mrw .nef .nrw .orf .pef .ptx .pxn .qtk .raf .raw .rdc .rw1 .rw2 .rwl .rwz .sr2 .srf .srw .sti .x3f".split()
)
RAW_INSTALL = "raw files need rawpy: pip install -r requirements-fivek.txt"
NO_WHITE_BALANCE = [0.0, 1.0, 0.0, 0.0]  # what LibRaw reports when the file names none
MIRRORED, UPSIDE_DOWN, TRANSPOSED = 1, 2, 4  # bits of LibRaw's flip


def is_raw(path: str | Path) -> bool:
    """Whether the ending is one of a camera's raw files."""
    return Path(path).suffix.lower() in RAW_ENDINGS


def has_rawpy() -> bool:
    """Whether the optional extra is installed; it is imported only to develop a file."""
    return importlib.util.find_spec("rawpy") is not None


@functools.lru_cache(maxsize=1)
def raw_version() -> str | None:
    """Version of rawpy, which carries its LibRaw; None without it."""
    try:
        return importlib.metadata.version("rawpy")
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.lru_cache(maxsize=1)
def _rawpy():
    """The package, with one thread of OpenMP: its pool would not survive a fork, and a worker of the loader would wait for ever.

    Photos are developed side by side anyway.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read once, when its own copy of the OpenMP library is loaded
    try:
        import rawpy
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return rawpy


def develop(
    content: bytes, name: str | Path, long_side: int | None = None, auto_wb: bool = False, deep: bool = False
) -> tuple[np.ndarray, int]:
    """Develop a raw file: (H, W, 3) sRGB, upright, cut to the frame that the camera names (DNG: DefaultCrop), uint8 or, if
    `deep`, uint16; and the scale, 1 or 2.

    Scale 2 means half size (a pixel for each 2 x 2 sensor cells, seven times faster): only when a `long_side` is given that its
    long side still reaches. auto_wb: let LibRaw balance a file that names no white balance, instead of refusing it.

    Raises InputError naming the file when it is broken, or has no white balance; NeedsPackage without rawpy.
    """
    if not has_rawpy():
        raise NeedsPackage(f"{name}: {RAW_INSTALL}")
    rawpy = _rawpy()
    try:
        # Not rawpy.imread, which warns of forked processes: see _rawpy.
        with rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(content))
            if list(raw.camera_whitebalance) == NO_WHITE_BALANCE and not auto_wb:
                raise InputError(
                    f"{name}: no white balance in the raw file; develop it elsewhere (prepare_fivek_robust.py has --auto_wb)"
                )
            sizes = raw.sizes
            if sizes.raw_width * sizes.raw_height > MAX_PIXELS:
                raise InputError(f"{name}: more than {MAX_PIXELS // 10**6} megapixels")
            left, top, right, bottom = _crop_of(sizes)
            longer = max(right - left, bottom - top)
            scale = 2 if long_side is not None and longer >= 2 * long_side else 1
            image = raw.postprocess(
                half_size=scale == 2,
                use_camera_wb=True,
                no_auto_bright=True,
                adjust_maximum_thr=0.0,
                gamma=(2.4, 12.92),
                output_color=rawpy.ColorSpace.sRGB,
                user_flip=0,
                output_bps=16 if deep else 8,
            )
    except rawpy.LibRawError as error:
        text = error.args[0] if error.args else ""
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        reason = known_opening(content) if content else "the file is empty"
        if content.startswith((b"\xff\xd8\xff", b"\x89PNG")):
            reason = "no raw file, but JPEG or PNG: name it so"
        raise InputError(f"{name}: {reason or f'broken or unknown raw file: {text}'}") from None
    # Half size and pixels that are not square make the image smaller or larger than the sensor's grid.
    across, down = image.shape[1] / sizes.width, image.shape[0] / sizes.height
    image = image[round(top * down) : round(bottom * down), round(left * across) : round(right * across)]
    if sizes.flip & UPSIDE_DOWN:
        image = image[::-1]
    if sizes.flip & MIRRORED:
        image = image[:, ::-1]
    if sizes.flip & TRANSPOSED:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image), scale


def _crop_of(sizes) -> tuple[int, int, int, int]:
    """The camera's frame as (left, top, right, bottom) in visible pixels; the whole visible area when the file names none."""
    left, top = sizes.crop_left_margin - sizes.left_margin, sizes.crop_top_margin - sizes.top_margin
    right, bottom = left + sizes.crop_width, top + sizes.crop_height
    inside = 0 <= left < right <= sizes.width and 0 <= top < bottom <= sizes.height
    return (left, top, right, bottom) if inside else (0, 0, sizes.width, sizes.height)
