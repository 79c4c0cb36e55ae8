"""What the audit measures of a pair, and what it calls wrong: each fault is found, ordinary pairs are left alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.audit.alignment import align
from data.audit.measures import LONG_SIDE, LUMA, Measures, compare, local_structure, read_small, similarity
from data.audit.rank import KINDS, find_direction, rank
from data.audit.scores import judge
from data.colour import prophoto
from data.images import decode
from data.manifest import Pair
from tests.helpers.audit_photos import SIZE, as_shot, measures_of, picture, small

COUNT = 24


def shifted(seed: int, right: float, down: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture, and the same with its content moved by quarter pixels: both cut from one four times as large."""
    large, edge = Image.fromarray(picture(seed, (SIZE[0] + 20, SIZE[1] + 20), zoom=4)), 40
    boxes = [
        (edge - 4 * x, edge - 4 * y, edge - 4 * x + 4 * SIZE[0], edge - 4 * y + 4 * SIZE[1])
        for x, y in ((0, 0), (right, down))
    ]
    still, moved = (np.asarray(large.crop(box).resize(SIZE, Image.Resampling.BOX)) for box in boxes)
    return still, moved


@pytest.mark.parametrize("shift", [(0, 0), (0.5, -0.25), (3, 0), (-1.75, 2.5), (-8, 6)])
def test_a_shift_is_measured_to_a_tenth_of_a_pixel_under_another_exposure(shift):
    still, moved = shifted(3, *shift)
    found = align(as_shot(still) @ LUMA, moved @ LUMA)
    assert np.allclose(found.shift, shift, atol=0.1) and abs(found.rotation) < 0.1 and abs(found.scale - 1) < 0.002
    assert found.rms == pytest.approx(np.hypot(*shift), abs=0.1) and found.agreeing > 0.9


def test_a_large_shift_of_a_large_image_is_measured_as_well():
    large = picture(6, (640, 480))
    found = align(as_shot(large[20:440, 30:600]) @ LUMA, large[8:428, 51:621] @ LUMA)
    assert np.allclose(found.shift, (-21, 12), atol=0.1)


@pytest.mark.parametrize(("degrees", "scale"), [(0.7, 1.0), (-0.7, 1.0), (0.0, 1.015), (3.0, 0.99)])
def test_rotation_and_scale_are_measured(degrees, scale):
    image = Image.fromarray(picture(5, (320, 240)))
    turn = np.exp(-1j * np.radians(degrees)) / scale  # from a place of the target to the source's
    centre = complex(160, 120)
    origin = centre - turn * centre
    matrix = (turn.real, -turn.imag, origin.real, turn.imag, turn.real, origin.imag)
    tar = np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))
    found = align(as_shot(np.asarray(image)) @ LUMA, tar @ LUMA)
    assert found.rotation == pytest.approx(degrees, abs=0.06) and found.scale == pytest.approx(scale, abs=0.001)
    assert np.hypot(*found.shift) < 0.15


def test_structure_is_the_same_under_shade_and_another_contrast():
    luma = picture(8, (128, 96)) @ LUMA
    shaded = np.linspace(0.1, 1, 128, dtype=np.float32) * luma
    shaded[:48] = 0.5 + 0.1 * shaded[:48]
    assert similarity(local_structure(luma), local_structure(shaded)) > 0.65
    assert abs(similarity(local_structure(luma), local_structure(picture(9, (128, 96)) @ LUMA))) < 0.2


def test_what_cannot_be_aligned_is_not():
    flat = np.full((128, 168), 0.5, np.float32)
    assert align(flat, flat) is None
    assert align(np.random.default_rng(0).random((20, 20), np.float32), np.zeros((20, 20), np.float32)) is None
    with pytest.raises(ValueError, match="cannot be aligned"):
        align(flat, flat.T)


@pytest.fixture(scope="module")
def ordinary() -> list[Measures]:
    """24 sound pairs of several exposures."""
    return [measures_of(as_shot(picture(seed), seed, 0.3 + 0.02 * (seed % 9)), picture(seed)) for seed in range(COUNT)]


def rows(count: int = COUNT) -> list[Pair]:
    names = [(f"{number}_src.png", f"{number}_tar.png") for number in range(count)]
    return [
        Pair(src, tar, None, {"src": src, "tar": tar}, "pairs.jsonl", number, Path(src), Path(tar))
        for number, (src, tar) in enumerate(names, start=1)
    ]


def found(measures: list[Measures], index: int = 7) -> list[str]:
    """Kinds of reason of the pair at `index`; no other pair may have one."""
    findings, _ = rank(rows(len(measures)), measures)
    assert [finding.index for finding in findings] in ([], [index])
    return [reason.kind for finding in findings for reason in finding.reasons]


def with_pair(ordinary: list[Measures], src: np.ndarray, tar: np.ndarray, index: int = 7) -> list[Measures]:
    return [*ordinary[:index], measures_of(src, tar), *ordinary[index + 1 :]]


