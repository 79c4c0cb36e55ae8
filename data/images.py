"""Image file -> sRGB array: the one reading of an image that all scripts share; picture -> JPEG file. Needs no torch.

EXIF orientation applied, embedded ICC profile converted to sRGB, alpha composited on white, gray, palette and CMYK
converted, samples of more than 8 bits scaled with rounding. What Pillow cannot decode whole is an error.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, features

from common.errors import InputError
from data.colour import ProfileError, change_depth, parse_profile, to_srgb
from data.deep_images import UnreadLayout, UnsupportedImage, is_deep, read_deep

SEMANTICS = 1  # raise when the pixels of any readable file change
DECODER = (
    f"{SEMANTICS}, Pillow {PIL.__version__}, libjpeg {features.version('libjpeg_turbo') or features.version('jpg')}"
)
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")  # Pillow opens MPO as JPEG; its further images are left out
# ENXIO: a socket, or a device that is not there.
NOT_READABLE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENXIO)
MAX_PIXELS = 200_000_000
# Pillow warns at its limit and raises at twice that; a file of 256 KB can claim gigabytes of pixels.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# What Pillow's readers raise on broken files of the formats above.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
NEW_SUBFILE_TYPE, DNG_VERSION = 254, 50706  # TIFF tags
REDUCED_RESOLUTION = 1
OPENINGS = {
    b"<": "the file holds HTML or XML, not an image",
    b"{": "the file holds JSON, not an image",
    b"GIF8": "GIF is not read; save it as PNG",
    b"\0\x05\x16\x07": "the file is macOS side data (AppleDouble), not an image",
    b"version https://git-lfs": "the file is a Git LFS pointer; fetch the image itself",
}


class UnknownKind(InputError):
    """No verdict on the file: Pillow does not read files of this kind, a special reader may."""


def decode(path: str | Path) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 sRGB at native size.

    Raises InputError naming the file when it is missing, no whole image (JPEG, PNG, TIFF, WebP, BMP), animated, over 200
    megapixels, or has a broken profile.
    """
    return decode_bytes(read_file(path), path)


