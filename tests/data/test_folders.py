"""Folders as people have them: which photos are taken, by which script, and what is named as left out."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

import create_data_splits
from common.errors import InputError
from data.fivek.find import scan_folder
from data.folders import LEFT_OUT, photos_below
from data.images import decode
from data.manifest import pairs_from_folder
from engine.enhancing.tasks import list_photos
from tests.helpers.exits import refusal
from tests.helpers.image_files import encoded
from tests.helpers.photos import darker, scene, write_pairs

KINDS = ("a.JPG", "b.jfif", "c.Jpe", "d.MPO", "e.CR3", "f.nef", "g.HEIC", "h.avif", "i.TIF", "j.rw2", "k.dng")


def put(folder, *names, content=b"any"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_every_script_takes_the_same_kinds_and_walks_the_same_way(tmp_path):
    put(
        tmp_path / "p" / "input",
        *KINDS,
        "notes.txt",
        "@eaDir/a.JPG/SYNOPHOTO_THUMB_M.jpg",
        "$RECYCLE.BIN/old.jpg",
        ".x/y.jpg",
    )
    put(tmp_path / "p" / "input", ".AppleDouble/z.jpg", "._a.JPG", "deep/l.PNG", "photo.psd")
    (tmp_path / "p" / "input" / "deep" / "loop").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "p" / "itself.jpg").symlink_to("itself.jpg")
    put(tmp_path / "elsewhere", "m.webp")
    (tmp_path / "p" / "input" / "linked").symlink_to(tmp_path / "elsewhere")
    photos, left_out = photos_below(tmp_path / "p")
    wanted = {f"input/{name}" for name in (*KINDS, "deep/l.PNG", "linked/m.webp")}
    assert {path.relative_to(tmp_path / "p").as_posix() for path in photos} == wanted
    reasons = dict(left_out)
    assert sorted(reasons) == sorted(
        ["gone.jpg", "itself.jpg", "input/notes.txt", "input/@eaDir/", "input/$RECYCLE.BIN/", "input/.x/"]
        + ["input/.AppleDouble/", "input/._a.JPG", "input/photo.psd", "input/deep/loop/"]
    )
    assert all(reasons.values()) and ".psd is not read" in reasons["input/photo.psd"]
    tasks, others = list_photos([tmp_path / "p"], tmp_path / "out")
    assert {task.path for task in tasks} == set(photos) and len(others) == len(left_out)
    scan = scan_folder(tmp_path / "p", skip=tmp_path / "out")
    assert {file.file.path for file in scan.files} == wanted
    named = {path for path, _ in (*scan.refused, *scan.ignored, *scan.others)}
    assert named == reasons.keys()


def test_a_subfolder_that_cannot_be_listed_is_named_and_the_rest_is_taken(tmp_path, monkeypatch):
    put(tmp_path, "a_src.jpg", "a_tar.jpg", "closed/b_src.jpg", "closed/b_tar.jpg")
    listing = os.scandir

    def refusing(path="."):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refusing)
    pairs, left_out = pairs_from_folder(tmp_path)
    assert [pair.src for pair in pairs] == ["a_src.jpg"]
    assert left_out == [("closed/", "cannot be listed: Permission denied")]
    with pytest.raises(InputError, match="closed: Permission denied"):
        photos_below(tmp_path / "closed")


def test_pairs_in_any_case_and_beside_the_cameras_raw_files(tmp_path):
    put(
        tmp_path,
        "1_SRC.JPG",
        "1_TAR.JPG",
        "2_src.jfif",
        "2_Tar.MPO",
        "3_src.heic",
        "3_tar.jpg",
        "4_src.CR2",
        "4_src.jpg",
    )
    put(tmp_path, "4_tar.jpg", "5_src.nef", "5_tar.tif", "logo.png")
    pairs, left_out = pairs_from_folder(tmp_path)
    assert [(pair.src, pair.tar) for pair in pairs] == [
        ("1_SRC.JPG", "1_TAR.JPG"),
        ("2_src.jfif", "2_Tar.MPO"),
        ("3_src.heic", "3_tar.jpg"),
        ("4_src.jpg", "4_tar.jpg"),
        ("5_src.nef", "5_tar.tif"),
    ]
    assert left_out == [
        ("4_src.CR2", "4_src.jpg beside it is taken"),
        ("logo.png", "its name ends in neither _src nor _tar"),
    ]


def test_a_partner_of_an_ending_that_is_not_read_is_named(tmp_path):
    put(tmp_path, "a_src.jxl", "a_tar.jpg")
    with pytest.raises(InputError, match=r"a_tar.jpg: no _src image beside it, but a_src.jxl: .jxl is not read"):
        pairs_from_folder(tmp_path)


def split(folder, output, *more):
    argv = ["--input_dir", folder, "--output_dir", output, "--test_size", 1, "--n_folds", 2, *more]
    return create_data_splits.main([str(word) for word in argv])


def test_what_was_left_out_stands_beside_the_split_and_goes_when_nothing_is(tmp_path, capsys):
    write_pairs(tmp_path, 4)
    photos, output = tmp_path / "images", tmp_path / "s"
    put(photos, *(f"note {number}.txt" for number in range(7)))
    assert split(photos, output) == 0
    log = capsys.readouterr().out
    assert f"Left out: 7 files and folders, each with the reason in {output / LEFT_OUT}" in log
    assert "note 4.txt: .txt is not read" in log and "note 5.txt" not in log and "... and 2 more" in log
    with (output / LEFT_OUT).open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["path"] for row in rows] == [f"note {number}.txt" for number in range(7)] and all(
        row["reason"] for row in rows
    )
    for path in photos.glob("*.txt"):
        path.unlink()
    assert split(photos, output) == 0
    assert not (output / LEFT_OUT).exists() and "Left out" not in capsys.readouterr().out
    assert split(photos, photos / "s") == split(photos, photos / "s") == 0
    assert "Left out" not in capsys.readouterr().out, "a split inside the folder is nothing that was left out"
    (output / LEFT_OUT).write_text("my own notes")
    assert split(photos, output) == 0
    assert (output / LEFT_OUT).read_text() == "my own notes"


def test_heic_and_raw_without_their_packages_are_named_with_the_command(tmp_path, capsys, monkeypatch):
    write_pairs(tmp_path, 3)
    photos = tmp_path / "images"
    put(photos, "x_src.heic", content=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    put(photos, "y_src.ARW", content=b"II*\0" + bytes(40))
    put(photos, "x_tar.jpg", "y_tar.jpg", content=encoded(scene(9), "JPEG"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    argv = ["--input_dir", photos, "--output_dir", tmp_path / "s", "--test_size", 1]
    message = refusal(capsys, create_data_splits.main, *argv)
    assert "x_src.heic: HEIC files need pillow-heif: pip install -r requirements-heif.txt" in message
    assert "y_src.ARW: raw files need rawpy: pip install -r requirements-fivek.txt" in message
    assert not (tmp_path / "s").exists()


def test_a_raw_file_is_a_source_when_its_frame_is_that_of_the_target(tmp_path, capsys):
    pytest.importorskip("rawpy")
    pytest.importorskip("tifffile")
    from tests.helpers.fivek_tree import dng

    write_pairs(tmp_path, 3)
    photos = tmp_path / "images"
    target = scene(9, 64, 48)
    put(photos, "raw_src.DNG", content=dng(darker(target), border=4))
    put(photos, "raw_tar.jpg", content=encoded(target, "JPEG", quality=95))
    assert split(photos, tmp_path / "s") == 0
    rows = "".join(path.read_text() for path in (tmp_path / "s").rglob("*.jsonl"))
    assert '"src": "raw_src.DNG"' in rows and '"decoder": "2, Pillow' in rows and "rawpy" in rows
    difference = np.abs(decode(photos / "raw_src.DNG").astype(int) - darker(target))
    assert difference[8:-8, 8:-8].mean() < 3
    Image.fromarray(target[:40]).save(photos / "raw_tar.jpg")
    argv = ["--input_dir", photos, "--output_dir", tmp_path / "t", "--test_size", 1]
    message = refusal(capsys, create_data_splits.main, *argv)
    assert "src is 64x48, but tar is 64x40; a raw file is developed to the camera's whole frame" in message
    assert "prepare_fivek_robust.py" in message


FORK = """
import os, sys
from pathlib import Path
from data.images import decode
first = decode(sys.argv[1])
child = os.fork()
if not child:
    os._exit(0 if (decode(sys.argv[1]) == first).all() else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_worker_develops_raw_files_after_its_parent_has(tmp_path):
    """LibRaw's pool of threads does not survive a fork: the worker would wait for ever."""
    import subprocess
    import sys

    pytest.importorskip("rawpy")
    pytest.importorskip("tifffile")
    from tests.helpers.fivek_tree import dng
    from tests.helpers.paths import ROOT

    put(tmp_path, "a.dng", content=dng(scene(1, 320, 240)))
    command = [sys.executable, "-c", FORK, str(tmp_path / "a.dng")]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    assert subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False).returncode == 0
