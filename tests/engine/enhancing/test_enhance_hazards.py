"""enhance_photos.py where results could be lost, mixed up or taken for others: reruns, names, odd folders, odd files."""

import hashlib
import json
import os
import shutil
import struct

import pytest
import torch
from PIL import ExifTags, Image

import enhance_photos
from darkir import DarkIR
from data.images import decode
from engine import inference
from engine.checkpoint import save
from engine.enhancing import enhance
from tests.helpers.enhance_runs import ADDED, argv_of, run, save_brighter
from tests.helpers.exits import refusal
from tests.helpers.leftovers import foreign_files, leave
from tests.helpers.photos import scene

MORE = 0.2


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two networks: one adds ADDED, the other MORE."""
    folder = tmp_path_factory.mktemp("models")
    for name, added in (("a.pt", ADDED), ("b.pt", MORE)):
        save_brighter(folder / name, added)
    return folder / "a.pt", folder / "b.pt"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("x.png", "y.png"):
        Image.fromarray(scene(len(name), 40, 30)).save(folder / name)
    return folder


def added(photos, out, name):
    return (decode(out / name).astype(float) - decode(photos / name)).mean() / 255


def interrupt_after_one(monkeypatch, *command):
    asked = iter([None, "SIGTERM", "SIGTERM"])
    monkeypatch.setattr(enhance.signals, "requested", lambda: next(asked))
    assert run(*command) == 75
    monkeypatch.undo()


def test_an_overwriting_run_that_was_stopped_leaves_no_old_result_for_new(
    models, photos, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    assert run(models[0], photos, out) == 0
    interrupt_after_one(monkeypatch, models[1], photos, out, "--overwrite")
    assert "begins anew" in capsys.readouterr().err
    for model in models:
        message = refusal(capsys, enhance_photos.main, *argv_of(model, photos, out))
        assert "was made with other settings (models)" in message and "--overwrite" in message
    assert run(models[1], photos / "x.png", out) == 0, "what the stopped run has made is its own"
    assert run(models[1], photos, out, "--overwrite") == 0
    assert run(models[1], photos, out) == 0
    assert added(photos, out, "y.png") > 0.1


def test_a_subset_that_was_made_again_says_nothing_of_the_rest(models, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(models[0], photos, out) == 0
    assert run(models[1], photos / "x.png", out, "--overwrite") == 0
    assert str(out / "y.png") in refusal(capsys, enhance_photos.main, *argv_of(models[1], photos, out))


def test_the_settings_of_a_result_stand_in_a_file_beside_its_picture(models, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(models[0], photos, out, "--max_side", "30") == 0
    settings = json.loads((out / "sheet/x.json").read_text(encoding="utf-8"))
    assert settings["max_side"] == 30 and settings["models"] == [hashlib.sha256(models[0].read_bytes()).hexdigest()]
    with Image.open(out / "sheet/x.jpg") as picture:
        assert "comment" not in picture.info
    for broken in ("{", "[" * 100_000):
        (out / "sheet/x.json").write_text(broken, encoding="utf-8")
        message = refusal(capsys, enhance_photos.main, *argv_of(models[0], photos, out, "--max_side", "30"))
        assert message.startswith(f"error: --output {out / 'x.png'} was made elsewhere, or with unknown settings")


def test_a_folder_of_a_former_version_is_recognised(models, photos, tmp_path, capsys):
    """It wrote the settings as the comment of the picture, and no file beside it."""
    out = tmp_path / "out"
    assert run(models[0], photos, out) == 0
    before = (out / "x.png").read_bytes()
    for name in ("x", "y"):
        path = out / "sheet" / f"{name}.json"
        comment = json.dumps(json.loads(path.read_text(encoding="utf-8")))
        path.unlink()
        with Image.open(path.with_suffix(".jpg")) as picture:
            picture.save(path.with_suffix(".jpg"), comment=comment)
    (out / "y.png").unlink()
    assert run(models[0], photos, out) == 0
    assert "1 of 2 photos are done already" in capsys.readouterr().out and (out / "y.png").exists()
    message = refusal(capsys, enhance_photos.main, *argv_of(models[0], photos / "x.png", out, "--tta"))
    assert "was made with other settings (tta)" in message and (out / "x.png").read_bytes() == before
    assert run(models[1], photos, out, "--format", "jpeg", "--overwrite") == 0
    assert (out / "x.jpg").exists() and not (out / "x.png").exists() and (out / "sheet/x.json").exists()


def test_two_runs_of_different_settings_side_by_side_do_not_mix(models, photos, tmp_path, capsys, monkeypatch):
    """The other run makes its first result after this one has looked what there is."""
    out, inner = tmp_path / "out", enhance.restore_photo

    def other_run_then(*arguments):
        monkeypatch.setattr(enhance, "restore_photo", inner)
        assert run(models[1], photos, out) == 0
        return inner(*arguments)

    monkeypatch.setattr(enhance, "restore_photo", other_run_then)
    assert "other settings (models)" in refusal(capsys, enhance_photos.main, *argv_of(models[0], photos, out))
    assert added(photos, out, "x.png") > 0.1


def test_a_result_of_another_format_is_made_again_in_the_place_of_the_old_one(models, photos, tmp_path):
    out = tmp_path / "out"
    assert run(models[0], photos, out) == 0
    assert run(models[0], photos, out, "--format", "jpeg", "--overwrite") == 0
    assert (out / "x.jpg").exists() and not (out / "x.png").exists()


def test_a_file_that_no_run_made_is_neither_taken_for_a_result_nor_removed(models, photos, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.tif").write_bytes(b"somebody's")
    assert "unknown settings" in refusal(capsys, enhance_photos.main, *argv_of(models[0], photos, out))
    assert run(models[0], photos, out, "--overwrite") == 0
    assert (out / "x.tif").read_bytes() == b"somebody's" and (out / "x.png").exists()


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--format", "jpeg"]])
def test_a_photo_is_never_replaced_by_its_result(models, photos, capsys, flags):
    before = (photos / "x.png").read_bytes()
    message = refusal(capsys, enhance_photos.main, *argv_of(models[0], photos / "x.png", photos, *flags))
    assert "would replace" in message and "choose another --output" in message
    assert (photos / "x.png").read_bytes() == before and not (photos / "sheet").exists()


def test_inputs_without_a_photo_are_refused(models, photos, tmp_path, capsys):
    message = refusal(capsys, enhance_photos.main, *argv_of(models[0], photos, f"{photos}/"))
    assert f"--input {photos}" in message and "--output" in message
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.psd").write_text("")
    message = refusal(capsys, enhance_photos.main, *argv_of(models[0], tmp_path / "empty", tmp_path / "out"))
    assert "holds no photo" in message and "1 other files" in message and not (tmp_path / "out").exists()


def test_photos_with_the_names_of_the_contact_sheet_are_refused(models, photos, tmp_path, capsys):
    assert run(models[0], photos, tmp_path / "out") == 0
    message = refusal(capsys, enhance_photos.main, *argv_of(models[0], tmp_path / "out", tmp_path / "again"))
    for name in ("contact_sheet_1.jpg", "sheet/x.jpg", "sheet/y.jpg"):
        assert f"{tmp_path / 'out' / name}: the contact sheet has the name" in message
    assert not (tmp_path / "again").exists()


def test_a_photo_in_the_place_of_a_part_of_the_contact_sheet_is_not_replaced(models, photos, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "sheet").mkdir(parents=True)
    for name in ("x.json", "y.jpg"):
        shutil.copy(photos / "x.png", out / "sheet" / name)
        message = refusal(capsys, enhance_photos.main, *argv_of(models[0], out / "sheet" / name, out))
        assert f"would replace or hide {out / 'sheet' / name}" in message
    assert not list(out.glob("*.*"))


@pytest.mark.parametrize("ending", ["json", "jpg"])
def test_a_folder_in_the_place_of_a_part_of_the_contact_sheet_is_refused(models, photos, tmp_path, capsys, ending):
    (photos / f"X.{ending}").mkdir()
    shutil.copy(photos / "y.png", photos / f"X.{ending}")
    message = refusal(capsys, enhance_photos.main, *argv_of(models[0], photos, tmp_path / "out"))
    assert f"the contact sheet needs {tmp_path / 'out/sheet' / f'x.{ending}'}" in message
    assert not (tmp_path / "out").exists()


def test_a_name_without_room_for_an_ending_is_refused(models, photos, tmp_path, capsys):
    (photos / "x.png").rename(photos / f"{'x' * 240}.png")
    message = refusal(capsys, enhance_photos.main, *argv_of(models[0], photos, tmp_path / "out"))
    assert "longer than 235 bytes" in message and "rename" in message and not (tmp_path / "out").exists()


def test_a_photo_that_is_named_twice_is_made_once(models, photos, tmp_path, capsys):
    paths = [photos, photos / "x.png", photos / ".." / "photos"]
    words = ["--checkpoint", models[0], "--input", *paths, "--output", tmp_path / "out", "--device", "cpu"]
    assert enhance_photos.main([str(word) for word in words]) == 0
    assert "2 photos," in capsys.readouterr().out and (tmp_path / "out/x.png").exists()


def test_the_sheet_leaves_out_what_is_no_whole_picture(models, photos, tmp_path):
    """Such as the temporary file of a process that was killed."""
    folder = tmp_path / "out" / "sheet"
    folder.mkdir(parents=True)
    leave(folder / "x.jpg")
    (folder / "Thumbs.db").write_bytes(b"half")
    assert run(models[0], photos, tmp_path / "out") == 0
    assert (tmp_path / "out/contact_sheet.html").read_text(encoding="utf-8").count("<img") == 2


def test_what_a_killed_run_left_is_cleared_and_nothing_else(models, photos, tmp_path):
    (photos / "deep").mkdir()
    (photos / "x.png").rename(photos / "deep" / "x.png")
    out = tmp_path / "out"
    for folder in (out / "deep", out / "sheet" / "deep"):
        folder.mkdir(parents=True)
    theirs = foreign_files(out / "deep")
    left = leave(out / "contact_sheet.html", out / "deep" / "x.png", out / "sheet" / "deep" / "x.jpg", out / "y.png")
    assert run(models[0], photos, out) == 0
    assert not any(path.exists() for path in left) and all(path.exists() for path in theirs)


def test_a_name_that_is_no_utf8_has_its_place_in_the_sheet(models, photos, tmp_path):
    name = os.fsdecode(b"x\xff.png")
    (photos / "x.png").rename(photos / name)
    assert run(models[0], photos, tmp_path / "out") == 0
    assert 'href="x%FF.png"' in (tmp_path / "out/contact_sheet.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / name).exists()


def test_a_strip_that_is_too_long_for_a_sheet_is_enhanced(models, tmp_path):
    Image.fromarray(scene(1, 2, 400)).save(tmp_path / "strip.png")
    assert run(models[0], tmp_path / "strip.png", tmp_path / "out") == 0
    assert decode(tmp_path / "out/strip.png").shape == (400, 2, 3)


def test_output_that_is_not_finite_is_told_and_not_written(models, photos, tmp_path, capsys):
    content = torch.load(models[0], weights_only=True)
    for tensor in content["params"].values():
        tensor.mul_(1e30)
    save(tmp_path / "wild.pt", content)
    assert run(tmp_path / "wild.pt", photos, tmp_path / "out") == 3
    out = capsys.readouterr().out
    assert f"{photos / 'x.png'}: " in out and "not finite" in out
    assert not (tmp_path / "out/x.png").exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_photo_that_is_too_large_for_the_memory_is_told(models, photos, tmp_path, capsys, monkeypatch, error):
    Image.fromarray(scene(1, 60, 50)).save(photos / "large.png")
    inner = DarkIR.forward

    def with_little_memory(network, x):
        if x.shape[-1] >= 60:
            raise error("no memory")
        return inner(network, x)

    def none_for_strips(*_):
        raise error("no memory")

    monkeypatch.setattr(DarkIR, "forward", with_little_memory)
    monkeypatch.setattr(inference, "restore_in_strips", none_for_strips)
    assert run(models[0], photos, tmp_path / "out") == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"not enhanced: {photos / 'large.png'}: ")
    assert "no memory" in last and "60 x 50 pixels" in last and "--scale training" in last
    assert (tmp_path / "out/y.png").exists()


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_names_with_umlauts_stay_in_the_exif(models, tmp_path, ending):
    exif, name = Image.Exif(), "J\u00fcrgen \u00a9 2024".encode()
    exif[ExifTags.Base.Artist] = name
    Image.fromarray(scene(1, 40, 30)).save(tmp_path / f"a.{ending}", exif=exif)
    assert run(models[0], tmp_path / f"a.{ending}", tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / f"a.{ending}") as result:
        assert result.getexif()[ExifTags.Base.Artist].encode("latin-1") == name


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_broken_entry_of_the_exif_is_left_out_and_the_others_stay(models, tmp_path, ending):
    """The maker is a fraction here."""
    maker = struct.pack("<HHII", ExifTags.Base.Make, 5, 1, 68)
    artist = struct.pack("<HHI", ExifTags.Base.Artist, 2, 3) + b"me\0\0"
    pointer = struct.pack("<HHII", ExifTags.IFD.Exif, 4, 1, 50)
    lens = struct.pack("<HHI", ExifTags.Base.LensModel, 2, 3) + b"L5\0\0"
    directories = [struct.pack("<H", 3) + maker + artist + pointer + bytes(4), struct.pack("<H", 1) + lens]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + b"".join(directories) + bytes(4) + struct.pack("<II", 1, 2)
    Image.fromarray(scene(1, 40, 30)).save(tmp_path / f"a.{ending}", exif=exif)
    assert run(models[0], tmp_path / f"a.{ending}", tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / f"a.{ending}") as result:
        first, second = result.getexif(), result.getexif().get_ifd(ExifTags.IFD.Exif)
        assert first[ExifTags.Base.Artist] == "me" and ExifTags.Base.Make not in first
        assert second[ExifTags.Base.LensModel] == "L5"


def test_exif_that_is_too_long_for_a_jpeg_is_told(models, photos, tmp_path, capsys):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = bytes(70000)
    Image.fromarray(scene(1, 40, 30)).save(photos / "x.png", exif=exif)
    assert run(models[0], photos, tmp_path / "out", "--format", "jpeg") == 3
    assert f"not enhanced: {photos / 'x.png'}: its EXIF" in capsys.readouterr().out
    assert run(models[0], photos, tmp_path / "same") == 0


def test_a_result_of_a_photo_that_has_changed_or_that_is_not_whole_is_made_again(models, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(models[0], photos, out) == 0
    whole = (out / "y.png").read_bytes()
    Image.fromarray(scene(77, 40, 30)).save(photos / "x.png")
    (out / "y.png").write_bytes(whole[:4])
    capsys.readouterr()
    assert run(models[0], photos, out) == 0
    assert "2 results are made again" in capsys.readouterr().out
    assert (out / "y.png").read_bytes() == whole and added(photos, out, "x.png") == pytest.approx(ADDED, abs=0.01)
    assert run(models[0], photos, out) == 0
    assert "2 of 2 photos are done already" in capsys.readouterr().out
