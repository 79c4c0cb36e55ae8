"""DNG, and TIFF of a kind that Pillow does not read -> upright sRGB, by two optional extras: rawpy and tifffile.

rawpy (LibRaw) develops a DNG neutrally. Its defaults are not neutral: its gamma is BT.709's, it brightens, and even with
no_auto_bright it stretches an image that fills more than 75 % of the range. With the parameters below the result is within
one code of colour science. A file without white balance would silently be balanced automatically.
tifffile reads separate planes, big-endian BigTIFF and the like. Needs no torch.
"""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from pathlib import Path

import numpy as np

from common.errors import InputError
from data.colour import ProfileError
from data.images import MAX_PIXELS, to_upright_srgb, what_it_is

DNG_INSTALL = "DNG files need rawpy: pip install -r requirements-fivek.txt"
TIFF_INSTALL = "tifffile reads more kinds of TIFF: pip install -r requirements-fivek.txt"
TIFF_OPENINGS = (b"II*\0", b"MM\0*")
BIG_TIFF_OPENINGS = (b"II+\0", b"MM\0+")
ORIENTATION, ICC_PROFILE = 274, 34675  # TIFF tags
NO_WHITE_BALANCE = [0.0, 1.0, 0.0, 0.0]  # what LibRaw reports when the file names none
MIRRORED, UPSIDE_DOWN, TRANSPOSED = 1, 2, 4  # bits of LibRaw's flip


def has_rawpy() -> bool:
    """Whether the optional extra is installed; it is imported only to develop a file."""
    return importlib.util.find_spec("rawpy") is not None


def develop(
    content: bytes, name: str | Path, long_side: int | None = None, auto_wb: bool = False, deep: bool = False
) -> tuple[np.ndarray, int]:
    """Develop a DNG: (H, W, 3) sRGB, upright, cut to the file's DefaultCrop, uint8 or, if `deep`, uint16; and the scale, 1 or 2.

    Scale 2 means half size (a pixel for each 2 x 2 sensor cells, seven times faster): only when a `long_side` is given that its
    long side still reaches. auto_wb: let LibRaw balance a file that names no white balance, instead of refusing it.

    Raises InputError naming the file when it is broken, or has no white balance.
    """
    import rawpy

    try:
        # Not rawpy.imread, which warns of forked processes: OpenMP starts only here, after the fork.
        with rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(content))
            if list(raw.camera_whitebalance) == NO_WHITE_BALANCE and not auto_wb:
                raise InputError(
                    f"{name}: no white balance in the DNG; develop it elsewhere (prepare_fivek_robust.py has --auto_wb)"
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
        is_tiff_like = content.startswith(TIFF_OPENINGS)
        reason = f"broken or unknown raw file: {text}" if is_tiff_like else what_it_is(content)
        raise InputError(f"{name}: {reason}") from None
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
    """DefaultCrop as (left, top, right, bottom) in visible pixels; the whole visible area when the file names none."""
    left, top = sizes.crop_left_margin - sizes.left_margin, sizes.crop_top_margin - sizes.top_margin
    right, bottom = left + sizes.crop_width, top + sizes.crop_height
    inside = 0 <= left < right <= sizes.width and 0 <= top < bottom <= sizes.height
    return (left, top, right, bottom) if inside else (0, 0, sizes.width, sizes.height)


def has_tifffile() -> bool:
    """Whether the optional extra is installed; it is imported only when a file needs it."""
    return importlib.util.find_spec("tifffile") is not None


def is_tiff(content: bytes) -> bool:
    """Whether the file opens as TIFF or BigTIFF."""
    return content.startswith(TIFF_OPENINGS + BIG_TIFF_OPENINGS)


def decode_odd_tiff(content: bytes, name: str | Path, untagged: bytes | None = None) -> np.ndarray:
    """First page of an RGB or gray TIFF of 8 or 16 bits as (H, W, 3) uint8 upright sRGB; `untagged` as in data.images.

    Raises InputError naming the file: not such a TIFF, a compression that tifffile alone cannot undo, or broken.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages[0]
            if page.imagewidth * page.imagelength > MAX_PIXELS:
                raise InputError(f"{name}: more than {MAX_PIXELS // 10**6} megapixels")
            samples = page.asarray()
            tags = {number: page.tags[number].value for number in (ORIENTATION, ICC_PROFILE) if number in page.tags}
            axes, photometric = page.axes, page.photometric.name
    except InputError:
        raise
    except (ValueError, OSError, KeyError, IndexError, TypeError, RuntimeError, struct.error, zlib.error) as error:
        raise InputError(f"{name}: TIFF that tifffile cannot read either: {error}") from None
    if samples.dtype not in (np.uint8, np.uint16) or photometric not in ("RGB", "MINISBLACK"):
        raise InputError(f"{name}: TIFF with {samples.dtype} samples of kind {photometric}; 8- or 16-bit RGB is read")
    samples = np.moveaxis(samples, axes.index("S"), -1) if "S" in axes else samples[..., None]
    if samples.ndim != 3 or samples.shape[2] > 4:
        raise InputError(f"{name}: TIFF with axes {axes} {samples.shape}; one page of 1 to 4 channels is read")
    try:
        icc = tags.get(ICC_PROFILE) or untagged
        return to_upright_srgb(samples, False, icc, tags.get(ORIENTATION, 1), np.uint8)
    except ProfileError as error:
        raise InputError(f"{name}: embedded ICC profile: {error}") from None
