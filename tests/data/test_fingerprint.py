"""Digests and looks of images and rows."""

import hashlib
import os
import threading

import pytest

from common import signals
from common.errors import InputError, Stopped
from data import fingerprint as module
from data.fingerprint import (
    fingerprint,
    fingerprint_pairs,
    set_digest,
)
from data.images import DECODER
from data.manifest import read_pairs
from data.perceptual import look_of
from tests.helpers.image_files import make_pairs, noise, save, write_rows


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
        f"{role}_{name}"
        for role in ("src", "tar")
        for name in ("sha256", "file_sha256", "bytes", "mtime_ns", "phash", "tone")
    }
    assert set(pairs[0].row) == wanted | {"src", "tar", "width", "height", "decoder"}
    assert pairs[1].row["group"] == "room" and pairs[1].group == "room"
    assert pairs[2].row["decoder"] == DECODER and pairs[2].row["width"] == 16
    assert int(pairs[0].row["src_phash"], 16) == look_of(noise(0)).phash


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
