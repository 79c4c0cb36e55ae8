"""The 48 sample pairs keep the promises of their README; the generator is deterministic on a made-up panorama."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from common.files import write_jsonl
from data.sample.make_sample_pairs import check_sample, main, make_pair
from data.sample.photo import fuse_exposures, render_view, soft_shoulder
from tests.helpers.paths import SAMPLE


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(SAMPLE / "images", tmp_path / "images")
    shutil.copy(SAMPLE / "pairs.jsonl", tmp_path)
    return tmp_path


def rows_of(folder):
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


def fails_with(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_committed_sample_is_whole():
    assert check_sample(SAMPLE).startswith("48 pairs, ")
    listed = {row[name] for row in rows_of(SAMPLE) for name in ("src", "tar")}
    assert listed == {f"images/{path.name}" for path in (SAMPLE / "images").iterdir()}


def test_a_pair_too_few_is_reported(copy, capsys):
    write_jsonl(copy / "pairs.jsonl", rows_of(copy)[1:])
    assert "47 pairs in 8 groups" in fails_with(capsys, ["--check", "--output_dir", copy])


def test_missing_file_and_wrong_size_are_named(copy, capsys):
    Image.new("RGB", (64, 48)).save(copy / "images" / "city_00_src.jpg")
    assert "city_00_src.jpg: (48, 64, 3)" in fails_with(capsys, ["--check", "--output_dir", copy])
    (copy / "images" / "city_00_src.jpg").unlink()
    assert "lacks" in fails_with(capsys, ["--check", "--output_dir", copy])


def test_identity_psnr_out_of_range_is_reported(copy, capsys):
    for row in rows_of(copy):
        Image.open(copy / row["tar"]).point(lambda value: 255 - value).save(copy / row["tar"])
    assert "an average of 13.0 to 16.0" in fails_with(capsys, ["--check", "--output_dir", copy])


def test_folder_without_panoramas_is_refused(tmp_path, capsys):
    assert "holds 0 *.exr files" in fails_with(capsys, ["--panorama_dir", tmp_path, "--output_dir", tmp_path / "out"])
    assert not (tmp_path / "out").exists()


def test_same_panorama_gives_the_same_pair():
    panorama = np.random.Generator(np.random.PCG64(1)).gamma(0.5, 1.0, (64, 128, 3)).astype(np.float32)
    first, again = make_pair(panorama, "scene", 2), make_pair(panorama, "scene", 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], make_pair(panorama, "scene", 3)[0])
    assert first[0].mean() < first[1].mean()


def test_view_looks_where_it_is_told():
    panorama = np.zeros((180, 360, 3), dtype=np.float32)
    panorama[:90, :, 0] = 1  # upper half red
    panorama[:, 270:, 1] = 1  # the quarter centred on +135 degrees is green
    view = render_view(panorama, yaw=135, pitch=0, field_of_view=60)
    assert view[10, :, 0].min() > 0.99 and view[-10, :, 0].max() < 0.01
    assert view[..., 1].min() > 0.99
    assert render_view(panorama, yaw=0, pitch=0, field_of_view=60)[..., 1].max() < 0.01
    assert render_view(panorama, yaw=0, pitch=60, field_of_view=60)[..., 0].min() > 0.99


def test_fusing_one_picture_with_itself_gives_it_back():
    picture = np.random.Generator(np.random.PCG64(2)).uniform(0, 1, (48, 64, 3))
    np.testing.assert_allclose(fuse_exposures(np.stack([picture] * 3), levels=4), picture, atol=1e-9)


def test_shoulder_is_monotone_and_ends_at_white():
    ramp = soft_shoulder(np.linspace(0, 2, 201))
    assert (np.diff(ramp) >= 0).all() and ramp[50] == 0.5 and ramp[-1] == pytest.approx(1)
