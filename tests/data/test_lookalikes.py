"""Looks of images, and the search for rows that look the same."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from data import lookalikes as module
from data.fingerprint import fingerprint_pairs
from data.lookalikes import near_duplicate_rows, near_duplicates
from data.manifest import read_pairs
from data.perceptual import FLAT, Look, look_of
from data.transforms import tone_tables
from tests.helpers.image_files import noise, save, write_rows
from tests.helpers.paths import SAMPLE


def photo(seed: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Smooth random shapes, as a photo has them."""
    small = noise(seed, 8, 6)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def distance(first: np.ndarray, second: np.ndarray) -> int:
    return (look_of(first).phash ^ look_of(second).phash).bit_count()


def test_the_same_photo_keeps_its_hash_and_another_does_not(tmp_path):
    image = photo(1)
    jpeg = np.asarray(Image.open(save(image, tmp_path / "a.jpg", quality=50)))
    half = np.asarray(Image.fromarray(image).resize((48, 32)))
    brighter = np.clip(image * 1.05 + 4, 0, 255).astype(np.uint8)
    assert max(distance(image, variant) for variant in (jpeg, half, brighter)) <= 6
    others = [distance(image, photo(seed)) for seed in range(2, 40)]
    assert min(others) > 12
    assert distance(image, image[:, ::-1]) > 12


def test_flat_images_have_no_hash():
    assert look_of(np.full((40, 50, 3), 77, np.uint8)) == FLAT
    grainy = np.random.default_rng(0).integers(76, 79, (200, 300, 3), dtype=np.uint8)
    assert look_of(grainy) == FLAT
    assert None not in look_of(photo(1))


def hashed(hashes: list[int | None]) -> list[Look]:
    """Looks with a perceptual hash alone."""
    return [Look(phash, None) for phash in hashes]


def found(src: list[int | None], tar: list[int | None], sides: list[str] | None = None) -> list[tuple]:
    """(first, second, src_bits, tar_bits) of the near-duplicates among rows with these hashes."""
    return [hit[:4] for hit in near_duplicates(hashed(src), hashed(tar), sides)]


def test_either_side_within_six_bits_makes_near_duplicates():
    rng = np.random.default_rng(0)
    src, tar = ([int(value) for value in rng.integers(0, 2**64, 3000, dtype=np.uint64)] for _ in range(2))
    src[2500] = src[3] ^ 0b111111
    tar[2600] = tar[4] ^ (0b111111 << 58)
    src[2700] = src[5] ^ 0b1111111
    src[7], src[2900], tar[2900] = None, None, tar[7]
    far = [(src[3] ^ src[2500]).bit_count(), (tar[3] ^ tar[2500]).bit_count(), (src[4] ^ src[2600]).bit_count()]
    assert found(src, tar) == [(3, 2500, 6, far[1]), (4, 2600, far[2], 6), (7, 2900, None, 0)]
    assert found([], []) == [] and found([None, None], [None, None]) == []


@pytest.mark.parametrize("sides", [None, "ABC"])
def test_near_duplicates_are_those_of_a_plain_comparison(monkeypatch, sides):
    monkeypatch.setattr(module, "TILE", 100)  # a row at a time
    rng = np.random.default_rng(1)
    scenes = [[int(value) for value in rng.integers(0, 2**64, 12, dtype=np.uint64)] for _ in range(2)]
    src, tar = (
        [scene[place] ^ (1 << int(a)) ^ (1 << int(b)) ^ (1 << int(c)) for place, a, b, c in draws]
        for scene, draws in zip(scenes, rng.integers((0, 0, 0, 0), (12, 64, 64, 64), (2, 90, 4)), strict=True)
    )
    parts = None if sides is None else [sides[number] for number in rng.integers(0, 3, 90)]
    wanted = []
    for second in range(90):
        for first in range(second):
            bits = [(hashes[first] ^ hashes[second]).bit_count() for hashes in (src, tar)]
            if min(bits) <= 6 and (parts is None or parts[first] != parts[second]):
                wanted.append((first, second, *bits))
    assert found(src, tar, parts) == sorted(wanted) and len(wanted) > 10


