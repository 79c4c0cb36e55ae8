"""The fifteen requirements on a robust FiveK preparation, each by its number, through the front door.

Details stand in the other test_fivek files: layouts, colour, bad inputs, kills.
"""

import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import prepare_fivek_robust
from data import files, fivek, fivek_pair
from data.fingerprint import fingerprint, fingerprint_pairs
from data.fivek_match import Candidate
from data.fivek_options import FivekConfig
from data.fivek_pair import make_pair
from data.fivek_scan import SourceFile
from data.fivek_split import hash_share
from data.manifest import read_pairs
from data.profiles import prophoto
from data.workers import THREAD_LIMITS
from tests.fivek_folder import (
    encoded,
    keys,
    metadata,
    put,
    put_pairs,
    reason_of,
    record,
    rejected,
    rows,
    run,
    source,
    target,
    tree,
)
from tests.fivek_tree import prophoto_tiff
from tests.image_files import tiff

ROOT = Path(prepare_fivek_robust.__file__).resolve().parent


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """Forty sound pairs and their output; copy before changing anything."""
    folder = tmp_path_factory.mktemp("forty")
    put_pairs(folder / "fivek", range(1, 41))
    assert run(folder / "fivek", folder / "out", "--workers", "2", "--val_ratio", "0.3") == 0
    return folder


@pytest.fixture
def copy(forty, tmp_path):
    """A copy of the forty pairs and their output, times kept."""
    shutil.copytree(forty, tmp_path / "copy")
    return tmp_path / "copy"


def rerun(folder: Path, *more) -> int:
    return run(folder / "fivek", folder / "out", "--val_ratio", "0.3", *more)


def refused(capsys, *argv) -> str:
    """stderr of a run that ends with exit code 2."""
    capsys.readouterr()
    try:
        code = prepare_fivek_robust.main([str(argument) for argument in argv])
    except SystemExit as exit_:
        code = exit_.code
    message = capsys.readouterr().err
    assert code == 2 and "Traceback" not in message
    return message