def test_sound_pairs_raise_no_alarm(ordinary):
    assert rank(rows(), ordinary) == ([], [])


def test_a_displaced_target_is_found(ordinary):
    still, moved = shifted(7, 1.5, -1)
    assert found(with_pair(ordinary, as_shot(still), moved)) == ["misregistered"]
    findings, _ = rank(rows(), with_pair(ordinary, as_shot(still), moved))
    assert "1.5 to the right, 1.0 up" in findings[0].reasons[0].text


@pytest.mark.parametrize(
    ("rotation", "scale", "words"),
    [
        (0.5, 1.0, "turned by 0.50 degrees clockwise"),
        (-0.5, 1.0, "turned by 0.50 degrees counter-clockwise"),
        (0.0, 1.01, "1.00 % larger"),
        (0.0, 0.99, "1.00 % smaller"),
    ],
)
def test_rotation_and_scale_are_told_by_their_direction(ordinary, rotation, scale, words):
    alignment = dataclasses.replace(ordinary[7].alignment, shift=(0.0, 0.0), rotation=rotation, scale=scale, rms=1.0)
    measures = [*ordinary[:7], dataclasses.replace(ordinary[7], alignment=alignment), *ordinary[8:]]
    findings, _ = rank(rows(), measures)
    assert [finding.reasons[0].text for finding in findings] == [f"tar is off by about 1.0 pixels: {words}"]


def test_less_than_half_a_pixel_is_no_displacement(ordinary):
    for rms, kinds in ((0.49, []), (0.51, ["misregistered"])):
        alignment = dataclasses.replace(ordinary[7].alignment, rms=rms)
        assert found([*ordinary[:7], dataclasses.replace(ordinary[7], alignment=alignment), *ordinary[8:]]) == kinds


def test_a_displacement_is_told_in_pixels_of_the_file():
    still, moved = shifted(7, 1.5, -1)
    measured = compare(small(as_shot(still), times=4), small(moved, times=4))
    assert np.allclose(measured.alignment.shift, (6, -4), atol=0.4)


def test_another_scene_is_found(ordinary):
    assert found(with_pair(ordinary, as_shot(picture(7)), picture(107))) == ["other_scene"]


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (Image.Transpose.ROTATE_270, "turned by 90 degrees clockwise"),
        (Image.Transpose.ROTATE_180, "turned by 180 degrees"),
        (Image.Transpose.ROTATE_90, "turned by 90 degrees counter-clockwise"),
        (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored left to right"),
        (Image.Transpose.FLIP_TOP_BOTTOM, "mirrored top to bottom"),
        (Image.Transpose.TRANSPOSE, "mirrored and turned by 90 degrees counter-clockwise"),
        (Image.Transpose.TRANSVERSE, "mirrored and turned by 90 degrees clockwise"),
    ],
)
def test_a_turned_target_is_found_and_its_turn_is_named(ordinary, method, text):
    image = picture(7)
    tar = np.asarray(Image.fromarray(image).transpose(method))
    measures = with_pair(ordinary, as_shot(image), tar)
    assert found(measures) == ["turned"] + ["size"] * (tar.shape != image.shape)
    assert rank(rows(), measures)[0][0].reasons[0].text == f"tar is {text}"


def test_swapped_sides_are_found_beside_a_set_that_agrees(ordinary):
    assert found(with_pair(ordinary, picture(7), as_shot(picture(7)))) == ["swapped"]


def test_several_swapped_pairs_do_not_hide_each_other(ordinary):
    swapped = {2, 9, 16, 23}
    measures = [
        measures_of(picture(seed), as_shot(picture(seed))) if seed in swapped else m for seed, m in enumerate(ordinary)
    ]
    assert {finding.index for finding in rank(rows(), measures)[0]} == swapped


def test_no_verdict_on_sides_without_a_usual_direction(ordinary):
    few, notes = rank(rows(5), with_pair(ordinary, picture(4), as_shot(picture(4)), index=4)[:5])
    assert few == [] and "needs 20 pairs" in notes[0]
    mixed = [
        measures_of(*(sides if seed >= 10 else sides[::-1]))
        for seed in range(COUNT)
        for sides in [(picture(seed), as_shot(picture(seed), seed))]
    ]
    findings, notes = rank(rows(), mixed)
    assert findings == [] and "no common direction" in notes[0]


@pytest.mark.filterwarnings("error")
def test_a_weak_direction_is_none():
    weak = np.random.default_rng(0).normal(0.8, 1, (40, 1)) * np.ones(3)
    for changes in (weak, np.zeros((40, 3))):
        direction = find_direction(changes)
        assert "no common direction" in direction.note and not direction.swapped.any()


