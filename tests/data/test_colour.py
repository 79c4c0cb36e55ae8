"""ICC profiles against float64 colour maths."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from data.colour import ProfileError, change_depth, parse_profile, to_srgb
from tests.helpers.image_files import PROPHOTO, SRGB_D50, curv, icc_profile, para, reference

ROMM_GAMMA = curv(461)  # 1.80078125 as u8Fixed8


@pytest.fixture(scope="module")
def colours():
    return np.random.default_rng(3).integers(0, 256, (500, 200, 3), dtype=np.uint8)


CURVES = {
    "gamma": (ROMM_GAMMA, lambda x: x ** (461 / 256)),
    "identity": (curv(), lambda x: x),
    "table": (curv(0, 8192, 32768, 65535), lambda x: np.interp(x, [0, 1 / 3, 2 / 3, 1], [0, 0.125, 32768 / 65535, 1])),
    "para 0": (para(0, 2.2), lambda x: x**2.2),
    "para 1": (para(1, 2.0, 0.9, 0.1), lambda x: (0.9 * x + 0.1) ** 2),
    "para 2": (para(2, 2.0, 0.9, -0.1, 0.05), lambda x: np.where(x >= 1 / 9, (0.9 * x - 0.1), 0) ** 2 + 0.05),
    "para 3": (
        para(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
        lambda x: np.where(x >= 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92),
    ),
    "para 4": (
        para(4, 2.0, 0.9, 0.0, 0.5, 0.2, 0.1, 0.02),
        lambda x: np.where(x >= 0.2, (0.9 * x) ** 2 + 0.1, 0.5 * x + 0.02),
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_matrix_profiles_are_within_one_code_of_float64_maths(colours, name):
    tag, curve = CURVES[name]
    icc = icc_profile([tag] * 3, PROPHOTO)
    assert len(icc) < 700
    error = np.abs(to_srgb(colours, parse_profile(icc)) - reference(colours, curve))
    assert error.max() <= 1.0 and error.mean() < 0.3


def test_channels_keep_their_own_curves(colours):
    icc = icc_profile([curv(512), curv(256), curv(384)], PROPHOTO)
    wanted = reference(colours, lambda x: x ** np.array([2.0, 1.0, 1.5]))
    assert np.abs(to_srgb(colours, parse_profile(icc)) - wanted).max() <= 1.0


def test_sixteen_bits_in_and_out_keep_their_precision(colours):
    profile = parse_profile(icc_profile([ROMM_GAMMA] * 3, PROPHOTO))
    deep = colours.astype(np.uint16) * 257
    result = to_srgb(deep, profile, np.uint16)
    assert result.dtype == np.uint16
    error = np.abs(result / 257 - reference(colours, CURVES["gamma"][1]))
    # Rounding to 8 bits would leave 0.25 on average; the largest comes from the digits of the published primaries.
    assert error.mean() < 0.02 and error.max() < 0.6
    assert np.array_equal(to_srgb(colours, profile, np.uint16), result)


def test_an_srgb_profile_is_left_alone_and_a_near_one_is_not():
    assert parse_profile(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()) is None
    assert parse_profile(icc_profile([CURVES["para 3"][0]] * 3, SRGB_D50)) is None
    assert parse_profile(icc_profile([para(0, 2.2)] * 3, SRGB_D50)) is not None
    assert parse_profile(icc_profile([CURVES["para 3"][0]] * 3, SRGB_D50[:, ::-1])) is not None


def test_a_gray_profile_is_its_curve():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None]
    result = to_srgb(ramp, parse_profile(icc_profile([curv(256)], None, b"GRAY")))
    linear = np.arange(256) / 255
    wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert result.shape == (1, 256, 3)
    assert np.abs(result[0] - wanted[:, None]).max() <= 0.5001


def test_profiles_of_tables_go_through_littlecms():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(ProfileError, match="colour space"):
        parse_profile(lab)
    gray = parse_profile(icc_profile([curv(461)], None, b"GRAY", b"Lab "))
    assert gray.curves is None
    ramp = np.arange(256, dtype=np.uint8)[None, :, None]
    result = to_srgb(ramp, gray)
    reference = ImageCms.profileToProfile(
        Image.fromarray(ramp[..., 0]),
        ImageCms.ImageCmsProfile(io.BytesIO(gray.icc)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert np.array_equal(result, np.asarray(reference))


@pytest.mark.parametrize(
    ("icc", "reason"),
    [
        (b"", "no ICC header"),
        (b"x" * 4000, "no ICC header"),
        (icc_profile([ROMM_GAMMA] * 3, PROPHOTO)[:300], "beyond its end"),
        (icc_profile([ROMM_GAMMA] * 3, PROPHOTO)[:140], "cut short"),
        (icc_profile([ROMM_GAMMA] * 3, PROPHOTO).replace(b"rTRC", b"xTRC"), "lacks rTRC"),
        (icc_profile([para(9, 1.0)] * 3, PROPHOTO), "unknown type 9"),
        (icc_profile([b"mystery\0\0\0\0\0"] * 3, PROPHOTO), "unknown kind"),
        (icc_profile([ROMM_GAMMA] * 3, PROPHOTO, b"CMYK", b"Lab "), "cannot build|build transform|profile"),
    ],
    ids=["empty", "rubbish", "cut", "cut in table", "no curve", "para type", "curve kind", "fake CMYK"],
)
def test_a_broken_profile_is_an_error(icc, reason):
    with pytest.raises(ProfileError, match=reason):
        to_srgb(np.zeros((2, 2, 4 if b"CMYK" in icc else 3), np.uint8), parse_profile(icc))


def test_change_of_depth_rounds_and_goes_there_and_back():
    codes = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(change_depth(codes, np.uint8), np.floor(codes.astype(np.float64) * 255 / 65535 + 0.5))
    small = np.arange(256, dtype=np.uint8)
    assert np.array_equal(change_depth(change_depth(small, np.uint16), np.uint8), small)
