"""Image semantics: every kind of file gives upright sRGB, or an error that names the file."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from data import images
from data.errors import DataError
from data.images import decode, decode16, decode_bytes, fit_crop_size, resize
from tests.image_files import PROPHOTO, curv, icc_profile, iccp_chunk, noise, png16, png_chunk, reference, save, tiff

ROMM = icc_profile([curv(461)] * 3, PROPHOTO)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def refusal(content: bytes, name: str = "photo.jpg") -> str:
    with pytest.raises(DataError) as caught:
        decode_bytes(content, name)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    return message


def rounded(samples: np.ndarray) -> np.ndarray:
    """16 bits -> 8 bits in float64."""
    return np.floor(samples.astype(np.float64) * 255 / 65535 + 0.5).astype(np.uint8)


def turned(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores `upright` under an EXIF orientation: the inverse of what the EXIF standard says to do."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](upright))


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
    assert np.array_equal(decode16(path), wanted)
    assert np.array_equal(decode(path), rounded(wanted))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_keeps_all_bits(tmp_path, channels):
    samples = np.random.default_rng(2).integers(0, 65536, (23, 31, channels), dtype=np.uint16)
    if channels in (2, 4):
        samples[..., -1] = 65535
    path = tmp_path / "deep.png"
    path.write_bytes(png16(samples))
    wanted = np.repeat(samples[..., :1], 3, axis=2) if channels < 3 else samples[..., :3]
    assert np.array_equal(decode16(path), wanted)
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


def test_layouts_that_pillow_reads_wrongly_are_refused():
    samples = np.zeros((8, 8, 3), np.uint16)
    for zipped in (True, False):
        assert "separate planes" in refusal(tiff(samples, zipped=zipped, tags={284: (3, [2])}))
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
    assert len(np.unique(decode16(path)[..., 1])) > 150, "192 codes are less than one 8-bit code apart"
    as_tiff = tiff(step, tags={34675: (1, list(ROMM))})
    assert np.array_equal(decode_bytes(as_tiff, "x"), decode(path))


def test_an_srgb_profile_changes_nothing_and_a_gray_image_may_have_an_rgb_one():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = noise(7)
    assert np.array_equal(decode_bytes(encoded(Image.fromarray(image), "PNG", icc_profile=srgb), "x"), image)
    gray = Image.fromarray(image).convert("L")
    tagged = decode_bytes(encoded(gray, "PNG", icc_profile=ROMM), "x")
    assert np.array_equal(tagged, decode_bytes(encoded(gray.convert("RGB"), "PNG", icc_profile=ROMM), "x"))


def test_a_broken_or_foreign_profile_is_an_error():
    image = Image.fromarray(noise(8))
    assert "embedded ICC profile: it has no ICC header" in refusal(encoded(image, "TIFF", icc_profile=b"x" * 200))
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
    assert "kind F" in refusal(encoded(Image.new("F", (20, 20)), "TIFF"))


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
        with pytest.raises(DataError, match=reason) as caught:
            decode(path)
        assert str(path) in str(caught.value)


def test_the_content_decides_not_the_name(tmp_path):
    path = save(noise(1), tmp_path / "photo.png")
    assert np.array_equal(decode(path.rename(tmp_path / "photo.jpg")), noise(1))


def test_an_eight_bit_file_is_scaled_up_for_sixteen_bits(tmp_path):
    assert np.array_equal(decode16(save(noise(1), tmp_path / "a.png")), noise(1).astype(np.uint16) * 257)


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
            except DataError:
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


def test_the_decoder_names_what_determines_the_pixels():
    assert "Pillow" in images.DECODER and str(images.SEMANTICS) in images.DECODER