def test_white_that_hides_what_the_other_side_shows_is_found(ordinary):
    image = picture(7)
    window = image.copy()
    window[20:60, 30:90] = 255
    assert found(with_pair(ordinary, as_shot(image), window)) == ["clipped"]
    both = as_shot(image)
    both[20:60, 30:90] = 255
    assert found(with_pair(ordinary, both, window)) == [], "a window that is white on both sides is no fault"
    assert found(with_pair(ordinary, both, image)) == [], "an HDR target mends such windows"
    both[:100] = 255
    assert "clipped" in found(with_pair(ordinary, both, image)), "but this is most of the frame"


def test_white_that_is_usual_in_the_set_is_no_fault(ordinary):
    usual = [dataclasses.replace(measures, lost_in_tar=0.1) for measures in ordinary]
    assert found([*usual[:7], dataclasses.replace(usual[7], lost_in_tar=0.29), *usual[8:]]) == []
    assert found([*usual[:7], dataclasses.replace(usual[7], lost_in_tar=0.31), *usual[8:]]) == ["clipped"]


def test_the_same_picture_on_both_sides_is_found(ordinary):
    assert "identical" in found(with_pair(ordinary, picture(7), picture(7)))


def test_another_profile_is_found_unless_the_whole_set_has_it(ordinary):
    def tagged(m: Measures) -> Measures:
        return dataclasses.replace(m, src=dataclasses.replace(m.src, profile="Adobe RGB"))

    assert found([*ordinary[:7], tagged(ordinary[7]), *ordinary[8:]]) == ["profile"]
    findings, notes = rank(rows(), [tagged(m) for m in ordinary])
    assert findings == [] and "Adobe RGB" in notes[0]


def test_a_copy_is_told_of_the_later_row(ordinary):
    findings, _ = rank(rows(), [*ordinary[:-1], ordinary[3]])
    assert [(finding.index, finding.reasons[0].kind) for finding in findings] == [(COUNT - 1, "duplicate")]
    assert "3_src.png (pairs.jsonl:4)" in findings[0].reasons[0].text
    assert rank(rows(), [*ordinary[:-1], ordinary[3]], duplicates=False)[0] == []


def test_the_most_harmful_kind_stands_first_and_the_worst_of_it(ordinary):
    measures = list(ordinary)
    measures[2] = measures_of(*(as_shot(shifted(2, 1, 0)[0]), shifted(2, 1, 0)[1]))
    measures[5] = measures_of(*(as_shot(shifted(5, 4, 0)[0]), shifted(5, 4, 0)[1]))
    measures[9] = measures_of(as_shot(picture(9)), picture(200))
    measures[12] = measures_of(as_shot(picture(12)), picture(12)[::-1].copy())
    findings, _ = rank(rows(), measures)
    assert [finding.index for finding in findings] == [9, 12, 5, 2]
    assert list(KINDS).index("other_scene") < list(KINDS).index("misregistered")


def test_a_photo_that_gained_far_less_than_its_like_is_an_outlier():
    random = np.random.default_rng(0)
    identity = random.uniform(10, 25, 60)
    gains = 15 - 0.5 * identity + random.normal(0, 0.4, 60)
    gains[11] -= 5
    identity[12], gains[12] = 26, 2.1  # little to gain: low, but like its like
    judged = judge({str(number): (identity[number] + gains[number], identity[number]) for number in range(60)})
    assert [name for name, score in judged.items() if score.z < -3.5] == ["11"]
    assert judged["11"].expected == pytest.approx(15 - 0.5 * identity[11], abs=0.5)
    assert judge({str(number): (20.0, 10.0) for number in range(19)}) == {}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_small_version_shows_what_the_whole_photo_shows(tmp_path, orientation):
    """Sides that the JPEG's fraction does not divide: the small version must not be stretched or moved by the rest."""
    large = Image.fromarray(picture(1, (2021, 1337)))
    exif = large.getexif()
    exif[0x0112] = orientation
    large.save(tmp_path / "x.jpg", quality=95, exif=exif)
    whole = Image.fromarray(decode(tmp_path / "x.jpg"))
    read = read_small(tmp_path / "x.jpg")
    assert (read.width, read.height, read.orientation) == (*whole.size, orientation)
    assert max(read.pixels.shape) == LONG_SIDE
    wanted = np.asarray(whole.resize(read.pixels.shape[1::-1], Image.Resampling.BICUBIC))
    moved = align(read.pixels @ LUMA, wanted @ LUMA)
    assert moved.rms < 0.05 and np.abs(read.pixels.astype(int) - wanted).mean() < 2


def test_the_profile_is_named_and_srgb_is_the_same_as_none(tmp_path):
    image = Image.fromarray(picture(1))
    image.save(tmp_path / "wide.png", icc_profile=prophoto())
    image.save(tmp_path / "plain.png")
    assert read_small(tmp_path / "plain.png").profile == "sRGB"
    assert read_small(tmp_path / "wide.png").profile == "a profile without a name"
