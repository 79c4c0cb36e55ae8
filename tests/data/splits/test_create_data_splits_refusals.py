"""create_data_splits.py: wrong rows, images, flags and folders end with exit 2, a reason and nothing written."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from common import signals
from tests.helpers.image_files import noise, save, write_rows
from tests.helpers.lock_holder import locked_by_another
from tests.helpers.split_runs import refused, rooms_argv, rows, run


def damage_jsonl(photos: Path) -> str:
    lines = (photos / "pairs.jsonl").read_text().splitlines()
    (photos / "pairs.jsonl").write_text("\n".join(["{", *lines[1:]]))
    return ":1: not JSON"


def damage_key(photos: Path) -> str:
    table = rows(photos / "pairs.jsonl")
    table[3]["source"] = table[3].pop("src")
    write_rows(photos / "pairs.jsonl", table)
    return ":4: no key 'src' (did you mean 'source'?)"


def damage_missing(photos: Path) -> str:
    (photos / "images/5_tar.png").unlink()
    return "pairs.jsonl:6: tar "


def damage_image(photos: Path) -> str:
    (photos / "images/6_src.png").write_bytes((photos / "images/6_src.png").read_bytes()[:300])
    return "pairs.jsonl:7: "


def damage_size(photos: Path) -> str:
    save(noise(1, 12, 16), photos / "images/7_tar.png")
    return "pairs.jsonl:8: images/7_src.png and images/7_tar.png: src is 16x12, but tar is 12x16; one is turned"


def damage_copy(photos: Path) -> str:
    Image.open(photos / "images/1_src.png").save(photos / "images/20_src.png", compress_level=9)
    return "pairs.jsonl:21: images/20_src.png has the same content as images/1_src.png"


def damage_repeat(photos: Path) -> str:
    table = rows(photos / "pairs.jsonl")
    write_rows(photos / "pairs.jsonl", [*table, {**table[2], "src": "./images/2_src.png"}])
    return "pairs.jsonl:25: the same src and tar as line 3"


@pytest.mark.parametrize(
    "damage", [damage_jsonl, damage_key, damage_missing, damage_image, damage_size, damage_copy, damage_repeat]
)
def test_wrong_input_ends_with_2_names_file_and_line_and_writes_nothing(rooms, capsys, damage):
    reason = damage(rooms / "photos")
    message = refused(capsys, *rooms_argv(rooms))
    assert reason in message and str(rooms / "photos" / "pairs.jsonl") in message
    assert not (rooms / "s").exists()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--test_size", 24), "--test_size 24"),
        (("--test_size", 0), "--test_size"),
        (("--n_folds", 30), "--n_folds 30"),
        (("--val_ratio", "nan"), "--val_ratio"),
        (("--scheme", "random"), "--scheme"),
        (("--input_dir", "photos"), "either --input_jsonl or --input_dir"),
        (("--base_dir", "none"), "--base_dir none is missing"),
        (("--see", 3), "--see"),
    ],
)
def test_wrong_flags_end_with_2_and_are_named(rooms, capsys, more, reason):
    assert reason in refused(capsys, *rooms_argv(rooms, *more))
    assert not (rooms / "s").exists()


def test_an_output_folder_that_is_a_file_or_in_use(rooms, capsys):
    (rooms / "s").write_text("x")
    assert "--output_dir" in refused(capsys, *rooms_argv(rooms))
    (rooms / "s").unlink()
    with locked_by_another(rooms / "s"):
        assert "is in use by process" in refused(capsys, *rooms_argv(rooms))
    assert run(*rooms_argv(rooms)) == 0, "a dead holder's lock is taken over"


def test_names_that_are_not_utf8_are_told(rooms, capsys):
    odd = os.fsdecode(b"caf\xe9")
    try:
        (rooms / odd).mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    shutil.copytree(rooms / "photos", rooms / odd / "photos")
    message = refused(capsys, *rooms_argv(rooms / odd, "--output_dir", rooms / "s"))
    assert "is not UTF-8" in message and not (rooms / "s" / "test.jsonl").exists()
    assert run(*rooms_argv(rooms / odd)) == 0
    (rooms / "photos/images/0_src.png").rename(rooms / "photos/images" / f"{odd}_src.png")
    assert "the name is not UTF-8" in refused(capsys, "--input_dir", rooms / "photos", "--output_dir", rooms / "s")


def test_a_stop_leaves_nothing_half_written(rooms, monkeypatch, capsys):
    monkeypatch.setattr(signals, "_received", ["SIGTERM"])
    assert run(*rooms_argv(rooms)) == 75
    assert not (rooms / "s").exists() and "run the same command again" in capsys.readouterr().err


def test_check_compares_by_content_whatever_the_names(rooms, tmp_path, capsys, monkeypatch):
    argv = rooms_argv(rooms)
    assert "split_metadata.json does not exist" in refused(capsys, *argv, "--check")
    assert run(*argv) == 0
    before = {path: path.read_bytes() for path in (rooms / "s").rglob("*.json*")}
    monkeypatch.chdir(rooms / "photos")  # the same photos, named from elsewhere
    assert run("--input_jsonl", "pairs.jsonl", "--output_dir", "../s", "--test_size", 5, "--check") == 0
    message = refused(capsys, *argv, "--check", "--seed", 7, "--n_folds", 2)
    assert "--seed 42 there, 7 now" in message and "--n_folds 3 there, 2 now" in message
    lines = (rooms / "photos/pairs.jsonl").read_text().splitlines()
    (rooms / "photos/pairs.jsonl").write_text("\n".join(line.replace('"src"', '"scene": 1, "src"') for line in lines))
    assert "--group_key group there, scene now" in refused(capsys, *argv, "--check", "--group_key", "scene")
    (rooms / "photos/pairs.jsonl").write_text("\n".join(lines[1:]))
    assert "1 of 24 of its photos are not here" in refused(capsys, *argv, "--check")
    assert {path: path.read_bytes() for path in (rooms / "s").rglob("*.json*")} == before
    metadata = json.loads((rooms / "s/split_metadata.json").read_text())
    del metadata["config"]
    (rooms / "s/split_metadata.json").write_text(json.dumps(metadata))
    assert "split_metadata.json is incomplete (config)" in refused(capsys, *argv, "--check")


def test_a_folder_that_cannot_be_listed_is_named(rooms, monkeypatch, capsys):
    closed, original = rooms / "photos" / "images", os.scandir

    def refuse(path):
        if str(path) == str(closed.resolve()):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refuse)
    message = refused(capsys, "--input_dir", rooms / "photos", "--output_dir", rooms / "s")
    assert "images/: cannot be listed: Permission denied" in message and not (rooms / "s").exists()
