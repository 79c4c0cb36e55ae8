"""One preparation of FiveK: train and val, order of writing, workers, space; requirements 8, 9 and 12 to 14, each by its number."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

import prepare_fivek_robust
from common import files
from common.workers import THREAD_LIMITS
from data.fingerprint import fingerprint
from data.fivek import pair, prepare
from data.fivek.config import FivekConfig
from data.fivek.dataset import hash_share
from data.fivek.find import SourceFile
from data.fivek.match import FilePair
from data.fivek.pair import make_pair
from tests.helpers.fivek_folder import (
    encoded,
    keys,
    metadata,
    put,
    put_pairs,
    reason_of,
    record,
    refused,
    rejected,
    run,
    source,
    target,
    tree,
)

ROOT = Path(prepare_fivek_robust.__file__).resolve().parent


def test_requirement_08_the_hash_gives_the_requested_share():
    shares = [hash_share(42, f"a{number:04d}") for number in range(1, 5001)]
    assert 220 < sum(share < 0.05 for share in shares) < 280 and min(shares) >= 0 and max(shares) < 1
    assert hash_share(42, "a0001") == hash_share(42, "a0001") != hash_share(43, "a0001")


def test_requirement_08_bursts_stay_together_by_day(tmp_path):
    days = {number: f"2004:0{1 + number % 9}:17 10:00:{number:02d}" for number in range(1, 28)}
    for number, day in days.items():
        exif = Image.Exif()
        exif[306] = day
        put(tmp_path, f"fivek/input/a{number:04d}.jpg", encoded(source(number), exif=exif))
        put(tmp_path, f"fivek/expertC/a{number:04d}.jpg", encoded(target(number)))
    assert run(tmp_path / "fivek", tmp_path / "out", "--split_by", "day", "--val_ratio", "0.5") == 0
    found = {part: {days[int(key[1:])][:10] for key in keys(tmp_path / "out", part)} for part in ("train", "val")}
    assert found["train"] and found["val"] and found["train"].isdisjoint(found["val"])


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


def test_requirement_12_a_pair_that_crashes_its_worker_is_rejected_this_time(tmp_path, monkeypatch):
    folder = put_pairs(tmp_path / "fivek", range(1, 7))

    def crash(pair, config):
        if pair.key == "a0004":
            os._exit(11)
        return make_pair(pair, config)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "make_pair", crash)
        assert run(folder, tmp_path / "out", "--workers", "2", "--val_ratio", "0") == 3
    assert reason_of(tmp_path / "out", "a0004") == "worker crashed (exit code 11)"
    assert len(keys(tmp_path / "out", "train")) == 5
    assert run(folder, tmp_path / "out", "--val_ratio", "0") == 0, (
        "it may have been the machine: the next run tries again"
    )


def test_requirement_13_workers_follow_cpus_and_memory_with_one_thread_each(monkeypatch):
    monkeypatch.setattr(prepare, "usable_cpus", lambda: 64)
    for memory, wanted in ((10**11, 64), (4 * 10**9, 8), (10**8, 1)):
        monkeypatch.setattr(prepare, "usable_memory", lambda memory=memory: memory)
        assert prepare.default_workers() == wanted
    program = (
        "import os, runpy, sys\nsys.argv = ['prepare_fivek_robust.py', '--help']\n"
        "try:\n    runpy.run_path('prepare_fivek_robust.py', run_name='__main__')\nexcept SystemExit: pass\n"
        f"sys.stderr.write(' '.join(os.environ.get(name, '-') for name in {THREAD_LIMITS!r}))\n"
        "sys.stderr.write(' heavy' if {'torch', 'numpy', 'PIL', 'tqdm'} & sys.modules.keys() else ' light')"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stderr == "1 1 1 1 light"


def test_requirement_13_jpegs_are_decoded_small_only_when_both_are_jpeg(tmp_path, monkeypatch):
    scales = []
    real = pair.read_image

    def noting(*args, **options):
        scales.append(options["jpeg_scale"])
        return real(*args, **options)

    monkeypatch.setattr(pair, "read_image", noting)
    file_pairs = []
    for name, image in (("input.jpg", source(1, 640, 480)), ("target.jpg", target(1, 640, 480))):
        put(tmp_path, name, encoded(image))
        put(tmp_path, f"{name[:-4]}.png", encoded(image, "PNG"))
    for suffix in (".jpg", ".png"):
        found = [SourceFile(name, name[-4:], 1, 0) for name in ("input.jpg", f"target{suffix}")]
        file_pairs.append(FilePair("a0001", *found))
    outcomes = [
        make_pair(files, FivekConfig(fivek_dir=str(tmp_path), min_resolution=32, max_resolution=150))
        for files in file_pairs
    ]
    assert scales == [4, 4, 1, 1]
    sizes = [(outcome.facts["row"]["width"], outcome.facts["row"]["height"]) for outcome in outcomes]
    assert sizes == [(150, 113), (150, 113)] and outcomes[0].facts["input"]["size"] == [640, 480]


def test_requirement_14_space_is_checked_before_and_a_full_disk_can_be_continued(tmp_path, monkeypatch, capsys):
    folder = put_pairs(tmp_path / "fivek", range(1, 9))
    argv = ("--fivek_dir", folder, "--output_dir", tmp_path / "out", "--min_resolution", "32", "--workers", "1")
    with monkeypatch.context() as patch:
        patch.setattr(prepare.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
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
