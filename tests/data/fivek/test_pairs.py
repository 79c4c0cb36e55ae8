"""Which photos of FiveK become pairs: requirements 1 to 7 on a robust preparation, each by its number, through the front door.

Details stand in test_layouts, test_colour and test_bad_inputs.
"""

import io
import shutil

import numpy as np
import pytest
from PIL import Image, ImageFile

from data.colour import prophoto
from data.fivek.config import FivekConfig
from data.fivek.find import SourceFile
from data.fivek.match import FilePair
from data.fivek.pair import make_pair
from tests.helpers.fivek_folder import (
    encoded,
    metadata,
    put,
    put_pairs,
    reason_of,
    refused,
    rejected,
    run,
    source,
    target,
)
from tests.helpers.fivek_tree import prophoto_tiff
from tests.helpers.image_files import tiff


def test_requirement_01_finds_every_layout_or_says_where_it_looked(tmp_path, capsys):
    for number in (1, 2):
        put(tmp_path, f"fivek/raw_photos/HQa1to700/photos/a000{number}-x.dng")
    put(tmp_path, "fivek/filesAdobe.txt", b"a0001-x\n")
    put(tmp_path, "fivek/odd/picture.jpg")
    message = refused(capsys, "--fivek_dir", tmp_path / "fivek", "--output_dir", tmp_path / "out")
    assert "raw_photos/HQa1to700/photos: 2 input" in message and "odd: 1 unknown" in message
    assert "raw_photos/" in message and "no expert renditions" in message
    assert "https://data.csail.mit.edu/graphics/fivek/img/tiff16_c/NAME.tif" in message
    assert "tiff16_inputAsShotZeroed" in message and not (tmp_path / "out").exists()
    put(tmp_path, "fivek/tiff16_a/a0001-x.tif")
    assert "Renditions here are by expert A" in refused(capsys, "--fivek_dir", tmp_path / "fivek")
    (tmp_path / "empty").mkdir()
    assert "none holds an image" in refused(capsys, "--fivek_dir", tmp_path / "empty")
    assert "is missing" in refused(capsys, "--fivek_dir", tmp_path / "none")
    put_pairs(tmp_path / "good", [1, 2, 3])
    assert run(tmp_path / "good", tmp_path / "out") == 0
    put(tmp_path, "good/input/a0002-photo 2.jpeg", b"")
    assert run(tmp_path / "good", tmp_path / "out") == 3
    assert run(tmp_path / "good", tmp_path / "out", "--max_reject", "0.34") == 0


def test_requirement_02_every_file_ends_in_exactly_one_place(tmp_path):
    folder = put_pairs(tmp_path / "fivek", range(1, 13))
    (folder / "input" / "a0001-photo 1.jpeg").unlink()
    (folder / "output_expert_C" / "a0002-photo 2.jpeg").unlink()
    put(folder, "input/a0003-photo 0.jpeg", b"")
    put(folder, "tiff16_b/a0004-photo 1.tif")
    put(folder, "thumbs/a0004.jpg")
    put(folder, "input/480p_XYZ/a0005.png")
    put(folder, "output_expert_C/a0006-another.jpeg", (folder / "output_expert_C" / "a0006-photo 0.jpeg").read_bytes())
    (folder / "output_expert_C" / "a0006-photo 0.jpeg").unlink()
    shutil.copy(folder / "input" / "a0007-photo 1.jpeg", folder / "input" / "a0008-photo 2.jpeg")
    shutil.copy(folder / "output_expert_C" / "a0007-photo 1.jpeg", folder / "output_expert_C" / "a0008-photo 2.jpeg")
    assert run(folder, tmp_path / "out", "--limit", "8", "--val_ratio", "0") == 3
    assert metadata(tmp_path / "out")["files"] == {
        "found": 25,
        "in_pairs": 2 * 6,
        "rejected": 2 * 3 + 1,
        "unmatched_input": 1,
        "unmatched_target": 1,
        "ignored": 1,
        "left_out": 0,
        "other_experts": 1,
        "beyond_limit": 2,
    }
    table = rejected(tmp_path / "out")
    assert table == sorted(table, key=lambda row: tuple(row.values()))
    states = {(row["key"], row["status"]) for row in table}
    assert states == {
        ("", "ignored"),
        ("", "rejected"),
        ("a0001", "unmatched_target"),
        ("a0002", "unmatched_input"),
        ("a0003", "rejected"),
        ("a0006", "rejected"),
        ("a0008", "rejected"),
    }
    assert reason_of(tmp_path / "out", "a0008") == "the same photo as a0007"
    assert all(row["input"] and row["target"] for row in table if row["status"] == "rejected" and row["key"])
    assert metadata(tmp_path / "out")["reject_rate"] == round(3 / 9, 6)


