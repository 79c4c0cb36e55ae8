"""Colours stated outside an ICC profile, metadata that is broken or large, and kinds of TIFF: right pixels, or why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from common.errors import InputError
from data.audit.measures import read_small
from data.fingerprint import fingerprint
from data.images import decode, decode_bytes
from data.photo_files import photo_of
from tests.helpers.fivek_tree import linear
from tests.helpers.image_files import curv, encoded, icc_profile, iccp_chunk, noise, png_chunk, rounded, tiff

ADOBE = icc_profile(
    [curv(563)] * 3, np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
)
# Linear Display P3 -> linear sRGB, as published (CSS Color 4), and the chromaticities of both and of Adobe RGB.
P3_TO_SRGB = np.array(
    [[1.2249401763, -0.2249401763, 0], [-0.0420569547, 1.0420569547, 0], [-0.0196375546, -0.0786360456, 1.0982736001]]
)
P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ADOBE_CORNERS = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
PHOTO = np.asarray(Image.fromarray(noise(1)).resize((48, 36), Image.Resampling.BICUBIC))
BROKEN_EXIF = b"\0\0\x2a\0\1\0\0\x09broken"


def exif(space: int | None, index: str | None) -> Image.Exif:
    """EXIF of a camera: ColorSpace and InteroperabilityIndex."""
    written = Image.Exif()
    entries = written.get_ifd(ExifTags.IFD.Exif)
    if space is not None:
        entries[ExifTags.Base.ColorSpace] = space
    if index is not None:
        entries[ExifTags.IFD.Interop] = {1: index, 2: b"0100"}
    written[ExifTags.IFD.Exif] = entries  # or Pillow takes it for empty
    return written


def png(*chunks: bytes, photo: np.ndarray = PHOTO) -> bytes:
    """A PNG with further chunks behind its header."""
    content = encoded(Image.fromarray(photo), "PNG")
    return content[:33] + b"".join(chunks) + content[33:]


def gama(value: int) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", value))


def chrm(corners: tuple[int, ...]) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *corners))


def cicp(*codes: int) -> bytes:
    return png_chunk(b"cICP", bytes(codes))


def in_srgb(light: np.ndarray) -> np.ndarray:
    """Linear sRGB -> codes, not rounded."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def refusal(content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        decode_bytes(content, "x.tif")
    return str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("space", "index", "is_adobe"),
    [
        (65535, "R03", True),
        (None, "R03", True),
        (2, None, True),
        (65535, "R98", False),
        (65535, None, False),
        (1, "R03", False),
    ],
)
def test_adobe_rgb_by_exif_gives_the_pixels_of_the_embedded_profile(kind, space, index, is_adobe):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 96} if kind == "JPEG" else {}
    stated, tagged, plain = (
        decode_bytes(encoded(Image.fromarray(PHOTO), kind, **options, **more), "x").astype(int)
        for more in ({"exif": exif(space, index)}, {"icc_profile": ADOBE}, {})
    )
    assert np.abs(tagged - plain).max() > 15
    assert np.array_equal(stated, tagged if is_adobe else plain)


def test_every_stage_reads_the_stated_colours(tmp_path):
    path, tagged = tmp_path / "a.jpg", tmp_path / "b.jpg"
    path.write_bytes(encoded(Image.fromarray(PHOTO), "JPEG", exif=exif(65535, "R03")))
    tagged.write_bytes(encoded(Image.fromarray(PHOTO), "JPEG", icc_profile=ADOBE))
    assert np.array_equal(decode(path), decode(tagged))
    assert fingerprint(path).sha256 == fingerprint(tagged).sha256
    assert np.array_equal(read_small(path).pixels, read_small(tagged).pixels)
    assert "Adobe RGB" in read_small(path).profile
    assert np.array_equal(photo_of(path.read_bytes(), path).pixels, photo_of(tagged.read_bytes(), tagged).pixels)


def test_png_primaries_and_gamma():
    p3 = in_srgb(linear(PHOTO) @ P3_TO_SRGB.T)
    adobe = decode_bytes(png(iccp_chunk(ADOBE)), "x")
    for chunks, wanted in (
        ([cicp(12, 13, 0, 1)], p3),
        ([chrm(P3)], p3),
        ([gama(45470), chrm(ADOBE_CORNERS)], adobe),
        ([gama(100000)], in_srgb(PHOTO / 255)),
        ([gama(55556), chrm(SRGB)], in_srgb((PHOTO / 255) ** 1.8)),
        ([cicp(1, 8, 0, 1)], in_srgb(PHOTO / 255)),
    ):
        assert np.abs(decode_bytes(png(*chunks), "x").astype(float) - wanted).max() <= 1.01