def test_requirement_01_finds_every_layout_or_says_where_it_looked(tmp_path, capsys):
    for number in (1, 2):
        put(tmp_path, f"fivek/raw_photos/HQa1to700/photos/a000{number}-x.dng")
    put(tmp_path, "fivek/filesAdobe.txt", b"a0001-x\n")
    put(tmp_path, "fivek/odd/picture.jpg")
    message = refused(capsys, "--fivek_dir", tmp_path / "fivek", "--output_dir", tmp_path / "out")
    assert "raw_photos/HQa1to700/photos: 2 input" in message and "odd: 1 unknown" in message
    assert "holds raw_photos/ with the DNG inputs, but no expert renditions" in message
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
    """A 16-bit ProPhoto rendition leaves as the picture that it was made from; the chart is in test_fivek_colour."""
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
    return make_pair(Candidate("a0001", *found), FivekConfig(fivek_dir=str(tmp_path), min_resolution=32, **options))


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
    """Each kind of bad file is in test_fivek_bad_inputs; here: nothing of one arrives, and Pillow is not told to be lenient."""
    folder = put_pairs(tmp_path / "fivek", [1, 2])
    whole = (folder / "input" / "a0001-photo 1.jpeg").read_bytes()
    put(folder, "input/a0001-photo 1.jpeg", whole[: len(whole) // 2])
    assert run(folder, tmp_path / "out", "--val_ratio", "0") == 3
    assert [path.name for path in sorted((tmp_path / "out" / "images").iterdir())] == ["a0002_src.jpg", "a0002_tar.jpg"]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert "truncated" in reason_of(tmp_path / "out", "a0001")


def test_requirement_08_a_pair_keeps_its_side_whoever_else_is_there(copy):
    before = {side: keys(copy / "out", side) for side in ("train", "val")}
    assert len(before["val"]) in range(6, 19) and before["train"].isdisjoint(before["val"])
    put_pairs(copy / "fivek", range(41, 61))
    put(copy / "fivek", "input/a0002-photo 2.jpeg", b"")
    assert rerun(copy, "--max_reject", "1") == 0
    after = {side: keys(copy / "out", side) for side in ("train", "val")}
    for side in ("train", "val"):
        assert before[side] - {"a0002"} <= after[side]
    assert len(after["train"] | after["val"]) == 59 and after["train"].isdisjoint(after["val"])
    assert rerun(copy, "--max_reject", "1", "--seed", "7") == 0
    assert keys(copy / "out", "val") != after["val"]


def test_requirement_08_the_hash_gives_the_share_that_was_asked_for():
    shares = [hash_share(42, f"a{number:04d}") for number in range(1, 5001)]
    assert 220 < sum(share < 0.05 for share in shares) < 280 and min(shares) >= 0 and max(shares) < 1
    assert hash_share(42, "a0001") == hash_share(42, "a0001") != hash_share(43, "a0001")


def test_requirement_08_a_list_decides_when_it_is_given(copy, capsys):
    listing = put(copy, "val.txt", b"\xef\xbb\xbfa0003\r\na0005-photo 2.dng\n\na4999-elsewhere\n")
    assert rerun(copy, "--val_list", listing) == 0
    assert keys(copy / "out", "val") == {"a0003", "a0005"} and len(keys(copy / "out", "train")) == 38
    assert metadata(copy / "out")["config"]["val_list"] == "val.txt"
    assert "does not exist" in refused(
        capsys, "--fivek_dir", copy / "fivek", "--output_dir", copy / "out", "--val_list", copy / "no.txt"
    )


def test_requirement_08_bursts_stay_together_by_day(tmp_path):
    days = {number: f"2004:0{1 + number % 9}:17 10:00:{number:02d}" for number in range(1, 28)}
    for number, day in days.items():
        exif = Image.Exif()
        exif[306] = day
        put(tmp_path, f"fivek/input/a{number:04d}.jpg", encoded(source(number), exif=exif))
        put(tmp_path, f"fivek/expertC/a{number:04d}.jpg", encoded(target(number)))
    assert run(tmp_path / "fivek", tmp_path / "out", "--split_by", "day", "--val_ratio", "0.5") == 0
    sides = {side: {days[int(key[1:])][:10] for key in keys(tmp_path / "out", side)} for side in ("train", "val")}
    assert sides["train"] and sides["val"] and sides["train"].isdisjoint(sides["val"])


def test_requirement_08_a_lookalike_of_a_training_pair_does_not_validate(tmp_path):
    folder = put_pairs(tmp_path / "fivek", [1, 2, 3])
    for side in ("input", "output_expert_C"):
        image = Image.open(folder / side / "a0001-photo 1.jpeg")
        image.point(lambda value: min(255, value + 1)).save(folder / side / "a0009-next shot.jpeg", quality=90)
    put(tmp_path, "val.txt", b"a0003\na0009\n")
    assert run(folder, tmp_path / "out", "--val_list", tmp_path / "val.txt") == 0
    assert keys(tmp_path / "out", "val") == {"a0003"} and keys(tmp_path / "out", "train") == {"a0001", "a0002"}
    row = next(row for row in rejected(tmp_path / "out") if row["key"] == "a0009")
    assert (row["status"], row["reason"]) == ("left_out", "looks like a training pair")
    assert metadata(tmp_path / "out")["files"]["left_out"] == 2 and metadata(tmp_path / "out")["reject_rate"] == 0


def test_requirement_09_the_record_is_written_last_and_proves_the_pair(tmp_path, monkeypatch):
    folder = put_pairs(tmp_path / "fivek", [2, 3])
    order = []
    real = os.replace
    monkeypatch.setattr(files.os, "replace", lambda old, new: (order.append(Path(new).name), real(old, new))[1])
    assert run(folder, tmp_path / "out") == 0
    for key in ("a0002", "a0003"):
        assert [name for name in order if key in name] == [f"{key}_src.jpg", f"{key}_tar.jpg", f"{key}.json"]
    assert order[-1] == "dataset_metadata.json"
    beside = []

    def look(old, new):
        new = Path(new)
        if new.suffix == ".jpg":
            beside.append((new.parents[1] / "meta" / f"{new.name[:5]}.json").exists())
        real(old, new)

    monkeypatch.setattr(files.os, "replace", look)
    assert run(folder, tmp_path / "out", "--jpeg_quality", "90") == 0
    assert beside == [False] * 4, "no image of new options ever stands beside the record of old ones"
    facts = record(tmp_path / "out", "a0002")
    assert facts["input_file"]["path"] == "input/a0002-photo 2.jpeg" and facts["status"] == "pair"
    assert {"size", "mtime_ns"} <= facts["input_file"].keys() and len(facts["input"]["sha256"]) == 64
    assert facts["row"]["src_file_sha256"] == fingerprint(tmp_path / "out/images/a0002_src.jpg").file_sha256


def test_requirement_10_one_and_two_workers_make_the_same_bytes(copy, tmp_path):
    """The kills are in test_fivek_kills."""
    assert run(copy / "fivek", tmp_path / "alone", "--val_ratio", "0.3", "--workers", "1") == 0
    assert tree(tmp_path / "alone") == tree(copy / "out")
    assert str(tmp_path).encode() not in b"".join(content for content, _ in tree(copy / "out").values())


def test_requirement_11_other_options_or_sources_redo_their_pairs_and_no_other(copy, monkeypatch, capsys):
    made_keys = []
    real = fivek.store
    monkeypatch.setattr(fivek, "store", lambda *args: (made_keys.append(args[1].key), real(*args))[1])
    before = tree(copy / "out")
    assert rerun(copy) == 0 and made_keys == [] and tree(copy / "out") == before
    os.utime(copy / "fivek/input/a0004-photo 1.jpeg", (1e9, 1e9))
    put(copy / "fivek", "output_expert_C/a0005-photo 2.jpeg", encoded(target(5), quality=90))
    (copy / "out/images/a0006_tar.jpg").unlink()
    (copy / "out/meta/a0007.json").write_text("{")
    assert rerun(copy) == 0 and sorted(made_keys) == ["a0004", "a0005", "a0006", "a0007"]
    made_keys.clear()
    capsys.readouterr()
    assert rerun(copy, "--jpeg_quality", "90") == 0 and len(made_keys) == 40
    assert "To make: 40, 40 of them again" in capsys.readouterr().out
    assert {record(copy / "out", f"a{number:04d}")["made_with"] for number in range(1, 41)} == {
        record(copy / "out", "a0001")["made_with"]
    }


def test_requirement_11_verify_finds_what_size_and_time_do_not_show(copy):
    path = copy / "out/images/a0009_src.jpg"
    before, status = path.read_bytes(), path.stat()
    path.write_bytes(before[:-10] + bytes([before[-10] ^ 255]) + before[-9:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert rerun(copy) == 0 and path.read_bytes() != before
    assert rerun(copy, "--verify") == 0 and path.read_bytes() == before


def test_requirement_11_a_rejected_pair_is_not_decoded_again_until_something_changes(tmp_path, capsys):
    folder = put_pairs(tmp_path / "fivek", [1, 2, 3])
    put(folder, "input/a0001-photo 1.jpeg", b"")
    assert run(folder, tmp_path / "out") == 3
    assert run(folder, tmp_path / "out") == 3
    assert "Done before: 3. To make: 0" in capsys.readouterr().out
    put(folder, "input/a0001-photo 1.jpeg", encoded(source(1)))
    assert run(folder, tmp_path / "out") == 0
    put(folder, "input/a0001-photo 1.jpeg", b"")
    assert run(folder, tmp_path / "out") == 3
    assert not (tmp_path / "out/images/a0001_src.jpg").exists()


def test_requirement_12_a_second_writer_is_refused_with_2(copy, capsys):
    holder = (
        "import sys, time; from data.files import FolderLock\n"
        "with FolderLock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", holder, str(copy / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert "is in use by process" in refused(capsys, "--fivek_dir", copy / "fivek", "--output_dir", copy / "out")
        process.kill()
    assert rerun(copy) == 0


def test_requirement_12_a_pair_that_crashes_its_worker_is_rejected_this_time(tmp_path, monkeypatch):
    folder = put_pairs(tmp_path / "fivek", range(1, 7))

    def crash(self, candidate):
        if candidate.key == "a0004":
            os._exit(11)
        return make_pair(candidate, self.config)

    with monkeypatch.context() as patch:
        patch.setattr(fivek._Maker, "__call__", crash)
        assert run(folder, tmp_path / "out", "--workers", "2", "--val_ratio", "0") == 3
    assert reason_of(tmp_path / "out", "a0004") == "worker crashed (exit code 11)"
    assert len(keys(tmp_path / "out", "train")) == 5
    assert run(folder, tmp_path / "out", "--val_ratio", "0") == 0, (
        "it may have been the machine: the next run tries again"
    )


def test_requirement_13_workers_follow_cpus_and_memory_with_one_thread_each(monkeypatch):
    monkeypatch.setattr(fivek, "usable_cpus", lambda: 64)
    for memory, wanted in ((10**11, 64), (4 * 10**9, 8), (10**8, 1)):
        monkeypatch.setattr(fivek, "usable_memory", lambda memory=memory: memory)
        assert fivek.default_workers() == wanted
    program = (
        "import os, runpy, sys\nsys.argv = ['prepare_fivek_robust.py', '--help']\n"
        "try:\n    runpy.run_path('prepare_fivek_robust.py', run_name='__main__')\nexcept SystemExit: pass\n"
        f"sys.stderr.write(' '.join(os.environ.get(name, '-') for name in {THREAD_LIMITS!r}))\n"
        "sys.stderr.write(' torch' if 'torch' in sys.modules else ' light')"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stderr == "1 1 1 1 light"


def test_requirement_13_jpegs_are_decoded_small_only_when_both_are_jpeg(tmp_path, monkeypatch):
    scales = []
    real = fivek_pair.read_member

    def noting(*args, **options):
        scales.append(options["jpeg_scale"])
        return real(*args, **options)

    monkeypatch.setattr(fivek_pair, "read_member", noting)
    candidates = []
    for name, image in (("input.jpg", source(1, 640, 480)), ("target.jpg", target(1, 640, 480))):
        put(tmp_path, name, encoded(image))
        put(tmp_path, f"{name[:-4]}.png", encoded(image, "PNG"))
    for suffix in (".jpg", ".png"):
        found = [SourceFile(name, name[-4:], 1, 0) for name in ("input.jpg", f"target{suffix}")]
        candidates.append(Candidate("a0001", *found))
    outcomes = [
        make_pair(candidate, FivekConfig(fivek_dir=str(tmp_path), min_resolution=32, max_resolution=150))
        for candidate in candidates
    ]
    assert scales == [4, 4, 1, 1]
    sizes = [(outcome.facts["row"]["width"], outcome.facts["row"]["height"]) for outcome in outcomes]
    assert sizes == [(150, 113), (150, 113)] and outcomes[0].facts["input"]["size"] == [640, 480]


def test_requirement_14_space_is_checked_before_and_a_full_disk_can_be_continued(tmp_path, monkeypatch, capsys):
    folder = put_pairs(tmp_path / "fivek", range(1, 9))
    argv = ("--fivek_dir", folder, "--output_dir", tmp_path / "out", "--min_resolution", "32", "--workers", "1")
    with monkeypatch.context() as patch:
        patch.setattr(fivek.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
        assert "GB are needed for 8 pairs" in refused(capsys, *argv)
    put(tmp_path, "file")
    assert "is a file" in refused(capsys, "--fivek_dir", folder, "--output_dir", tmp_path / "file")
    real, written = os.replace, []

    def full(old, new):
        written.append(new)
        if len(written) == 11:
            raise OSError(errno.ENOSPC, "No space left on device", str(new))
        return real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        assert run(folder, tmp_path / "out") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "out" / "dataset_metadata.json").exists()
    assert run(folder, tmp_path / "out") == 0 and run(folder, tmp_path / "fresh") == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_requirement_15_rows_are_what_training_reads_and_decodes_nothing_for(forty, monkeypatch):
    train = rows(forty / "out", "train")
    assert train == sorted(train, key=lambda row: row["src"])
    assert train[0]["src"].startswith("images/a") and train[0]["tar"] == train[0]["src"].replace("_src", "_tar")
    monkeypatch.setattr("data.fingerprint.decode_bytes", lambda *_: pytest.fail("decoded"))
    for side in ("train", "val"):
        pairs = read_pairs(forty / "out" / f"{side}.jsonl")
        assert [pair.row for pair in fingerprint_pairs(pairs)] == [pair.row for pair in pairs]


def test_requirement_15_licences_are_counted_and_kept_up_to_date(copy):
    assert metadata(copy / "out")["licences"] == {"unknown": 40}
    put(copy / "fivek", "filesAdobe.txt", b"\n".join(b"a%04d-x" % number for number in range(1, 31)))
    put(copy / "fivek", "filesAdobeMIT.txt", b"\n".join(b"a%04d-x" % number for number in range(31, 41)))
    images = {name: state for name, state in tree(copy / "out").items() if name.endswith(".jpg")}
    assert rerun(copy) == 0
    assert metadata(copy / "out")["licences"] == {"LicenseAdobe": 30, "LicenseAdobeMIT": 10}
    assert "research only" in metadata(copy / "out")["licence_note"]
    assert record(copy / "out", "a0035")["licence"] == "LicenseAdobeMIT"
    assert images == {name: state for name, state in tree(copy / "out").items() if name.endswith(".jpg")}