def test_requirement_03_embedded_colours_are_honoured(tmp_path):
    """A 16-bit ProPhoto rendition leaves as the picture that it was made from; the chart is in test_colour."""
    put(tmp_path, "fivek/input/a0001.jpg", encoded(source(1)))
    put(tmp_path, "fivek/tiff16_c/a0001-x.tif", prophoto_tiff(target(1)))
    assert run(tmp_path / "fivek", tmp_path / "out", "--jpeg_quality", "100") == 0
    written = np.asarray(Image.open(tmp_path / "out/images/a0001_tar.jpg")).astype(int)
    assert np.abs(written - target(1)).max() <= 4 and np.abs(written - target(1)).mean() < 0.8
    assert metadata(tmp_path / "out")["target_profiles"] == {"matrix": 1}


def test_requirement_04_sixteen_bits_are_kept_until_colours_are_converted(tmp_path):
    """Code 255 of 65535 in ProPhoto is a visible gray; >> 8 would make it black."""
    samples = np.full((48, 64, 3), 250, np.uint16)
    samples[:, 32:] = 60000
    content = tiff(samples, tags={34675: (1, list(prophoto()))})
    put(tmp_path, "fivek/input/a0001.png", encoded(np.where(samples > 999, 200, 0).astype(np.uint8), "PNG"))
    put(tmp_path, "fivek/tiff16_c/a0001-x.tif", content)
    assert run(tmp_path / "fivek", tmp_path / "out", "--jpeg_quality", "100") == 0
    expected = 255 * 12.92 * (250 / 65535) ** (461 / 256)
    written = np.asarray(Image.open(tmp_path / "out/images/a0001_tar.jpg"))[20, 4]
    assert expected > 0.14 and abs(int(written[0]) - expected) <= 1


def made(tmp_path, src: np.ndarray, tar: np.ndarray, **options):
    """make_pair on two PNG files."""
    found = []
    for side, image in (("input", src), ("target", tar)):
        path = put(tmp_path, f"{side}.png", encoded(image, "PNG"))
        found.append(SourceFile(path.name, ".png", path.stat().st_size, 0))
    return make_pair(FilePair("a0001", *found), FivekConfig(fivek_dir=str(tmp_path), min_resolution=32, **options))


@pytest.mark.parametrize(
    ("size", "geometry"),
    [
        ((400, 300), "equal"),
        ((404, 303), "border"),
        ((403, 300), "border"),
        ((397, 298), "border"),
        ((800, 600), "scaled"),
        ((200, 150), "scaled"),
        ((201, 150), "scaled"),
        ((420, 300), None),
        ((400, 280), None),
    ],
)
def test_requirement_05_both_images_leave_with_one_size_or_not_at_all(tmp_path, size, geometry):
    tar = target(1, 400, 300)
    src = source(1, *size)
    if geometry == "border":
        left, top = (408 - size[0]) // 2, (308 - size[1]) // 2
        bordered = np.pad(source(1, 400, 300), ((4, 4), (4, 4), (0, 0)), mode="edge")
        src = bordered[top : top + size[1], left : left + size[0]]
    outcome = made(tmp_path, np.ascontiguousarray(src), tar, max_resolution=320)
    if geometry is None:
        assert "shapes disagree" in outcome.reason and outcome.src_jpeg == b""
        return
    assert outcome.reason == "" and outcome.facts["geometry"] == geometry
    sizes = {Image.open(io.BytesIO(jpeg)).size for jpeg in (outcome.src_jpeg, outcome.tar_jpeg)}
    assert len(sizes) == 1 and max(sizes.pop()) == min(320, size[0] // 10 * 10)
    assert outcome.facts["correlation"] > 0.95, "the border is cut from where it is"


def test_requirement_06_what_does_not_show_the_same_is_rejected_and_what_is_turned_is_turned_back(tmp_path):
    for number in range(1, 9):
        wrong = made(tmp_path, source(number), target(number + 50))
        assert "do not show the same thing" in wrong.reason
        for quarters, words in ((1, "90 degrees right"), (-1, "90 degrees left")):
            turned = made(tmp_path, np.rot90(source(number), quarters).copy(), target(number))
            assert turned.reason == "" and turned.facts["geometry"] == f"turned by {words}"
            assert turned.facts["row"]["width"] == 64
    shifted = made(tmp_path, np.roll(source(3), 1, axis=1), target(3))
    assert shifted.reason == "" and shifted.facts["correlation"] < 0.97


def test_requirement_07_bad_files_are_rejected_and_never_copied(tmp_path, monkeypatch):
    """Each kind of bad file is in test_bad_inputs; here: nothing of one arrives, and Pillow is not told to be lenient."""
    folder = put_pairs(tmp_path / "fivek", [1, 2])
    whole = (folder / "input" / "a0001-photo 1.jpeg").read_bytes()
    put(folder, "input/a0001-photo 1.jpeg", whole[: len(whole) // 2])
    assert run(folder, tmp_path / "out", "--val_ratio", "0") == 3
    assert [path.name for path in sorted((tmp_path / "out" / "images").iterdir())] == ["a0002_src.jpg", "a0002_tar.jpg"]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert "truncated" in reason_of(tmp_path / "out", "a0001")
