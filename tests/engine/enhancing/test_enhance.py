"""enhance_photos.py through the front door: what comes out of which file, what is kept, skipped, refused and listed."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import enhance_photos
from common.files import write_bytes
from darkir import DarkIR
from data.colour import prophoto
from data.images import decode, decode_bytes
from data.photo_files import photo_bytes, srgb_profile
from engine.checkpoint import save
from tests.helpers.enhance_runs import ADDED, RESOLUTION, argv_of, run, save_brighter
from tests.helpers.exits import refusal
from tests.helpers.fivek_tree import dng
from tests.helpers.image_files import noise, turned
from tests.helpers.paths import ROOT
from tests.helpers.photos import scene


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "brighter.pt"
    save_brighter(path)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = "Lens 5"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 1
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    picture = Image.fromarray(turned(scene(1, 48, 36), 6))
    picture.save(folder / "a.jpg", exif=exif, quality=97, subsampling=0)
    Image.fromarray(scene(2, 40, 30)).save(folder / "deep" / "b.PNG")
    write_bytes(folder / "deep" / "er" / "c.tif", photo_bytes(ramp(), "TIFF", Image.Exif()))
    (folder / "notes.txt").write_text("not a photo")
    return folder


def ramp() -> np.ndarray:
    return np.linspace(0, 40000, 30 * 44 * 3).reshape(30, 44, 3).astype(np.uint16)


@pytest.mark.parametrize("scale", ["native", "training"])
def test_photos_of_a_tree_are_brightened_under_their_own_names_and_kinds(checkpoint, photos, tmp_path, capsys, scale):
    assert run(checkpoint, photos, tmp_path / "out", "--scale", scale) == 0
    out = tmp_path / "out"
    results = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert results == {
        *("a.jpg", "deep/b.png", "deep/er/c.tif", "contact_sheet.html", "contact_sheet_1.jpg", "left_out.csv"),
        *("sheet/a.jpg", "sheet/deep/b.jpg", "sheet/deep/er/c.jpg"),
        *("sheet/a.json", "sheet/deep/b.json", "sheet/deep/er/c.json"),
    }
    for before, after in (("a.jpg", "a.jpg"), ("deep/b.PNG", "deep/b.png")):
        old, new = decode(photos / before).astype(float), decode(out / after).astype(float)
        assert np.abs(np.clip(old + 255 * ADDED, 0, 255) - new).mean() < 2, before
    log = capsys.readouterr().out
    assert "3 photos, 1 models" in log and "Left out: 1 files and folders" in log and f"--scale {scale}" in log
    page = (out / "contact_sheet.html").read_text(encoding="utf-8")
    assert page.count("<img") == 3 and 'href="deep/b.png"' in page


def test_exif_stays_but_for_orientation_and_size_and_the_profile_is_srgb(checkpoint, photos, tmp_path):
    assert run(checkpoint, photos, tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "a.jpg") as result:
        exif, entries = result.getexif(), result.getexif().get_ifd(ExifTags.IFD.Exif)
        assert result.size == (48, 36), "turned upright once"
        assert ExifTags.Base.Orientation not in exif and exif[ExifTags.Base.Make] == "Maker"
        assert entries[ExifTags.Base.LensModel] == "Lens 5" and entries[ExifTags.Base.ExifImageWidth] == 48
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
        assert result.info["icc_profile"] == srgb_profile() and result.layer[1][1:3] == (1, 1), "4:4:4"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(checkpoint, tmp_path, orientation):
    upright, exif = scene(3, 40, 28), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    (tmp_path / "in").mkdir()
    Image.fromarray(turned(upright, orientation)).save(tmp_path / "in" / "a.png", exif=exif)
    assert run(checkpoint, tmp_path / "in", tmp_path / "out") == 0
    result = decode(tmp_path / "out" / "a.png").astype(float)
    assert result.shape == upright.shape and np.abs(np.clip(upright + 255 * ADDED, 0, 255) - result).mean() < 2


def test_sixteen_bits_stay_sixteen_bits(checkpoint, photos, tmp_path):
    assert run(checkpoint, photos, tmp_path / "out") == 0
    result = decode_bytes((tmp_path / "out/deep/er/c.tif").read_bytes(), "c", dtype=np.uint16)
    assert np.abs(result.astype(int) - (ramp() + round(ADDED * 65535))).max() <= 2
    assert run(checkpoint, photos / "deep/er", tmp_path / "eight", "--format", "jpeg") == 0
    with Image.open(tmp_path / "eight/c.jpg") as small:
        assert small.mode == "RGB" and small.size == (44, 30)
    assert run(checkpoint, photos / "deep/er", tmp_path / "png", "--format", "png") == 0
    again = decode_bytes((tmp_path / "png/c.png").read_bytes(), "c", dtype=np.uint16)
    assert np.array_equal(again, result)


def test_colours_of_another_profile_are_converted(checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(5, 40, 30)).save(tmp_path / "in/wide.png", icc_profile=prophoto())
    Image.fromarray(noise(6, 40, 30)[..., 0]).save(tmp_path / "in/gray.png")
    assert run(checkpoint, tmp_path / "in", tmp_path / "out") == 0
    assert np.abs(decode(tmp_path / "in/wide.png").astype(int) - noise(5, 40, 30)).max() > 20, "the profile matters"
    for name in ("wide.png", "gray.png"):
        wanted = np.clip(decode(tmp_path / "in" / name) + 255 * ADDED, 0, 255)
        assert np.abs(decode(tmp_path / "out" / name) - wanted).max() <= 1, name


def test_a_bad_file_is_listed_and_the_others_are_made(checkpoint, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    assert run(checkpoint, photos, tmp_path / "out") == 3
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(f"not enhanced: {photos / 'broken.jpg'}: ")
    assert "3 of 4 photos are in" in out and (tmp_path / "out/a.jpg").exists()
    assert not (tmp_path / "out/broken.jpg").exists()


def test_a_rerun_makes_what_is_missing_and_overwrites_nothing(checkpoint, photos, tmp_path, capsys):
    assert run(checkpoint, photos, tmp_path / "out") == 0
    Image.new("RGB", (48, 36), "red").save(tmp_path / "out/a.jpg")  # retouched by hand
    by_hand = (tmp_path / "out/a.jpg").read_bytes()
    (tmp_path / "out/deep/b.png").unlink()
    before = (tmp_path / "out/deep/er/c.tif").stat().st_mtime_ns
    capsys.readouterr()
    assert run(checkpoint, photos, tmp_path / "out") == 0
    assert "2 of 3 photos are done already" in capsys.readouterr().out
    assert (tmp_path / "out/a.jpg").read_bytes() == by_hand and (tmp_path / "out/deep/b.png").exists()
    assert (tmp_path / "out/deep/er/c.tif").stat().st_mtime_ns == before
    shutil.copy(photos / "a.jpg", tmp_path / "first.jpg")
    (photos / "a.jpg").write_bytes((photos / "a.jpg").read_bytes() + b"edited")
    assert run(checkpoint, photos, tmp_path / "out") == 2
    assert "was retouched, and its photo has changed" in capsys.readouterr().err
    shutil.move(tmp_path / "first.jpg", photos / "a.jpg")
    assert run(checkpoint, photos, tmp_path / "out", "--tta") == 2
    assert "other settings (tta)" in capsys.readouterr().err
    assert run(checkpoint, photos, tmp_path / "out", "--tta", "--overwrite") == 0
    assert decode(tmp_path / "out/a.jpg").shape == (36, 48, 3)


def test_results_that_are_cut_off_or_of_another_photo_are_made_again(checkpoint, photos, tmp_path, capsys):
    assert run(checkpoint, photos, tmp_path / "out") == 0
    names = ("a.jpg", "deep/b.png", "deep/er/c.tif")
    first = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    (tmp_path / "out/a.jpg").write_bytes(first["a.jpg"][:200])
    shutil.copy(photos / "deep/er/c.tif", photos / "deep/b.PNG")
    capsys.readouterr()
    assert run(checkpoint, photos, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "2 results are made again" in out and "1 of 3 photos are done already" in out
    assert (tmp_path / "out/a.jpg").read_bytes() == first["a.jpg"]
    assert [path.name for path in (tmp_path / "out/deep").glob("b.*")] == ["b.tif"], (
        "the new photo's kind, and nothing else"
    )
    assert decode(tmp_path / "out/deep/b.tif").shape == (30, 44, 3)


def test_shards_share_the_photos_out(checkpoint, photos, tmp_path):
    made = []
    for shard in ("1/2", "2/2"):
        assert run(checkpoint, photos, tmp_path / "out", "--shard", shard) == 0
        made.append(sum((tmp_path / "out" / name).exists() for name in ("a.jpg", "deep/b.png", "deep/er/c.tif")))
    assert made == [2, 3]
    assert (tmp_path / "out/contact_sheet.html").read_text(encoding="utf-8").count("<img") == 3


def test_each_shard_lists_what_failed_and_takes_its_list_away(checkpoint, tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02d}.jpg").write_bytes(b"broken")
    for left in (12, 4):
        for shard in ("1/2", "2/2"):
            assert run(checkpoint, tmp_path, tmp_path / "out", "--shard", shard) == 3
        lists = {path.name: path.read_text().splitlines() for path in (tmp_path / "out").glob("not_enhanced*")}
        assert sorted(lists) == (["not_enhanced_1_of_2.txt", "not_enhanced_2_of_2.txt"] if left == 12 else [])
        assert len({line for lines in lists.values() for line in lines}) == (12 if left == 12 else 0)
        for number in range(4, 12):
            (tmp_path / f"{number:02d}.jpg").unlink(missing_ok=True)


def test_photos_of_one_name_are_told_apart_by_their_endings(checkpoint, photos, tmp_path):
    Image.fromarray(scene(4, 40, 30)).save(photos / "A.webp", lossless=True)
    assert run(checkpoint, photos, tmp_path / "out", "--max_side", "20") == 0
    for name in ("a_jpg.jpg", "A_webp.jpg"):
        assert max(decode(tmp_path / "out" / name).shape) == 20


def test_an_interrupted_run_goes_on(checkpoint, photos, tmp_path, capsys, monkeypatch):
    from engine.enhancing import enhance

    asked = iter([None, "SIGTERM", "SIGTERM"])
    monkeypatch.setattr(enhance.signals, "requested", lambda: next(asked))
    assert run(checkpoint, photos, tmp_path / "out") == 75
    assert "1 photos" in capsys.readouterr().err and (tmp_path / "out/a.jpg").exists()
    monkeypatch.undo()
    assert run(checkpoint, photos, tmp_path / "out") == 0
    assert (tmp_path / "out/deep/er/c.tif").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--shard", "3/2"], "--shard 3/2"),
        (["--jpeg_quality", "0"], "--jpeg_quality 0"),
        (["--max_side", "2"], "--max_side 2"),
        (["--input", "nowhere"], "nowhere"),
        (["--input", "x" * 300], "error: --input xxx"),
        (["--output", "x" * 300], "error: --output xxx"),
        (["--checkpoint", "gone.pt"], "error: --checkpoint gone.pt"),
    ],
)
def test_mistakes_name_their_flag_and_write_nothing(checkpoint, photos, tmp_path, capsys, flags, named):
    message = refusal(capsys, enhance_photos.main, *argv_of(checkpoint, photos, tmp_path / "out", *flags))
    assert named in message and not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", ["enhance_photos", "export_model"])
def test_help_and_a_mistyped_flag_wait_for_no_library(script):
    code = f"import sys, {script}; sys.exit(len({{'torch', 'numpy', 'PIL'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_output_may_lie_inside_the_input(checkpoint, photos, capsys):
    for _ in range(2):
        assert run(checkpoint, photos, photos / "out") == 0
        assert "3 photos" in capsys.readouterr().out


def test_models_of_different_training_sizes_are_refused(checkpoint, photos, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["data"]["resolution"] = 48
    save(tmp_path / "other.pt", content)
    flags = ["--checkpoint", checkpoint, tmp_path / "other.pt"]
    assert run(checkpoint, photos, tmp_path / "out", *flags, "--scale", "training") == 2
    message = capsys.readouterr().err
    assert "trained with different --resolution" in message and "use --scale native" in message
    assert run(checkpoint, photos, tmp_path / "out", *flags) == 0


def test_models_of_squashed_photos_have_no_training_scale(checkpoint, photos, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["data"]["fit"] = "squash"
    save(tmp_path / "squash.pt", content)
    assert run(tmp_path / "squash.pt", photos, tmp_path / "out", "--scale", "training") == 2
    message = capsys.readouterr().err
    assert "--fit squash" in message and "use --scale native" in message


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        ([], [(60, 90)]),
        (["--scale", "training"], [(RESOLUTION, 36)]),
        (["--max_side", "45"], [(30, 45)]),
        (["--tta"], [(60, 90)] * 4),
    ],
)
def test_the_networks_see_what_the_flags_say(checkpoint, tmp_path, monkeypatch, flags, sizes):
    Image.fromarray(scene(1, 90, 60)).save(tmp_path / "a.png")
    seen, forward = [], DarkIR.forward

    def seeing(network, x):
        seen.append(x.clone())
        return forward(network, x)

    monkeypatch.setattr(DarkIR, "forward", seeing)
    assert run(checkpoint, tmp_path / "a.png", tmp_path / "out", *flags) == 0
    assert [tuple(x.shape[-2:]) for x in seen] == sizes
    for x, dims in zip(seen, ((), (3,), (2,), (2, 3)), strict=False):
        assert torch.equal(x.flip(dims), seen[0])


def test_a_dng_keeps_its_bits_and_what_it_says_of_itself(checkpoint, tmp_path):
    pytest.importorskip("rawpy")
    pytest.importorskip("tifffile")
    picture = np.full((48, 64, 3), 60, dtype=np.uint8)
    picture[:, 32:] = 61
    (tmp_path / "a.dng").write_bytes(dng(picture))
    for kind, ending in (("same", "jpg"), ("tiff", "tif")):
        assert run(checkpoint, tmp_path / "a.dng", tmp_path / kind, "--format", kind) == 0
        path = tmp_path / kind / f"a.{ending}"
        with Image.open(path) as result:
            assert result.size == (64, 48) and result.getexif()[ExifTags.Base.Make] == "Imaginary"
        values = decode_bytes(path.read_bytes(), path, dtype=np.uint16)
        assert np.abs(values[20, ::63].mean() / 257 - (60.5 + 255 * ADDED)) < 1
    assert np.unique(values % 257).size > 1, "16 bits, not 8 of them twice"
