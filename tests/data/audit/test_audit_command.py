"""create_data_splits.py --audit as a user runs it: files, exit codes, messages."""

import csv
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from common import signals
from common.files import write_csv
from data.audit import audit
from data.colour import prophoto
from data.splits.files import verify_splits
from tests.helpers.audit_photos import as_shot, picture, write_photos
from tests.helpers.image_files import write_rows
from tests.helpers.split_runs import refused, rooms_argv, rows, run


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """22 pairs: 4 has a displaced target, 9 another scene's, 13 swapped sides; 20 and 21 are one photo."""
    sides = [(as_shot(picture(seed), seed), picture(seed)) for seed in range(21)]
    sides[4] = (sides[4][0], np.roll(sides[4][1], 3, axis=1))
    sides[9] = (sides[9][0], picture(109))
    sides[13] = sides[13][::-1]
    sides.append((as_shot(picture(20), 99), picture(20)))
    return write_photos(tmp_path_factory.mktemp("album"), sides)


@pytest.fixture(scope="module")
def audited(album) -> Path:
    assert run("--input_jsonl", album, "--audit", "--output_dir", album.parent / "out") == 0
    return album.parent / "out"


def test_findings_are_written_worst_first_and_no_split(audited):
    found = rows(audited / "audit.jsonl")
    assert [row["src"][7:9] for row in found] == ["09", "13", "04", "21"]
    kinds = [[reason["kind"] for reason in row["audit"]["reasons"]] for row in found]
    assert kinds == [["other_scene"], ["swapped"], ["misregistered"], ["duplicate"]]
    assert found[2]["audit"]["line"] == 5 and found[2]["audit"]["alignment"]["right_px"] == pytest.approx(3, abs=0.1)
    assert {path.name for path in audited.iterdir()} == {"audit.html", "audit.jsonl", ".lock"}


def test_the_page_names_each_pair_with_its_line_and_needs_nothing_else(audited, album):
    page = (audited / "audit.html").read_text(encoding="utf-8")
    places = [page.index(f"{album}:{line}, target") for line in (10, 14, 5, 22)]
    assert places == sorted(places) and "about 3.0 pixels" in page
    assert page.count("data:image/jpeg;base64,") == 9, "two sides a pair, and one close-up"
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    links = [source for source in sources if not source.startswith("data:")]
    assert len(links) == 8 and all((audited / link).resolve().is_file() for link in links)
    assert not re.search(r"https?://|<link|url\(", page)


def test_the_log_says_what_was_found(album, tmp_path, capsys):
    assert run("--input_jsonl", album, "--audit", "--output_dir", tmp_path) == 0
    out = capsys.readouterr().out
    assert (
        "22 pairs measured in" in out and "4 look wrong" in out and f"{album}:5: images/04_src.png: tar is off" in out
    )
    assert out.index(f"{album}:10: ") < out.index(f"{album}:5: ") and "no split was made" in out


def test_what_was_found_can_be_dropped_and_the_rest_is_sound(audited, album, tmp_path, capsys):
    argv = ("--input_jsonl", album, "--drop", audited / "audit.jsonl", "--output_dir", tmp_path / "s", "--test_size", 3)
    assert run(*argv, "--audit") == 0
    assert rows(tmp_path / "s" / "audit.jsonl") == []
    assert "Nothing was found" in (tmp_path / "s" / "audit.html").read_text(encoding="utf-8")
    assert run(*argv) == 0
    assert "Dropped: 4 pairs" in capsys.readouterr().out
    metadata = verify_splits(tmp_path / "s")
    names = [f"images/{number}_src.png" for number in ("04", "09", "13", "21")]
    assert metadata["total_pairs"] == 18 and metadata["config"]["drop"] == names
    assert not any(name in path.read_text() for path in (tmp_path / "s").rglob("t*.jsonl") for name in names)


def test_a_repeated_source_is_a_finding_and_not_the_end(album, tmp_path):
    listed = rows(album)
    again = tmp_path / "again.jsonl"
    write_rows(again, [*listed[:3], {**listed[1], "tar": listed[2]["tar"]}])
    argv = ("--input_jsonl", again, "--base_dir", album.parent, "--audit", "--output_dir", tmp_path / "out")
    assert run(*argv) == 0
    (found,) = [row for row in rows(tmp_path / "out" / "audit.jsonl") if row["audit"]["line"] == 4]
    told = {reason["kind"]: reason["text"] for reason in found["audit"]["reasons"]}
    assert f"{again}:2 too, with another target" in told["repeated"] and "duplicate" not in told
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert page.count("data-drop=") == len(rows(tmp_path / "out" / "audit.jsonl")) - 1, "--drop would drop both rows"


