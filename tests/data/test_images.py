"""Image semantics: every kind of file gives upright sRGB, or an error that names the file; sizes and resizing."""

import os
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from data import images
from data.images import decode, decode_bytes, fit_crop_size, read_file, resize
from tests.helpers.image_files import (
    ROMM,
    curv,
    encoded,
    icc_profile,
    iccp_chunk,
    noise,
    png16,
    png_chunk,
    rounded,
    save,
    tiff,
)


def refusal(content: bytes, name: str = "photo.jpg") -> str:
    with pytest.raises(InputError) as caught:
        decode_bytes(content, name)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    return message


def test_layouts_that_pillow_reads_wrongly_are_refused():
    samples = np.zeros((8, 8, 3), np.uint16)
    for zipped in (True, False):
        assert "missing" in refusal(tiff(samples, zipped=zipped, tags={284: (3, [2])})), "of one plane"
    premultiplied = tiff(np.zeros((8, 8, 4), np.uint16), tags={338: (3, [1])})
    assert "premultiplied" in refusal(premultiplied)


def test_gray_palette_and_bilevel_become_rgb():
    photo = Image.fromarray(noise(1)).resize((40, 30))
    for mode in ("L", "P", "1"):
        image = photo.convert(mode)
        assert np.array_equal(decode_bytes(encoded(image, "PNG"), "x"), np.asarray(image.convert("RGB")))


def test_cmyk_becomes_rgb_with_and_without_profile():
    inks = noise(2, 32, 24)
    image = Image.merge("CMYK", [*Image.fromarray(inks).split(), Image.new("L", (32, 24), 40)])
    assert np.array_equal(decode_bytes(encoded(image, "TIFF"), "x"), np.asarray(image.convert("RGB")))
    deep = tiff(np.asarray(image).astype(np.uint16) * 257, tags={262: (3, [5]), 338: None})
    assert np.array_equal(decode_bytes(deep, "x"), np.asarray(image.convert("RGB")))
    assert "for RGB, but the image is CMYK" in refusal(encoded(image, "TIFF", icc_profile=ROMM))


def test_alpha_is_composited_on_white():
    colours, alpha = noise(3), np.arange(192, dtype=np.uint8).reshape(12, 16, 1)
    content = encoded(Image.fromarray(np.concatenate([colours, alpha], axis=2)), "PNG")
    weight = alpha / 255
    assert np.array_equal(decode_bytes(content, "x"), np.floor(colours * weight + 255 * (1 - weight) + 0.5))
    hidden = Image.fromarray(np.concatenate([colours, np.zeros_like(alpha)], axis=2))
    assert decode_bytes(encoded(hidden, "PNG"), "x").min() == 255
    gray = Image.merge("LA", [Image.new("L", (20, 20), 0), Image.new("L", (20, 20), 128)])
    assert set(np.unique(decode_bytes(encoded(gray, "PNG"), "x"))) == {127}


def test_transparent_colours_become_white():
    image = Image.fromarray(noise(4)).convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    assert decode_bytes(encoded(image, "PNG", transparency=image.info["transparency"]), "x")[0, 0].tolist() == [255] * 3
    samples = np.random.default_rng(5).integers(0, 65000, (6, 7, 3), dtype=np.uint16)
    key = png_chunk(b"tRNS", struct.pack(">3H", *samples[2, 3].tolist()))
    result = decode_bytes(png16(samples, key), "x")
    wanted = rounded(samples)
    wanted[2, 3] = 255
    assert np.array_equal(result, wanted)


def test_a_broken_or_foreign_profile_is_an_error():
    image = Image.fromarray(noise(8))
    assert "ICC profile" in refusal(encoded(image, "TIFF", icc_profile=b"x" * 200))
    gray = icc_profile([curv(461)], None, b"GRAY")
    assert "for gray images" in refusal(encoded(image, "PNG", icc_profile=gray))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("part", [0.5, 0.97])
