"""Images with 16 bits, embedded profiles and orientation: what the file says about its samples is honoured before rounding."""

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from data.images import decode, decode_bytes
from tests.helpers.image_files import (
    ROMM,
    encoded,
    iccp_chunk,
    noise,
    png16,
    png_chunk,
    reference,
    rounded,
    save,
    tiff,
    turned,
)


def deep(path):
    return decode_bytes(path.read_bytes(), path, dtype=np.uint16)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_once(kind, orientation):
    quarters = np.array(
        [[[250, 20, 20], [20, 250, 20]], [[20, 20, 250], [240, 240, 240]], [[0, 0, 0], [90, 90, 90]]], np.uint8
    )
    upright = quarters.repeat(16, axis=0).repeat(16, axis=1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    result = decode_bytes(encoded(Image.fromarray(turned(upright, orientation)), kind, exif=exif, **options), "x")
    assert result.shape == upright.shape and result.flags.c_contiguous
    assert np.abs(result.astype(int) - upright).max() <= (3 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_sixteen_bit_files(orientation):
    upright = np.random.default_rng(0).integers(0, 65536, (9, 14, 3), dtype=np.uint16)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = turned(upright, orientation)
    for content in (
        png16(stored, png_chunk(b"eXIf", exif.tobytes()[6:])),
        tiff(stored, tags={274: (3, [orientation])}),
        tiff(stored, ">", True, tags={274: (3, [orientation])}),
    ):
        assert np.array_equal(decode_bytes(content, "x"), rounded(upright))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("zipped", [False, True])
def test_sixteen_bit_tiff_keeps_all_bits(tmp_path, channels, order, zipped):
    samples = np.random.default_rng(1).integers(0, 65536, (23, 31, channels), dtype=np.uint16)
    if channels == 4:
        samples[..., 3] = 65535
    path = tmp_path / "deep.tif"
    path.write_bytes(tiff(samples, order, zipped))
    wanted = np.repeat(samples, 3, axis=2) if channels == 1 else samples[..., :3]
    assert np.array_equal(deep(path), wanted)
    assert np.array_equal(decode(path), rounded(wanted))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_keeps_all_bits(tmp_path, channels):
    samples = np.random.default_rng(2).integers(0, 65536, (23, 31, channels), dtype=np.uint16)
    if channels in (2, 4):
        samples[..., -1] = 65535
    path = tmp_path / "deep.png"
    path.write_bytes(png16(samples))
    wanted = np.repeat(samples[..., :1], 3, axis=2) if channels < 3 else samples[..., :3]
    assert np.array_equal(deep(path), wanted)
    assert np.array_equal(decode(path), rounded(wanted))


@pytest.mark.parametrize("make", [png16, tiff], ids=["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_ramp_of_all_sixteen_bit_codes_is_rounded_neither_cut_nor_clipped(make, channels):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(channels, axis=2)
    assert np.array_equal(decode_bytes(make(ramp), "x"), np.repeat(rounded(ramp)[..., :1], 3, axis=2))


def test_sixteen_bit_white_is_zero_and_twelve_bit_gray():
    samples = np.random.default_rng(3).integers(0, 65536, (8, 16, 1), dtype=np.uint16)
    inverted = decode_bytes(tiff(samples, tags={262: (3, [0])}), "x")
    assert np.array_equal(inverted[..., :1], rounded(65535 - samples))
    codes = (samples >> 4).astype(np.uint32).reshape(8, 8, 2)
    packed = np.stack(
        [codes[..., 0] >> 4, (codes[..., 0] & 15) << 4 | codes[..., 1] >> 8, codes[..., 1] & 255], axis=-1
    )
    as_bytes = packed.astype(np.uint8).reshape(8, 24, 1)
    content = tiff(as_bytes, tags={256: (4, [16]), 258: (3, [12])})
    wanted = np.floor((samples >> 4).astype(np.float64) * 255 / 4095 + 0.5)
    assert np.abs(decode_bytes(content, "x")[..., :1] - wanted).max() <= 1


def test_alpha_of_sixteen_bits_is_composited_before_rounding():
    samples = np.random.default_rng(6).integers(0, 65536, (12, 16, 4), dtype=np.uint16)
    weight = samples[..., 3:].astype(np.float64) / 65535
    wanted = np.floor(samples[..., :3] * weight + 65535 * (1 - weight) + 0.5)
    assert np.array_equal(decode_bytes(png16(samples), "x"), rounded(wanted))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_embedded_profile_is_converted(kind):
    codes = np.full((32, 32, 3), (90, 160, 120), np.uint8)
    plain = decode_bytes(encoded(Image.fromarray(codes), kind), "x")
    result = decode_bytes(encoded(Image.fromarray(codes), kind, icc_profile=ROMM), "x")
    wanted = reference(plain, lambda x: x ** (461 / 256))[0, 0]
    assert np.abs(result[0, 0] - wanted).max() <= 1 and np.abs(result[0, 0].astype(int) - plain[0, 0]).max() > 20


def test_the_profile_of_a_sixteen_bit_file_is_used_before_rounding(tmp_path):
    step = np.arange(20000, 20000 + 12 * 16, dtype=np.uint16).reshape(12, 16, 1).repeat(3, axis=2)
    path = tmp_path / "deep.png"
    path.write_bytes(png16(step, iccp_chunk(ROMM)))
    assert len(np.unique(deep(path)[..., 1])) > 150, "192 codes are less than one 8-bit code apart"
    as_tiff = tiff(step, tags={34675: (1, list(ROMM))})
    assert np.array_equal(decode_bytes(as_tiff, "x"), decode(path))


def test_an_srgb_profile_changes_nothing_and_a_gray_image_may_have_an_rgb_one():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = noise(7)
    assert np.array_equal(decode_bytes(encoded(Image.fromarray(image), "PNG", icc_profile=srgb), "x"), image)
    gray = Image.fromarray(image).convert("L")
    tagged = decode_bytes(encoded(gray, "PNG", icc_profile=ROMM), "x")
    assert np.array_equal(tagged, decode_bytes(encoded(gray.convert("RGB"), "PNG", icc_profile=ROMM), "x"))


def test_an_eight_bit_file_is_scaled_up_for_sixteen_bits(tmp_path):
    assert np.array_equal(deep(save(noise(1), tmp_path / "a.png")), noise(1).astype(np.uint16) * 257)


def test_an_assumed_profile_is_for_untagged_files_only():
    codes = noise(4, 40, 30)
    wanted = reference(codes, lambda x: x ** (461 / 256))
    assumed = decode_bytes(encoded(Image.fromarray(codes), "PNG"), "x", untagged=ROMM)
    assert np.abs(assumed - wanted).max() <= 1
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged = encoded(Image.fromarray(codes), "PNG", icc_profile=srgb)
    assert np.array_equal(decode_bytes(tagged, "x", untagged=ROMM), codes)
    inks = Image.fromarray(np.dstack([codes, codes[..., 0]]), "CMYK")
    assert np.array_equal(decode_bytes(encoded(inks, "TIFF"), "x", untagged=ROMM), np.asarray(inks.convert("RGB")))
