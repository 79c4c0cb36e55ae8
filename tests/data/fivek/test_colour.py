"""Colour of FiveK files: 16-bit ProPhoto renditions and raw files against float64 colour science, orientation, alpha."""

import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

from common.errors import InputError
from data.colour import PROPHOTO_GAMMA, prophoto
from data.decoding.unread import NeedsPackage
from data.fivek.find import SourceFile
from data.fivek.read import DecodedImage, kind_of, read_image
from tests.helpers.fivek_folder import encoded, metadata, put, record, run, source, target
from tests.helpers.fivek_tree import dng, prophoto_samples, prophoto_tiff
from tests.helpers.image_files import (
    PROPHOTO,
    SRGB_D50,
    curv,
    icc_profile,
    iccp_chunk,
    noise,
    png16,
    reference,
    tiff,
    turned,
)

LEVELS = 65535


def read(content: bytes, name: str = "a0001-x.tif", **options) -> tuple[DecodedImage, str]:
    """The decoded image, and what kind of profile was used."""
    file = SourceFile(name, name[name.rindex(".") :], len(content), 0)
    kind = kind_of(content, file)
    options = {"jpeg_scale": 1, "long_side": 2048, "auto_wb": False, "assume_prophoto": False} | options
    return read_image(content, file, kind, **options), kind.profile


def wanted_codes(samples: np.ndarray) -> np.ndarray:
    """sRGB codes, unrounded, of uint16 ProPhoto samples."""
    return reference(samples * (255 / LEVELS), lambda x: x ** (PROPHOTO_GAMMA / 256))


def chart() -> np.ndarray:
    """(256, 264, 3) uint16: every gray code, and a ramp of each ProPhoto primary and secondary."""
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    steps = np.linspace(0, LEVELS, 256).astype(np.uint16)[:, None, None]
    inks = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1], [0, 0, 0]], np.uint16)
    return np.concatenate([ramp, steps * inks[None]], axis=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("zipped", [False, True])
def test_the_sixteen_bit_chart_is_within_one_code(order, zipped):
    content = tiff(chart(), order, zipped, tags={34675: (1, list(prophoto()))})
    image, profile = read(content)
    assert profile == "matrix"
    error = np.abs(image.pixels - wanted_codes(chart()))
    assert error.max() <= 1 and error.mean() < 0.3


def test_the_chart_as_png_and_in_eight_bits_is_within_one_code():
    assert np.abs(read(png16(chart(), iccp_chunk(prophoto())), "x.png")[0].pixels - wanted_codes(chart())).max() <= 1
    codes = (chart() >> 8).astype(np.uint8)
    image, _ = read(encoded(codes, "PNG", icc_profile=prophoto()), "x.png")
    assert np.abs(image.pixels - wanted_codes(codes.astype(np.uint16) * 257)).max() <= 1


def test_samples_are_rounded_after_the_conversion_not_cut_before_it():
    """Pillow alone hands out the high bytes, which makes every picture darker."""
    exact = wanted_codes(chart())
    cut = wanted_codes((chart() >> 8) * np.uint16(256))
    assert np.mean(cut - exact) < -0.3, "else this shows nothing"
    pixels = read(tiff(chart(), tags={34675: (1, list(prophoto()))}))[0].pixels
    assert abs(np.mean(pixels - exact)) < 0.05
    plain = read(tiff(chart()))[0].pixels
    assert np.array_equal(plain, np.floor(chart() * 255.0 / LEVELS + 0.5)), "without a profile: rounded, not >> 8"


def test_a_rendition_comes_back_as_the_picture_that_it_was_made_from():
    picture = noise(1, 40, 30)
    assert np.abs(read(prophoto_tiff(picture))[0].pixels.astype(int) - picture).max() <= 1


def test_the_assumed_profile_is_for_files_without_one():
    samples = prophoto_samples(noise(2))
    untagged, tagged = tiff(samples), tiff(samples, tags={34675: (1, list(prophoto()))})
    right = read(tagged)[0].pixels
    assert np.abs(read(untagged)[0].pixels.astype(int) - right).max() > 20
    assert np.array_equal(read(untagged, assume_prophoto=True)[0].pixels, right)
    srgb = encoded(noise(3), "PNG", icc_profile=icc_profile([curv(563)] * 3, SRGB_D50))
    assert np.array_equal(read(srgb, "x.png", assume_prophoto=True)[0].pixels, read(srgb, "x.png")[0].pixels)


def test_assume_profile_reaches_the_targets_only(tmp_path):
    fivek = tmp_path / "fivek"
    eight_bits = (prophoto_samples(target(1)) >> 8).astype(np.uint8)
    put(fivek, "input/a0001-x.png", encoded(source(1), "PNG"))
    put(fivek, "expertC/a0001-x.jpg", encoded(eight_bits, quality=100, subsampling=0))
    medians = []
    for assumed in ("srgb", "prophoto"):
        assert run(fivek, tmp_path / assumed, "--assume_profile", assumed) == 0
        medians.append({role: metadata(tmp_path / assumed)["saturation"][role]["median"] for role in ("src", "tar")})
        assert metadata(tmp_path / assumed)["config"]["assume_profile"] == assumed
    assert medians[0]["src"] == medians[1]["src"] and medians[1]["tar"] > 1.15 * medians[0]["tar"]


def table_profile() -> bytes:
    """An RGB profile that is a lookup table (lut16): linear light with sRGB's primaries."""
    corners = np.array([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)]) @ SRGB_D50.T
    lut = b"mft2\0\0\0\0" + bytes([3, 3, 2, 0]) + struct.pack(">9i", *(np.eye(3).ravel() * 65536).astype(int))
    lut += struct.pack(">2H", 2, 2) + struct.pack(">2H", 0, LEVELS) * 3
    lut += struct.pack(">24H", *np.rint(corners.ravel() * 32768).astype(int)) + struct.pack(">2H", 0, LEVELS) * 3
    return _with_tag(icc_profile([curv(256)] * 3, PROPHOTO), b"A2B0", lut)