def test_near_duplicates_are_left_alone_when_told_so(album, tmp_path):
    assert run("--input_jsonl", album, "--audit", "--near_duplicates", "off", "--output_dir", tmp_path) == 0
    assert len(rows(tmp_path / "audit.jsonl")) == 3


def write_scores(path: Path, gains: dict[str, float]) -> Path:
    metrics = {"psnr": 12.0, "ssim": 0.9, "l1": 0.1, "identity_psnr": 12.0, "identity_ssim": 0.5, "identity_l1": 0.2}
    columns = ["src", "fold", *metrics]
    write_csv(path, columns, [{**metrics, "src": src, "fold": 1, "psnr": 12 + gain} for src, gain in gains.items()])
    return path


def test_out_of_fold_scores_add_photos_that_the_model_could_not_learn(album, tmp_path, capsys):
    gains = {f"images/{number:02d}_src.png": 8 + number % 5 / 10 for number in range(21)}
    gains["images/02_src.png"] = 1.0
    scores = write_scores(tmp_path / "oof.csv", gains)
    assert run("--input_jsonl", album, "--audit", "--oof", scores, "--output_dir", tmp_path / "out") == 0
    found = {row["src"]: row["audit"]["reasons"][-1]["kind"] for row in rows(tmp_path / "out" / "audit.jsonl")}
    assert found["images/02_src.png"] == "scores" and len(found) == 5
    out = capsys.readouterr().out
    assert "21 of 22 pairs have an out-of-fold score" in out and "are not in the input" not in out


def test_scores_of_photos_with_names_like_formulas_are_found(tmp_path, capsys):
    names = ["=1+1.png", "'=1+1.png", "@x.png"]
    pairs = write_photos(tmp_path, [(as_shot(picture(seed), seed), picture(seed)) for seed in range(3)])
    listed = rows(pairs)
    for row, name in zip(listed, names, strict=True):
        (tmp_path / row["src"]).rename(tmp_path / name)
    write_rows(pairs, [{**row, "src": name} for row, name in zip(listed, names, strict=True)])
    scores = write_scores(tmp_path / "oof.csv", dict.fromkeys(names, 8.0))
    with open(scores, newline="", encoding="utf-8") as handle:
        assert [row["src"] for row in csv.DictReader(handle)] == ["'=1+1.png", "''=1+1.png", "'@x.png"]
    assert run("--input_jsonl", pairs, "--audit", "--oof", scores, "--output_dir", tmp_path / "out") == 0
    assert "3 of 3 pairs" in capsys.readouterr().out


def test_scores_of_photos_that_are_not_in_the_input_are_told(album, tmp_path, capsys):
    gains = {"images/02_src.png": 8.0, "other/1.jpg": 8.0, "other/2.jpg": 8.0}
    scores = write_scores(tmp_path / "oof.csv", gains)
    assert run("--input_jsonl", album, "--audit", "--oof", scores, "--output_dir", tmp_path / "out") == 0
    assert "2 of its 3 photos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "--oof {path} does not exist"),
        ("src,psnr\nx,1\n", "no column identity_psnr"),
        ("src,psnr,identity_psnr\nimages/00_src.png,nan,1\nimages/01_src.png,1\n", "{path}:3: "),
        (
            "src,psnr,identity_psnr\nimages/00_src.png,2,1\nimages/00_src.png,2,1\n",
            "{path}:3: images/00_src.png stands",
        ),
        ("src,psnr,identity_psnr\nother.png,2,1\n", "none of its 1 photos is in the input"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        ('{"src": "' + 200_000 * "x" + '"}', "is not CSV"),
    ],
)
def test_wrong_scores_end_with_2_and_write_nothing(album, tmp_path, capsys, content, reason):
    path = tmp_path / "oof.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    argv = ("--input_jsonl", album, "--audit", "--oof", path, "--output_dir", tmp_path / "out")
    assert reason.format(path=path) in refused(capsys, *argv)
    assert not (tmp_path / "out").exists()


def test_scores_belong_to_an_audit(album, tmp_path, capsys):
    assert "--oof belongs to --audit" in refused(capsys, "--input_jsonl", album, "--oof", "x", "--output_dir", tmp_path)