def test_thousands_of_copies_make_a_short_list_with_all_of_them():
    copies = found([7] * 1500, [9] * 1500)
    assert len(copies) == 20 * 19 // 2 + 20 * 1480 and copies[-1] == (19, 1499, 0, 0)
    assert {hit[1] for hit in copies} == set(range(1, 1500))
    # Training rows after hundreds of validation rows: each of those is named, though none has more than 20 before it.
    sides = ["val"] * 700 + ["train"] * 2
    between = found([7] * 702, [9] * 702, sides)
    assert {hit[0] for hit in between} == set(range(700)) and {hit[1] for hit in between} == {700, 701}
    assert len(between) == 700 + 20


def test_a_row_that_links_two_clusters_is_listed_with_both():
    # 30 rows, 30 rows that are 12 bits off, and one row in the middle: 6 bits from either.
    src = [0] * 30 + [0b111111_111111] * 30 + [0b111111]
    hits = found(src, [None] * 61)
    assert [(first, bits) for first, second, bits, _ in hits if second == 60] == [(row, 6) for row in (*range(20), 30)]


def test_near_duplicate_rows_are_found_from_files(tmp_path):
    rows = []
    for number, seed in enumerate((1, 2, 1)):
        names = {role: f"{number}_{role}.jpg" for role in ("src", "tar")}
        save(photo(seed), tmp_path / names["src"], quality=95 - 20 * number)
        save(photo(seed + 50), tmp_path / names["tar"], quality=95 - 20 * number)
        rows.append(names)
    pairs = fingerprint_pairs(read_pairs(write_rows(tmp_path / "pairs.jsonl", rows)))
    assert [(hit.first, hit.second) for hit in near_duplicate_rows([pair.row for pair in pairs])] == [(0, 2)]


CHANGES = {
    "two stops up, clipped": lambda image: exposed(image, 2),
    "three stops down": lambda image: exposed(image, -3),
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 180 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "cropped by 5 % a side": lambda image: ImageOps.crop(image, (13, 10, 13, 10)),
    "cropped by 5 % at the left": lambda image: ImageOps.crop(image, (13, 0, 0, 0)),
    "cropped, mirrored, a stop up": lambda image: ImageOps.mirror(exposed(ImageOps.crop(image, (13, 10, 13, 10)), 1)),
}


def exposed(image: Image.Image, stops: float) -> Image.Image:
    """The photo at another exposure, clipped."""
    return Image.fromarray(tone_tables(np.array([2.0**stops]))[0][np.asarray(image)])


@pytest.fixture(scope="module")
def shots() -> list[Image.Image]:
    """The sources of the sample's 48 pairs."""
    return [Image.open(path).convert("RGB") for path in sorted((SAMPLE / "images").glob("*_src.jpg"))]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_photo_is_found_whichever_comes_first_and_no_other_is(shots, change):
    # One side alone must do: the other one is flat.
    original = [look_of(np.asarray(image)) for image in shots]
    changed = [look_of(np.asarray(CHANGES[change](image))) for image in shots]
    count = len(shots)
    for looks in (original + changed, changed + original):
        hits = near_duplicates(looks, [FLAT] * len(looks))
        assert [(hit.first, hit.second) for hit in hits] == [(number, number + count) for number in range(count)]
    assert min(hit.likeness for hit in hits) >= module.ALIKE


def test_rows_that_share_an_image_are_no_news(tmp_path):
    rows = []
    for number, seed in enumerate((1, 2, 3)):
        rows.append({"src": f"{number}_src.png", "tar": "tar.png"})
        save(photo(seed), tmp_path / rows[-1]["src"])
    save(photo(4), tmp_path / "tar.png")
    pairs = fingerprint_pairs(read_pairs(write_rows(tmp_path / "pairs.jsonl", rows)))
    assert near_duplicate_rows([pair.row for pair in pairs]) == []