def _with_tag(icc: bytes, name: bytes, content: bytes) -> bytes:
    """The profile with one more tag at its end; offsets of the others move by the 12 bytes of the new table entry."""
    (count,) = struct.unpack_from(">I", icc, 128)
    table = b""
    for index in range(count):
        old, start, size = struct.unpack_from(">4sII", icc, 132 + 12 * index)
        table += struct.pack(">4sII", old, start + 12, size)
    table += struct.pack(">4sII", name, len(icc) + 12, len(content))
    size = len(icc) + 12 + len(content)
    header = struct.pack(">I", size) + icc[4:128]
    return header + struct.pack(">I", count + 1) + table + icc[132 + 12 * count :] + content


def test_a_profile_of_tables_goes_through_littlecms_and_is_counted(tmp_path):
    codes = noise(4, 40, 30)
    image, profile = read(encoded(codes, "PNG", icc_profile=table_profile()), "x.png")
    linear = codes / 255
    wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert profile == "table" and np.abs(image.pixels - wanted).mean() < 2
    put(tmp_path / "fivek", "input/a0001.png", encoded(source(1), "PNG", icc_profile=table_profile()))
    put(tmp_path / "fivek", "expertC/a0001.png", encoded(target(1), "PNG"))
    assert run(tmp_path / "fivek", tmp_path / "out") == 0
    assert metadata(tmp_path / "out")["input_profiles"] == {"table": 1}


KINDS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}


def test_eight_orientations_of_three_formats_are_applied_once(tmp_path):
    fivek, number = tmp_path / "fivek", 0
    pictures = {}
    for orientation in range(1, 9):
        for kind, suffix in KINDS.items():
            number += 1
            key = f"a{number:04d}"
            pictures[key] = source(number)
            stored = turned(pictures[key], orientation)
            if kind == "TIFF":
                content = tiff(stored.astype(np.uint16) * 257, tags={274: (3, [orientation])})
            else:
                exif = Image.Exif()
                exif[ExifTags.Base.Orientation] = orientation
                content = encoded(stored, kind, exif=exif)
            put(fivek, f"input/{key}-x{suffix}", content)
            put(fivek, f"expertC/{key}-x.tif", prophoto_tiff(target(number)))
    assert run(fivek, tmp_path / "out", "--workers", "2") == 0
    assert metadata(tmp_path / "out")["geometry"] == {"equal": 24}, "turned by EXIF alone, not by the content check"
    for key, picture in pictures.items():
        written = np.asarray(Image.open(tmp_path / "out" / "images" / f"{key}_src.jpg")).astype(int)
        assert np.abs(written - picture).mean() < 2, key
        assert record(tmp_path / "out", key)["input"]["size"] == [64, 48]