def decode_bytes(
    content: bytes, name: str | Path, *, jpeg_scale: int = 1, untagged: bytes | None = None, dtype: type = np.uint8
) -> np.ndarray:
    """`decode` for the content of a file that was read already; `name` is for messages.

    dtype np.uint16: all bits of the file, an 8-bit source has its codes times 257, or finer ones where a profile was converted.
    jpeg_scale 2, 4 or 8: a JPEG is decoded at that fraction of its size (sides rounded up), other formats at full size.
    untagged: the ICC profile to assume for RGB and gray files without one (None: sRGB).
    """

    def reopen() -> ImageFile.ImageFile:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if jpeg_scale > 1:
            image.draft(None, (image.width // jpeg_scale, image.height // jpeg_scale))
        return image

    try:
        return _pixels(reopen, dtype, untagged)
    except UnidentifiedImageError:
        raise UnknownKind(f"{name}: {what_it_is(content)}") from None
    except UnreadLayout as error:
        raise UnknownKind(f"{name}: {error}") from None
    except (UnsupportedImage, ProfileError) as error:
        reason = f"embedded ICC profile: {error}" if isinstance(error, ProfileError) else error
        raise InputError(f"{name}: {reason}") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: more than {MAX_PIXELS // 10**6} megapixels") from None
    except DECODE_ERRORS as error:
        raise InputError(f"{name}: broken image: {error}") from None


def read_file(path: str | Path) -> bytes:
    """The bytes of an image file; InputError when it is missing, a folder, unreadable, or no regular file."""
    try:
        # Not blocking: a FIFO without a writer would let its reader wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            if stat.S_ISDIR(mode):
                raise InputError(f"{path}: {os.strerror(errno.EISDIR)}")
            if not stat.S_ISREG(mode):
                raise InputError(f"{path}: no regular file (a FIFO, socket or device)")
            return handle.read()
    except OSError as error:
        if error.errno not in NOT_READABLE:
            raise
        raise InputError(f"{path}: {error.strerror}") from None


def jpeg(picture: Image.Image, quality: int, *, subsampled: bool = False, optimize: bool = False) -> bytes:
    """The content of a JPEG file, without metadata; quality: 1 to 100.

    Without chroma subsampling: colour casts are what people look for. optimize: a smaller file, in more time.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=-1 if subsampled else 0, optimize=optimize)
    return buffer.getvalue()


def resize(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Resize (H, W, 3) uint8 to `size` = (width, height) with Pillow's antialiased bicubic filter.

    box: (left, top, right, bottom) in pixels of `image`, the part that is kept (None: all of it).
    """
    whole = (0, 0, image.shape[1], image.shape[0])
    if (box or whole) == whole and size == whole[2:]:
        return image
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box))


def fit_crop_size(width: int, height: int, resolution: int, enlarge: bool) -> tuple[int, int]:
    """Size (width, height) whose short side is `resolution`; a smaller image keeps its size unless `enlarge`."""
    short_side = min(width, height)
    if short_side == resolution or (short_side < resolution and not enlarge):
        return width, height
    # Whole-number rounding, halves up: the same on every machine.
    scaled = [(2 * length * resolution + short_side) // (2 * short_side) for length in (width, height)]
    return scaled[0], scaled[1]


def to_upright_srgb(samples: np.ndarray, is_cmyk: bool, icc: bytes | None, orientation: int, dtype: type) -> np.ndarray:
    """Samples as a file stores them -> (H, W, 3) upright sRGB of `dtype` (uint8 or uint16), alpha composited on white.

    samples: (H, W, C) uint8 or uint16; C is 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA, or CMYK if `is_cmyk`.
    Raises ProfileError when `icc` does not fit.
    """
    has_alpha = not (is_cmyk or samples.shape[2] in (1, 3))
    colours, alpha = (samples[..., :-1], samples[..., -1:]) if has_alpha else (samples, None)
    # Deep samples are mixed with white before they are rounded to 8 bits.
    depth = dtype if alpha is None or samples.dtype == np.uint8 else samples.dtype.type
    result = _as_srgb(colours, is_cmyk, icc, depth)
    if alpha is not None:
        result = change_depth(_on_white(result, change_depth(alpha, depth)), dtype)
    return _oriented(result, orientation)


def what_it_is(content: bytes) -> str:
    """What the first bytes say about a file that no reader recognises."""
    if not content:
        return "the file is empty"
    if content[4:8] == b"ftyp":
        return "HEIC, AVIF or a film is not read; save it as JPEG, PNG or TIFF"
    start = content.lstrip(b"\xef\xbb\xbf \r\n\t")[:32]
    for opening, what in OPENINGS.items():
        if start.startswith(opening):
            return what
    return f"not an image that is read here ({', '.join(FORMATS)}), or its header is broken"


def _pixels(reopen: Callable[[], ImageFile.ImageFile], dtype: type, untagged: bytes | None) -> np.ndarray:
    with reopen() as file:
        _refuse_unusual(file)
        image: Image.Image = file
        if is_deep(file):
            samples = read_deep(file, reopen)
            if "transparency" in image.info:
                # One colour of a 16-bit PNG is transparent: as an alpha channel.
                opaque = np.any(samples != np.array(image.info["transparency"], np.uint16), axis=2, keepdims=True)
                samples = np.concatenate([samples, opaque.astype(np.uint16) * np.uint16(65535)], axis=2)
        else:
            image.load()
            image = _plain_mode(image)
            samples = np.asarray(image)
            samples = samples[..., None] if samples.ndim == 2 else samples
        is_cmyk = image.mode == "CMYK"
        icc = image.info.get("icc_profile") or (None if is_cmyk else untagged)
        return to_upright_srgb(samples, is_cmyk, icc, image.getexif().get(ExifTags.Base.Orientation, 1), dtype)


def _refuse_unusual(image: Image.Image) -> None:
    if image.width * image.height == 1:
        raise UnsupportedImage("1 x 1 pixel is not a photo")
    if image.format == "TIFF":
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        tags = image.tag_v2
        if DNG_VERSION in tags or tags.get(NEW_SUBFILE_TYPE, 0) & REDUCED_RESOLUTION:
            raise UnsupportedImage("a raw file (only its preview could be read); develop it to TIFF, PNG or JPEG")
        # A TIFF may carry small versions of its page, but not a second page.
        for page in range(1, image.n_frames):
            image.seek(page)
            if not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED_RESOLUTION:
                raise UnsupportedImage(f"TIFF with {image.n_frames} pages; a photo has one")
        if image.n_frames > 1:
            image.seek(0)
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        frames = image.n_frames  # type: ignore[attr-defined]  # what can be animated has it
        raise UnsupportedImage(f"animated {image.format} with {frames} frames; a photo has one")


def _plain_mode(image: Image.Image) -> Image.Image:
    """A loaded 8-bit image in one of the modes L, LA, RGB, RGBA, CMYK."""
    if image.mode in ("P", "L", "RGB", "1") and "transparency" in image.info:
        return image.convert("RGBA")
    plain = {"1": "L", "P": "RGB", "PA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA", "La": "LA", "YCbCr": "RGB"}
    if image.mode in plain:
        return image.convert(plain[image.mode])
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        raise UnsupportedImage(f"pixels of kind {image.mode} are not read; save it as 8- or 16-bit RGB")
    return image


def _as_srgb(samples: np.ndarray, is_cmyk: bool, icc: bytes | None, dtype: type) -> np.ndarray:
    """(H, W, 1, 3 or 4 = CMYK) -> (H, W, 3) sRGB of `dtype`."""
    space = "CMYK" if is_cmyk else {1: "GRAY", 3: "RGB"}[samples.shape[2]]
    profile = parse_profile(icc) if icc else None
    if profile is not None and (space, profile.space) == ("GRAY", "RGB"):
        samples, space = np.repeat(samples, 3, axis=2), "RGB"
    if profile is not None and space == "RGB" and profile.space == "GRAY":
        raise ProfileError("it is for gray images, but the image has colours")
    if profile is not None and (space == "CMYK") != (profile.space == "CMYK"):
        raise ProfileError(f"it is for {profile.space}, but the image is {space}")
    if profile is not None:
        return to_srgb(samples, profile, dtype)
    if is_cmyk:
        samples = np.asarray(Image.fromarray(change_depth(samples, np.uint8), mode="CMYK").convert("RGB"))
    samples = change_depth(samples, dtype)
    return np.repeat(samples, 3, axis=2) if space == "GRAY" else samples


def _on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite (H, W, 3) on white by (H, W, 1) alpha of the same depth, rounded."""
    top = int(np.iinfo(colours.dtype).max)
    if alpha.min() == top:
        return colours
    weight = alpha.astype(np.uint64)
    mixed = (colours * weight + top * (top - weight) + top // 2) // top
    return mixed.astype(colours.dtype)


def _oriented(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn the array upright by EXIF orientation 1 to 8 (values outside mean 1); the result is contiguous."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)
