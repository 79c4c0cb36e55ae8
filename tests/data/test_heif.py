"""HEIC by pillow-heif, where it is installed, and AVIF by Pillow: colours, depth, direction, and what is broken."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from common.errors import InputError
from data.decoding.stated import adobe_rgb
from data.images import HAS_AVIF, decode_bytes, decoder_of
from data.photo_files import photo_of
from tests.helpers.image_files import encoded
from tests.helpers.photos import scene

PHOTO = scene(4, 128, 96)
ONLY_AVIF = pytest.mark.skipif(not HAS_AVIF, reason="this Pillow has no AVIF")


def heic(image: Image.Image, **options) -> bytes:
    content = io.BytesIO()
    pytest.importorskip("pillow_heif").from_pillow(image).save(content, quality=100, chroma=444, **options)
    return content.getvalue()


def avif(image: Image.Image, **options) -> bytes:
    return encoded(image, "AVIF", quality=100, subsampling="4:4:4", **options)


@pytest.mark.parametrize("write", [heic, pytest.param(avif, marks=ONLY_AVIF)])
def test_pixels_profile_and_direction(write):
    plain = decode_bytes(write(Image.fromarray(PHOTO)), "x")
    assert np.abs(plain.astype(int) - PHOTO).mean() < 1.5
    tagged = Image.fromarray(PHOTO)
    tagged.info["icc_profile"] = adobe_rgb()
    wanted = decode_bytes(encoded(Image.fromarray(PHOTO), "PNG", icc_profile=adobe_rgb()), "x").astype(int)
    assert np.abs(decode_bytes(write(tagged, icc_profile=adobe_rgb()), "x") - wanted).mean() < 1.5
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Imaginary"
    photo = photo_of(write(Image.fromarray(PHOTO), exif=exif.tobytes()), Path("x"))
    assert photo.exif[ExifTags.Base.Make] == "Imaginary" and ExifTags.Base.Orientation not in photo.exif
    assert photo.pixels.shape == (128, 96, 3)
    assert np.abs(photo.pixels.astype(int) - np.rot90(PHOTO, -1)).mean() < 1.5


@pytest.mark.parametrize("write", [heic, pytest.param(avif, marks=ONLY_AVIF)])
def test_code_points_count_and_hdr_is_refused(write):
    content = bytearray(write(Image.fromarray(PHOTO)))
    place = content.find(b"colrnclx")
    if place < 0:
        pytest.skip("this version of the package writes no code points")
    content[place + 8 : place + 12] = bytes([0, 12, 0, 13])
    assert np.abs(decode_bytes(bytes(content), "x").astype(int) - PHOTO).mean() > 3, "Display P3 is wider than sRGB"
    content[place + 8 : place + 12] = bytes([0, 9, 0, 16])
    with pytest.raises(InputError, match="HDR"):
        decode_bytes(bytes(content), "x")


@pytest.mark.parametrize("write", [heic, pytest.param(avif, marks=ONLY_AVIF)])
def test_a_cut_file_is_broken(write):
    content = write(Image.fromarray(PHOTO))
    for part in (0.3, 0.9):
        with pytest.raises(InputError, match="broken"):
            decode_bytes(content[: int(len(content) * part)], "x")


def test_ten_bits_fill_the_range():
    pillow_heif = pytest.importorskip("pillow_heif")
    deep, content = PHOTO.astype(np.uint16) * 257, io.BytesIO()
    deep[:16, :16] = 65535
    image = pillow_heif.from_bytes(mode="RGB;16", size=(128, 96), data=deep.tobytes())
    image.save(content, quality=100, chroma=444)
    pixels = photo_of(content.getvalue(), Path("x.heic")).pixels
    assert pixels.dtype == np.uint16 and pixels.max() == 65535
    assert np.abs(pixels.astype(int) - deep).mean() < 300


def test_the_recorded_decoder_names_what_read_the_photo():
    assert decoder_of("a.jpg", "b.tif") == decoder_of("c.png")
    assert "pillow-heif" in decoder_of("a.HEIC", "b.jpg") and "rawpy" in decoder_of("a.jpg", "b.Cr2")
