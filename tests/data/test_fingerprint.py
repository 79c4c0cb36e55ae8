"""Digests, perceptual hashes and the near-duplicate search."""

import hashlib
import os
import threading

import numpy as np
import pytest
from PIL import Image

from common import signals
from common.errors import InputError, Stopped
from data import fingerprint as module
from data.fingerprint import (
    fingerprint,
    fingerprint_pairs,
    near_duplicate_rows,
    near_duplicates,
    perceptual_hash,
    set_digest,
)
from data.images import DECODER
from data.manifest import read_pairs
from tests.helpers.image_files import make_pairs, noise, save, write_rows


def photo(seed: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Smooth random shapes, as a photo has them."""
    small = noise(seed, 8, 6)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def distance(first: np.ndarray, second: np.ndarray) -> int:
    return (perceptual_hash(first) ^ perceptual_hash(second)).bit_count()


def test_digests_are_those_that_the_design_defines(tmp_path):
    path = save(noise(1), tmp_path / "a.png")
    found = fingerprint(path)
    assert found.sha256 == hashlib.sha256(b"16x12:" + noise(1).tobytes()).hexdigest()
    assert found.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.width, found.height, found.bytes) == (16, 12, path.stat().st_size)
    assert found.mtime_ns == path.stat().st_mtime_ns


def test_a_copy_in_another_container_has_the_same_pixels_digest(tmp_path):
    png, bmp = fingerprint(save(noise(1), tmp_path / "a.png")), fingerprint(save(noise(1), tmp_path / "b.bmp"))
    assert png.sha256 == bmp.sha256 and png.file_sha256 != bmp.file_sha256
    turned = fingerprint(save(noise(1).reshape(16, 12, 3), tmp_path / "c.png"))
    assert turned.sha256 != png.sha256, "the size is part of the digest"


def test_rows_carry_all_fields_and_their_own(tmp_path):
    pairs = fingerprint_pairs(read_pairs(make_pairs(tmp_path, 3, {1: "room"})))
    wanted = {
        f"{role}_{name}" for role in ("src", "tar") for name in ("sha256", "file_sha256", "bytes", "mtime_ns", "phash")
    }
    assert set(pairs[0].row) == wanted | {"src", "tar", "width", "height", "decoder"}
    assert pairs[1].row["group"] == "room" and pairs[1].group == "room"
    assert pairs[2].row["decoder"] == DECODER and pairs[2].row["width"] == 16
    assert int(pairs[0].row["src_phash"], 16) == perceptual_hash(noise(0))


@pytest.fixture
def decoded(monkeypatch):
    """Paths that were decoded."""
    paths = []
    real = module.decode_bytes
    monkeypatch.setattr(module, "decode_bytes", lambda content, name: (paths.append(name.name), real(content, name))[1])
    return paths


def test_known_files_are_not_read_again_until_they_change(tmp_path, decoded):
    path = make_pairs(tmp_path, 4)
    known = fingerprint_pairs(read_pairs(path))
    assert len(decoded) == 8
    decoded.clear()
    again = fingerprint_pairs(read_pairs(path), known=known)
    assert decoded == [] and [pair.row for pair in again] == [pair.row for pair in known]
    save(noise(99), tmp_path / "images" / "1_src.png")
    os.utime(tmp_path / "images" / "2_tar.png", ns=(1, 1))
    again = fingerprint_pairs(read_pairs(path), known=known)
    assert sorted(decoded) == ["1_src.png", "2_tar.png"]
    assert again[1].row["src_sha256"] != known[1].row["src_sha256"]


def test_rows_that_carry_digests_are_trusted_only_with_this_decoder_and_whole(tmp_path, decoded):
    rows = [pair.row for pair in fingerprint_pairs(read_pairs(make_pairs(tmp_path, 3)))]
    decoded.clear()
    rows[1]["decoder"] = "0, Pillow 1"
    del rows[2]["tar_sha256"]
    fingerprint_pairs(read_pairs(write_rows(tmp_path / "rows.jsonl", rows)))
    assert sorted(decoded) == ["1_src.png", "1_tar.png", "2_tar.png"]


def test_a_shared_tar_is_decoded_once(tmp_path, decoded):
    make_pairs(tmp_path, 3)
    rows = [{"src": f"images/{number}_src.png", "tar": "images/0_tar.png"} for number in range(3)]
    fingerprint_pairs(read_pairs(write_rows(tmp_path / "rows.jsonl", rows)))
    assert sorted(decoded) == ["0_src.png", "0_tar.png", "1_src.png", "2_src.png"]


def test_all_bad_images_are_reported_with_file_and_line(tmp_path):
    path = make_pairs(tmp_path, 6)
    (tmp_path / "images" / "0_src.png").write_bytes(b"<html>")
    (tmp_path / "images" / "2_tar.png").write_bytes((tmp_path / "images" / "2_tar.png").read_bytes()[:-40])
    save(noise(1, 17, 12), tmp_path / "images" / "3_tar.png")
    save(noise(1, 12, 16), tmp_path / "images" / "4_tar.png")
    for role in ("src", "tar"):
        save(noise(1, 16, 10), tmp_path / "images" / f"5_{role}.png")
    with pytest.raises(InputError) as caught:
        fingerprint_pairs(read_pairs(path))
    lines = str(caught.value).splitlines()
    assert [f"{path}:{number}: " in line for number, line in zip((1, 3, 4, 5, 6), lines[1:], strict=False)] == [
        True
    ] * 5
    assert "HTML" in lines[1] and "broken image" in lines[2]
    assert "src is 16x12, but tar is 17x12" in lines[3] and "EXIF" not in lines[3]
    assert "src is 16x12, but tar is 12x16" in lines[4] and "EXIF" in lines[4]
    assert "16x10 is too small" in lines[5]


def test_a_stop_ends_the_reading_with_few_images_more(tmp_path, monkeypatch):
    pairs = read_pairs(make_pairs(tmp_path, 40))
    read = []

    def read_and_stop(path):
        read.append(path)
        if len(read) == 10:
            monkeypatch.setattr(signals, "_received", ["SIGTERM"])
        return fingerprint(path)

    monkeypatch.setattr(module, "fingerprint", read_and_stop)
    monkeypatch.setattr(module, "usable_cpus", lambda: 2)
    before = threading.active_count()
    with pytest.raises(Stopped, match="SIGTERM"):
        fingerprint_pairs(pairs)
    assert len(read) < 30 and threading.active_count() == before


def test_the_digest_of_a_set_ignores_order_and_notices_every_change(tmp_path):
    rows = [pair.row for pair in fingerprint_pairs(read_pairs(make_pairs(tmp_path, 3)))]
    assert set_digest(rows) == set_digest(rows[::-1])
    swapped = {**rows[0], "src_sha256": rows[0]["tar_sha256"], "tar_sha256": rows[0]["src_sha256"]}
    digests = [set_digest(rows), set_digest(rows[:2]), set_digest([*rows, rows[0]]), set_digest([swapped, *rows[1:]])]
    assert len(set(digests)) == 4


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
    assert perceptual_hash(np.full((40, 50, 3), 77, np.uint8)) is None
    grainy = np.random.default_rng(0).integers(76, 79, (200, 300, 3), dtype=np.uint8)
    assert perceptual_hash(grainy) is None
    assert perceptual_hash(photo(1)) is not None


def test_near_duplicates_need_both_sides_within_six_bits():
    rng = np.random.default_rng(0)
    src, tar = ([int(value) for value in rng.integers(0, 2**64, 3000, dtype=np.uint64)] for _ in range(2))
    src[2500], tar[2500] = src[3] ^ 0b111111, tar[3]
    src[2600], tar[2600] = src[4], tar[4] ^ (0b111111 << 58)
    src[2700], tar[2700] = src[5] ^ 0b1111111, tar[5]
    src[2800] = src[6]
    src[7], src[2900], tar[2900] = None, None, tar[7]
    assert near_duplicates(src, tar) == [(3, 2500, 6, 0), (4, 2600, 0, 6)]
    assert near_duplicates([], []) == []


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
            if max(bits) <= 6 and (parts is None or parts[first] != parts[second]):
                wanted.append((first, second, *bits))
    assert near_duplicates(src, tar, parts) == sorted(wanted) and len(wanted) > 10


def test_thousands_of_copies_make_a_short_list_with_all_of_them():
    copies = near_duplicates([7] * 1500, [9] * 1500)
    assert len(copies) == 20 * 19 // 2 + 20 * 1480 and copies[-1] == (19, 1499, 0, 0)
    assert {hit.second for hit in copies} == set(range(1, 1500))
    # Training rows after hundreds of validation rows: each of those is named, though none has more than 20 before it.
    sides = ["val"] * 700 + ["train"] * 2
    between = near_duplicates([7] * 702, [9] * 702, sides)
    assert {hit.first for hit in between} == set(range(700)) and {hit.second for hit in between} == {700, 701}
    assert len(between) == 700 + 20


def test_a_row_that_links_two_clusters_is_listed_with_both():
    # 30 rows, 30 rows that are 12 bits off, and one row in the middle: 6 bits from either.
    src = [0] * 30 + [0b111111_111111] * 30 + [0b111111]
    hits = near_duplicates(src, [9] * 61)
    assert [(hit.first, hit.src_bits) for hit in hits if hit.second == 60] == [(row, 6) for row in (*range(20), 30)]


def test_near_duplicate_rows_are_found_from_files(tmp_path):
    rows = []
    for number, seed in enumerate((1, 2, 1)):
        names = {role: f"{number}_{role}.jpg" for role in ("src", "tar")}
        save(photo(seed), tmp_path / names["src"], quality=95 - 20 * number)
        save(photo(seed + 50), tmp_path / names["tar"], quality=95 - 20 * number)
        rows.append(names)
    pairs = fingerprint_pairs(read_pairs(write_rows(tmp_path / "pairs.jsonl", rows)))
    assert [(hit.first, hit.second) for hit in near_duplicate_rows([pair.row for pair in pairs])] == [(0, 2)]