def test_bad_images_are_named_as_the_split_names_them(rooms, capsys):
    photos = rooms / "photos"
    (photos / "images/6_src.png").write_bytes((photos / "images/6_src.png").read_bytes()[:300])
    Image.fromarray(np.zeros((9, 16, 3), np.uint8)).save(photos / "images/7_src.png")
    Image.fromarray(np.zeros((9, 16, 3), np.uint8)).save(photos / "images/7_tar.png")
    messages = [refused(capsys, *rooms_argv(rooms, *more)) for more in ((), ("--audit",))]
    assert messages[0] == messages[1] and "pairs.jsonl:7: " in messages[0] and "too small" in messages[0]
    assert not (rooms / "s").exists()


def test_photos_of_two_sizes_are_a_finding(album, tmp_path):
    pairs = rows(album)
    image = Image.open(album.parent / pairs[2]["tar"])
    image.resize((140, 128)).save(album.parent / "images/odd.png")
    table = write_rows(album.parent / "sizes.jsonl", [*pairs[:2], {**pairs[2], "tar": "images/odd.png"}])
    assert run("--input_jsonl", table, "--audit", "--output_dir", tmp_path) == 0
    (found,) = rows(tmp_path / "audit.jsonl")
    assert [reason["kind"] for reason in found["audit"]["reasons"]] == ["size"] and found["audit"]["line"] == 3


def test_a_stopped_audit_leaves_the_former_page(album, tmp_path, monkeypatch, capsys):
    (tmp_path / "audit.html").write_text("former")
    real = audit.measure
    monkeypatch.setattr(audit, "measure", lambda pair: signals._received.append("SIGTERM") or real(pair))
    try:
        assert run("--input_jsonl", album, "--audit", "--output_dir", tmp_path) == 75
    finally:
        signals.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["audit.html"]
    assert (tmp_path / "audit.html").read_text() == "former"


def test_rows_carry_strict_json(audited):
    def refuse(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    for line in (audited / "audit.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("size", [(40, 1200), (1200, 40), (1600, 12)])
def test_panoramas_and_strips_are_measured(tmp_path, size):
    sides = [(as_shot(picture(seed), seed), picture(seed)) for seed in range(20)]
    sides[3], sides[13] = (as_shot(picture(50, size), 3), picture(50, size)), sides[13][::-1]
    jsonl = write_photos(tmp_path, [*sides, (np.roll(as_shot(picture(60)), 3, axis=1), picture(60))])
    assert run("--input_jsonl", jsonl, "--audit", "--output_dir", tmp_path / "out") == 0
    found = [(row["src"][7:9], row["audit"]["reasons"][0]["kind"]) for row in rows(tmp_path / "out/audit.jsonl")]
    assert found == [("13", "swapped"), ("20", "misregistered")], "and they leave the judgement of others alone"


def raw_orientation(kind: int, value: bytes) -> bytes:
    """EXIF with an orientation of a type that the standard does not have there."""
    entry = struct.pack("<HHI", ExifTags.Base.Orientation, kind, 1) + value
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4) + struct.pack("<II", 6, 1)


@pytest.mark.parametrize(
    ("exif", "orientation"),
    [
        (raw_orientation(5, struct.pack("<I", 26)), 6),
        (raw_orientation(7, b"\x06\0\0\0"), 1),
        (raw_orientation(11, struct.pack("<f", float("nan"))), 1),
    ],
)
def test_an_orientation_of_an_odd_type_is_read_or_counts_as_none(tmp_path, exif, orientation):
    jsonl = write_photos(tmp_path, [(picture(1), picture(2))])
    Image.fromarray(picture(1)).save(tmp_path / "images/00_src.png", exif=exif)
    assert run("--input_jsonl", jsonl, "--audit", "--output_dir", tmp_path / "out") == 0
    assert rows(tmp_path / "out/audit.jsonl")[0]["audit"]["src"]["orientation"] == orientation


def test_a_profile_that_littlecms_cannot_open_has_no_name(tmp_path):
    jsonl = write_photos(tmp_path, [(as_shot(picture(seed), seed), picture(seed)) for seed in range(3)])
    profile = bytearray(prophoto())
    profile[8:10] = b"\x99\x99"  # its version
    Image.fromarray(as_shot(picture(0))).save(tmp_path / "images/00_src.png", icc_profile=bytes(profile))
    assert run("--input_jsonl", jsonl, "--audit", "--output_dir", tmp_path / "out") == 0
    assert rows(tmp_path / "out/audit.jsonl")[0]["audit"]["src"]["profile"] == "a profile without a name"