def test_chunks_that_mean_srgb_or_nothing_leave_every_code_as_it_is():
    srgb = png_chunk(b"sRGB", b"\0")
    for chunks in (
        [gama(45455), chrm(SRGB)],
        [gama(45455)],
        [chrm(SRGB)],
        [cicp(1, 13, 0, 1)],
        [cicp(2, 2, 0, 1)],
        [gama(0)],
        [gama(45455), chrm((0,) * 8)],
    ):
        assert np.array_equal(decode_bytes(png(*chunks), "x"), PHOTO)
        assert np.array_equal(decode_bytes(png(*chunks, srgb), "x"), PHOTO)


def test_the_order_is_that_of_the_png_specification():
    srgb, adobe_gama, profile = png_chunk(b"sRGB", b"\0"), [gama(45470), chrm(ADOBE_CORNERS)], iccp_chunk(ADOBE)
    p3, adobe = decode_bytes(png(cicp(12, 13, 0, 1)), "x"), decode_bytes(png(profile), "x")
    assert np.array_equal(decode_bytes(png(*adobe_gama, profile, cicp(12, 13, 0, 1)), "x"), p3)
    assert np.array_equal(decode_bytes(png(gama(100000), profile), "x"), adobe)
    assert np.array_equal(decode_bytes(png(*adobe_gama, srgb), "x"), PHOTO)
    by_exif = png_chunk(b"eXIf", exif(65535, "R03").tobytes().removeprefix(b"Exif\0\0"))
    assert np.array_equal(decode_bytes(png(srgb, by_exif), "x"), PHOTO)


@pytest.mark.parametrize(
    ("codes", "word"), [((9, 16, 0, 1), "HDR"), ((1, 13, 1, 1), "full-range"), ((3, 13, 0, 1), "3/13")]
)
def test_colours_that_are_not_read_say_how_to_convert(codes, word):
    message = refusal(png(cicp(*codes)))
    assert word in message and "save it" in message and "broken" not in message


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_a_broken_exif_block_is_left_out(tmp_path, kind):
    block = BROKEN_EXIF if kind == "PNG" else b"Exif\0\0" + BROKEN_EXIF
    options = {"PNG": {}, "WEBP": {"lossless": True}}.get(kind, {})
    image = Image.fromarray(PHOTO)
    if kind == "PNG":
        content = png(png_chunk(b"eXIf", block))
    elif kind == "TIFF":
        content = tiff(PHOTO, tags={34665: (4, [2**31])})
    else:
        content = encoded(image, kind, exif=block, **options)
    path = tmp_path / "photo"
    path.write_bytes(content)
    photo = photo_of(content, path)
    assert photo.kind == kind and not len(photo.exif)
    assert np.array_equal(photo.pixels, decode_bytes(encoded(image, kind, **options), "x"))
    assert read_small(path).orientation == 1


def test_large_metadata_is_no_reason_to_refuse():
    history, big = b"edited " * 200_000, ADOBE + bytes(1_200_000)
    text = png_chunk(b"zTXt", b"history\0\0" + zlib.compress(history))
    assert np.array_equal(decode_bytes(png(text), "x"), PHOTO)
    adobe = decode_bytes(png(iccp_chunk(ADOBE)), "x")
    assert np.array_equal(decode_bytes(png(iccp_chunk(big)), "x"), adobe)
    maker_note = exif(65535, "R03")
    maker_note.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = bytes(200_000)
    with_note = png_chunk(b"eXIf", maker_note.tobytes().removeprefix(b"Exif\0\0"))
    assert np.array_equal(decode_bytes(png(with_note), "x"), adobe)


def made_by_tifffile(samples: np.ndarray, **options) -> bytes:
    content = io.BytesIO()
    pytest.importorskip("tifffile").imwrite(content, samples, metadata=None, **options)
    return content.getvalue()