def test_renditions_with_an_orientation_are_turned_too():
    for orientation in range(1, 9):
        content = prophoto_tiff(turned(noise(5), orientation), tags={274: (3, [orientation])})
        assert np.abs(read(content)[0].pixels.astype(int) - noise(5)).max() <= 1


# Raw files. A picture of large even patches survives the sensor's mosaic.


def patches(seed: int = 1) -> np.ndarray:
    return (
        np.random.default_rng(seed).integers(25, 235, (6, 8, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    )


def inside(image: np.ndarray, step: int = 16) -> np.ndarray:
    """The middles of the patches, where no neighbour's colour reaches."""
    return image[step // 2 :: step, step // 2 :: step].astype(int)


@pytest.fixture
def raw_files():
    pytest.importorskip("rawpy")
    pytest.importorskip("tifffile")


@pytest.mark.usefixtures("raw_files")
def test_a_raw_file_is_developed_neutrally_within_one_code():
    image, profile = read(dng(patches()), "a0001-x.dng")
    assert profile == "raw" and image.scale == 1
    assert np.abs(inside(image.pixels) - inside(patches())).max() <= 1


@pytest.mark.usefixtures("raw_files")
def test_the_metadata_say_how_raw_files_of_any_ending_were_developed(tmp_path):
    put(tmp_path, "fivek/raw/a0001-x.NEF", dng(source(1)))
    put(tmp_path, "fivek/c/a0001-x.png", encoded(target(1), "PNG"))
    assert run(tmp_path / "fivek", tmp_path / "out") == 0
    made = metadata(tmp_path / "out")
    assert made["inputs"] == {"nef": 1} and made["raw_rendering"]["rawpy"] and made["raw_rendering"]["parameters"]


@pytest.mark.usefixtures("raw_files")
@pytest.mark.parametrize("brightest", [60, 180, 205, 225])
def test_the_brightness_of_a_raw_file_does_not_depend_on_its_maximum(brightest):
    """rawpy's defaults would brighten all of these, and stretch the third even without auto brightness."""
    picture = np.full((96, 128, 3), 40, np.uint8)
    picture[:16, :16] = brightest
    middle = read(dng(picture), "x.dng")[0].pixels[60, 60]
    assert np.abs(middle.astype(int) - 40).max() <= 1


@pytest.mark.usefixtures("raw_files")
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_default_crop_is_cut_out_before_the_file_is_turned(orientation):
    content = dng(turned(patches(), orientation), orientation=orientation, border=6)
    image = read(content, "x.dng")[0]
    assert image.pixels.shape == patches().shape
    assert np.abs(inside(image.pixels) - inside(patches())).max() <= 1


@pytest.mark.usefixtures("raw_files")
def test_half_size_is_used_only_when_it_is_large_enough():
    half = read(dng(patches(), border=4), "x.dng", long_side=64)[0]
    assert half.scale == 2 and half.pixels.shape == (48, 64, 3) and half.native_size == (128, 96)
    assert np.abs(inside(half.pixels, 8) - inside(patches())).max() <= 1
    assert read(dng(patches()), "x.dng", long_side=65)[0].scale == 1


@pytest.mark.usefixtures("raw_files")
def test_a_raw_file_called_tif_is_not_shown_by_its_preview():
    with pytest.raises(InputError, match="raw file"):
        read(tiff(noise(1), tags={50706: (1, [1, 4, 0, 0])}), "x.tif")


def test_without_rawpy_the_file_is_not_condemned(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NeedsPackage, match="requirements-fivek.txt"):
        read(b"II*\0", "x.dng")


# TIFF that Pillow does not read.


def planes() -> tuple[np.ndarray, bytes]:
    tifffile = pytest.importorskip("tifffile")
    samples = np.random.default_rng(6).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    content = io.BytesIO()
    extra = [(34675, "B", len(prophoto()), prophoto(), True), (274, "H", 1, 6, True)]
    separate = np.ascontiguousarray(samples.transpose(2, 0, 1))
    tifffile.imwrite(
        content, separate, photometric="rgb", planarconfig="separate", metadata=None, extratags=extra, byteorder=">"
    )
    return samples, content.getvalue()


def test_sixteen_bit_planes_are_read_by_tifffile_with_profile_and_orientation():
    samples, content = planes()
    wanted = wanted_codes(np.rot90(samples, -1))
    assert np.abs(read(content)[0].pixels - wanted).max() <= 1


def test_without_tifffile_the_message_names_it(monkeypatch):
    _, content = planes()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NeedsPackage, match=r"separate planes.*requirements-fivek.txt"):
        read(content)