def test_a_cut_file_is_an_error(kind, part):
    content = encoded(Image.fromarray(noise(9, 80, 60)), kind)
    refusal(content[: int(len(content) * part)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own remarks on the broken file
def test_a_cut_sixteen_bit_file_is_an_error():
    samples = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    for content in (png16(samples), tiff(samples, zipped=True)):
        refusal(content[: len(content) // 2])
    damaged = bytearray(png16(samples))
    damaged[len(damaged) // 2] ^= 255
    refusal(bytes(damaged))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n <!DOCTYPE html><html>", "HTML"),
        (b"GIF89a" + bytes(40), "GIF is not read"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"\0\x05\x16\x07" + bytes(100), "AppleDouble"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"hello world", "not an image"),
    ],
)
def test_files_that_are_no_image_say_what_they_are(content, reason):
    assert reason in refusal(content)


def test_animations_pages_previews_and_dots_are_refused():
    frames = [Image.fromarray(noise(seed)) for seed in range(3)]
    for kind, word in (("PNG", "animated PNG"), ("WEBP", "animated WEBP"), ("TIFF", "3 pages")):
        assert word in refusal(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert "raw file" in refusal(tiff(noise(1).astype(np.uint8), tags={254: (4, [1])}))
    assert "raw file" in refusal(tiff(noise(1).astype(np.uint8), tags={50706: (1, [1, 4, 0, 0])}))
    assert "1 x 1" in refusal(encoded(Image.new("RGB", (1, 1)), "PNG"))
    assert "32-bit floating-point gray is not read" in refusal(encoded(Image.new("F", (20, 20)), "TIFF"))


def test_a_second_jpeg_inside_is_left_out():
    first, second = Image.fromarray(noise(1)), Image.fromarray(noise(2))
    content = encoded(first, "MPO", save_all=True, append_images=[second])
    assert np.array_equal(decode_bytes(content, "x"), decode_bytes(encoded(first, "JPEG"), "x"))


def test_a_decompression_bomb_is_refused_before_it_unfolds():
    header = struct.pack(">IIBBBBB", 20_000, 10_001, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "more than 200 megapixels" in refusal(bomb)


def test_missing_files_and_folders_are_named(tmp_path):
    for path, reason in ((tmp_path / "none.jpg", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=reason) as caught:
            decode(path)
        assert str(path) in str(caught.value)


def test_the_content_decides_not_the_name(tmp_path):
    path = save(noise(1), tmp_path / "photo.png")
    assert np.array_equal(decode(path.rename(tmp_path / "photo.jpg")), noise(1))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own remarks on the broken file
def test_broken_bytes_never_escape_as_another_exception():
    rng = np.random.default_rng(0)
    sources = [encoded(Image.fromarray(noise(1, 40, 30)), kind) for kind in ("JPEG", "PNG", "TIFF", "WEBP", "BMP")]
    deep = rng.integers(0, 65536, (12, 16, 3), dtype=np.uint16)
    sources += [png16(deep, iccp_chunk(ROMM)), tiff(deep, tags={34675: (1, list(ROMM))})]
    refused = 0
    for source in sources:
        for _ in range(60):
            content = np.frombuffer(source, np.uint8).copy()
            content[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
            try:
                assert decode_bytes(content.tobytes(), "x").dtype == np.uint8
            except InputError:
                refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("size", "resolution", "enlarge", "wanted"),
    [
        ((4000, 3000), 384, False, (512, 384)),
        ((3000, 4000), 384, True, (384, 512)),
        ((1000, 667), 384, False, (576, 384)),
        ((300, 200), 384, False, (300, 200)),
        ((300, 200), 384, True, (576, 384)),
        ((384, 384), 384, True, (384, 384)),
        ((5, 2), 5, True, (13, 5)),
    ],
)
def test_fit_crop_makes_the_short_side_the_resolution(size, resolution, enlarge, wanted):
    assert fit_crop_size(*size, resolution, enlarge) == wanted


def test_resize_is_antialiased_bicubic():
    image = noise(1, 64, 48)
    wanted = np.asarray(Image.fromarray(image).resize((16, 12), Image.Resampling.BICUBIC))
    assert np.array_equal(resize(image, (16, 12)), wanted)
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))[..., None].repeat(3, axis=2)
    assert np.abs(resize(stripes, (8, 8)).astype(int) - 127).max() < 40, (
        "without antialiasing the stripes stay black and white"
    )
    assert resize(image, (64, 48)) is image


def test_a_box_is_cut_out_exactly_and_scaled_with_the_same_filter():
    image = noise(1, 64, 48)
    assert np.array_equal(resize(image, (30, 20), (3, 5, 33, 25)), image[5:25, 3:33])
    part = Image.fromarray(image[5:45, 3:63]).resize((30, 20), Image.Resampling.BICUBIC)
    inside = np.abs(resize(image, (30, 20), (3, 5, 63, 45)).astype(int) - np.asarray(part))[3:-3, 3:-3]
    assert inside.max() <= 1, "beyond the box only the filter's support is used"


def test_a_jpeg_can_be_decoded_at_a_fraction_and_other_files_cannot():
    photo = Image.fromarray(noise(1, 8, 6)).resize((128, 96), Image.Resampling.BICUBIC)
    content = encoded(photo, "JPEG", quality=95, subsampling=0)
    for scale in (2, 4, 8):
        small = decode_bytes(content, "x", jpeg_scale=scale).astype(int)
        assert np.abs(small - np.asarray(photo.reduce(scale))).mean() < 2
    odd = encoded(photo.crop((0, 0, 101, 77)), "JPEG")
    assert decode_bytes(odd, "x", jpeg_scale=4).shape == (20, 26, 3)
    assert decode_bytes(encoded(photo, "PNG"), "x", jpeg_scale=4).shape == (96, 128, 3)


def test_the_decoder_names_what_determines_the_pixels():
    assert "Pillow" in images.DECODER and str(images.SEMANTICS) in images.DECODER


def test_a_fifo_is_no_photo_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="a.jpg: no regular file"):
        read_file(tmp_path / "a.jpg")