DEEP = np.random.default_rng(7).integers(0, 65536, (36, 48, 3), dtype=np.uint16)


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "byteorder": ">", "compression": "zlib"},
        {"bigtiff": True},
        {"bigtiff": True, "byteorder": ">"},
        {"tile": (16, 32), "compression": "zlib", "predictor": True},
    ],
    ids=str,
)
def test_sound_kinds_of_tiff_are_read_with_all_bits(options):
    samples = np.moveaxis(DEEP, 2, 0) if "planarconfig" in options else DEEP
    content = made_by_tifffile(samples, photometric="rgb", **options)
    assert np.array_equal(decode_bytes(content, "x"), rounded(DEEP))
    assert np.array_equal(decode_bytes(content, "x", dtype=np.uint16), DEEP)


@pytest.mark.parametrize("samples", [PHOTO, DEEP], ids=["8 bits", "16 bits"])
def test_a_tiff_that_tifffile_reads_keeps_its_depth(samples, tmp_path):
    photo = photo_of(made_by_tifffile(samples, photometric="rgb", bigtiff=True, byteorder=">"), tmp_path / "x.tif")
    assert photo.kind == "TIFF" and photo.pixels.dtype == samples.dtype and np.array_equal(photo.pixels, samples)


def test_gray_with_alpha_further_channels_inverted_gray_and_cmyk():
    opaque, gray = np.full((36, 48, 1), 65535, np.uint16), DEEP[..., :1]
    with_alpha = made_by_tifffile(
        np.concatenate([gray, opaque], 2), photometric="minisblack", extrasamples=["unassalpha"]
    )
    assert np.array_equal(decode_bytes(with_alpha, "x"), np.repeat(rounded(gray), 3, 2))
    further = np.concatenate([DEEP, opaque // 3, opaque // 5], 2)
    content = made_by_tifffile(further, photometric="rgb", extrasamples=["unspecified", "unspecified"])
    assert np.array_equal(decode_bytes(content, "x"), rounded(DEEP))
    big = {"bigtiff": True, "byteorder": ">"}
    inverted = made_by_tifffile(65535 - gray[..., 0], photometric="miniswhite", **big)
    assert np.array_equal(decode_bytes(inverted, "x"), np.repeat(rounded(gray), 3, 2))
    inks = np.concatenate([DEEP, opaque // 6], 2)
    cmyk = made_by_tifffile(np.moveaxis(inks, 2, 0), photometric="separated", planarconfig="separate")
    wanted = np.asarray(Image.fromarray(rounded(inks), mode="CMYK").convert("RGB"))
    assert np.array_equal(decode_bytes(cmyk, "x"), wanted)
    assert np.array_equal(decode_bytes(cmyk, "x", untagged=ADOBE), wanted), "assumed for RGB and gray only"


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        (PHOTO / np.float32(255), {"photometric": "rgb"}, "3 x 32-bit floating-point RGB"),
        (DEEP.astype(np.uint32), {"photometric": "rgb", "bigtiff": True}, "BigTIFF of 3 x 32-bit RGB"),
        (
            PHOTO[..., 0].astype(np.int16),
            {"photometric": "minisblack", "byteorder": ">"},
            "big-endian TIFF of 1 x 16-bit signed",
        ),
        (PHOTO, {"photometric": "cielab"}, "Lab"),
    ],
    ids=["float", "long", "signed", "lab"],
)
@pytest.mark.parametrize("has_tifffile", [True, False])
def test_other_kinds_of_tiff_say_what_they_are_and_how_to_convert(monkeypatch, samples, options, words, has_tifffile):
    content = made_by_tifffile(samples, **options)
    if not has_tifffile:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refusal(content)
    assert words in message and "magick" in message and "broken" not in message
    assert has_tifffile or "pip install -r requirements-fivek.txt" in message


def test_masks_and_smaller_versions_are_no_second_photo():
    tifffile = pytest.importorskip("tifffile")
    for second, more, is_read in (
        (PHOTO[..., 0] > 128, {"photometric": "minisblack", "subfiletype": 4}, True),
        (PHOTO[::2, ::2].copy(), {"photometric": "rgb", "subfiletype": 1}, True),
        (PHOTO, {"photometric": "rgb"}, False),
    ):
        content = io.BytesIO()
        with tifffile.TiffWriter(content) as file:
            file.write(PHOTO, photometric="rgb", metadata=None)
            file.write(second, metadata=None, **more)
        if is_read:
            assert np.array_equal(decode_bytes(content.getvalue(), "x"), PHOTO)
        else:
            assert "2 pages" in refusal(content.getvalue())
