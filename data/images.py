"""Image file -> sRGB array: the one reading of an image that all scripts share; picture -> JPEG file. Needs no torch.

EXIF orientation applied, stated colours (ICC profile, PNG's chunks, EXIF's Adobe RGB) converted to sRGB, alpha composited on
white, gray, palette and CMYK converted, samples of more than 8 bits scaled with rounding, raw files developed neutrally. What
cannot be decoded whole is an error. Pillow reads; raw files, HEIC and rare kinds of TIFF need optional extras.
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
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, features

from common.errors import InputError
from data.colour import ProfileError
from data.decoding.heif import HEIF_ENDINGS, coded_colours, decode_heic, heif_version, is_heic
from data.decoding.odd_tiff import decode_odd_tiff
from data.decoding.raw import develop, is_raw, raw_version
from data.decoding.stated import sound_exif, stated_profile
from data.decoding.tiff_tags import count_photos, is_tiff
from data.decoding.unread import what_it_is
from data.decoding.upright import MAX_PIXELS, to_upright_srgb
from data.deep_images import BITS_PER_SAMPLE, UnreadLayout, UnsupportedImage, is_deep, read_deep

SEMANTICS = 2  # raise when the pixels of any readable file change
DECODER = (
    f"{SEMANTICS}, Pillow {PIL.__version__}, libjpeg {features.version('libjpeg_turbo') or features.version('jpg')}"
)
HAS_AVIF = "avif" in features.modules and features.check("avif")  # Pillow 11.3 and newer, as most are built
FORMATS = (
    "JPEG",
    "PNG",
    "TIFF",
    "WEBP",
    "BMP",
    *(("AVIF",) if HAS_AVIF else ()),
)  # Pillow opens MPO as JPEG; its further images are left out
# ENXIO: a socket, or a device that is not there.
NOT_READABLE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENXIO)
# Pillow warns at its limit and raises at twice that; a file of 256 KB can claim gigabytes of pixels.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
# Pillow refuses PNG with more text than 1 MB, which edit histories exceed, and with larger profiles.
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 2**26, 2**28

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
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
NEW_SUBFILE_TYPE, COMPRESSION, SAMPLE_FORMAT, DNG_VERSION = 254, 259, 339, 50706  # TIFF tags
REDUCED_RESOLUTION = 1
ONE_PAGE = "save it alone (ImageMagick: magick IN.tif[0] OUT.tif)"
WEBP_IN_TIFF, SIGNED = 50001, 2  # values of two of them


def decode(path: str | Path) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 sRGB at native size.

    Raises InputError naming the file when it is missing, no whole image, animated, over 200 megapixels, or has a broken
    profile; NeedsPackage, which is one, when an optional extra would read it.
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

    if is_raw(name):
        return develop(content, name, deep=dtype == np.uint16)[0]
    if is_heic(content):
        return decode_heic(content, name, untagged, dtype)

    def reopen() -> ImageFile.ImageFile:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if jpeg_scale > 1:
            image.draft(None, (image.width // jpeg_scale, image.height // jpeg_scale))
        return image

    try:
        if is_tiff(content) and (photos := count_photos(content)) > 1:
            raise UnsupportedImage(f"TIFF with {photos} pages; a photo has one: {ONE_PAGE}")
        return _pixels(reopen, content, dtype, untagged)
    except (UnidentifiedImageError, UnreadLayout) as error:
        if is_tiff(content):
            return decode_odd_tiff(content, name, untagged, dtype)
        raise InputError(f"{name}: {error if isinstance(error, UnreadLayout) else what_it_is(content)}") from None
    except (UnsupportedImage, ProfileError) as error:
        reason = f"embedded ICC profile: {error}" if isinstance(error, ProfileError) else error
        raise InputError(f"{name}: {reason}") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: more than {MAX_PIXELS // 10**6} megapixels") from None
    except DECODE_ERRORS as error:
        raise InputError(f"{name}: broken image: {error}") from None


def decoder_of(*paths: str | Path) -> str:
    """DECODER, with the versions of the optional extras that read files with the endings of `paths`."""
    raw = f"rawpy {raw_version()}" if any(is_raw(path) for path in paths) else ""
    heif = any(Path(path).suffix.lower() in HEIF_ENDINGS for path in paths)
    return ", ".join(part for part in (DECODER, raw, f"pillow-heif {heif_version()}" if heif else "") if part)


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


def _pixels(
    reopen: Callable[[], ImageFile.ImageFile], content: bytes, dtype: type, untagged: bytes | None
) -> np.ndarray:
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
        icc = image.info.get("icc_profile") if is_cmyk else profile_of(file, content) or untagged
        return to_upright_srgb(samples, is_cmyk, icc, sound_exif(file).get(ExifTags.Base.Orientation, 1), dtype)


def profile_of(image: Image.Image, content: bytes) -> bytes | None:
    """The ICC profile of the colours that an opened RGB or gray image states, `content` being its file; None: sRGB, or not stated.

    Raises UnsupportedImage for colours that are not read, such as HDR.
    """
    stated = stated_profile(image, content)
    return coded_colours(content) if stated is None and image.format == "AVIF" else stated


def _refuse_unusual(image: Image.Image) -> None:
    if image.width * image.height == 1:
        raise UnsupportedImage("1 x 1 pixel is not a photo")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _refuse_unusual_tiff(image)
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        frames = image.n_frames  # type: ignore[attr-defined]  # what can be animated has it
        raise UnsupportedImage(f"animated {image.format} with {frames} frames; a photo has one")


def _refuse_unusual_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    tags = image.tag_v2
    if DNG_VERSION in tags or tags.get(NEW_SUBFILE_TYPE, 0) & REDUCED_RESOLUTION:
        raise UnsupportedImage(
            "a raw file, or one whose first page is only a preview; give a raw file its own ending (.dng, .nef, .cr2, ...), or "
            "save the photo as TIFF, PNG or JPEG"
        )
    is_signed = SIGNED in tags.get(SAMPLE_FORMAT, (1,)) and max(tags.get(BITS_PER_SAMPLE, (1,))) > 8
    if tags.get(COMPRESSION) == WEBP_IN_TIFF or is_signed:
        raise UnreadLayout("TIFF that Pillow would call broken")


def _plain_mode(image: Image.Image) -> Image.Image:
    """A loaded 8-bit image in one of the modes L, LA, RGB, RGBA, CMYK."""
    if image.mode in ("P", "L", "RGB", "1") and "transparency" in image.info:
        return image.convert("RGBA")
    plain = {"1": "L", "P": "RGB", "PA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA", "La": "LA", "YCbCr": "RGB"}
    if image.mode in plain:
        return image.convert(plain[image.mode])
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        raise UnreadLayout(f"pixels of kind {image.mode} are not read; save it as 8- or 16-bit RGB")
    return image
