"""A FiveK folder that is prepared again after something changed: requirements 8 to 12 and 15, each by its number.

The kills are in test_kills.
"""

import os
import shutil
from pathlib import Path

import pytest

from data import images
from data.fingerprint import fingerprint_pairs
from data.fivek import prepare
from data.fivek.config import FivekConfig
from data.fivek.find import SourceFile
from data.fivek.match import FilePair
from data.fivek.records import Recipe
from data.manifest import read_pairs
from tests.helpers.fivek_folder import (
    SMALL,
    encoded,
    keys,
    metadata,
    put,
    put_pairs,
    record,
    refused,
    rows,
    run,
    source,
    target,
    tree,
)
from tests.helpers.lock_holder import locked_by_another


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


def test_requirement_08_a_pair_keeps_its_part_whoever_else_is_there(copy):
    before = {part: keys(copy / "out", part) for part in ("train", "val")}
    assert len(before["val"]) in range(6, 19) and before["train"].isdisjoint(before["val"])
    put_pairs(copy / "fivek", range(41, 61))
    put(copy / "fivek", "input/a0002-photo 2.jpeg", b"")
    assert rerun(copy, "--max_reject", "1") == 0
    after = {part: keys(copy / "out", part) for part in ("train", "val")}
    for part in ("train", "val"):
        assert before[part] - {"a0002"} <= after[part]
    assert len(after["train"] | after["val"]) == 59 and after["train"].isdisjoint(after["val"])
    assert rerun(copy, "--max_reject", "1", "--seed", "7") == 0
    assert keys(copy / "out", "val") != after["val"]


def test_requirement_08_a_list_decides_when_it_is_given(copy, capsys):
    listing = put(copy, "val.txt", b"\xef\xbb\xbfa0003\r\na0005-photo 2.dng\n\na4999-elsewhere\n")
    assert rerun(copy, "--val_list", listing) == 0
    assert keys(copy / "out", "val") == {"a0003", "a0005"} and len(keys(copy / "out", "train")) == 38
    assert metadata(copy / "out")["config"]["val_list"] == "val.txt"
    assert f"error: --val_list {copy / 'no.txt'} does not exist" in refused(
        capsys, "--fivek_dir", copy / "fivek", "--output_dir", copy / "out", "--val_list", copy / "no.txt"
    )


def test_requirement_10_one_and_two_workers_make_the_same_bytes(copy, tmp_path):
    """The kills are in test_kills."""
    assert run(copy / "fivek", tmp_path / "alone", "--val_ratio", "0.3", "--workers", "1") == 0
    assert tree(tmp_path / "alone") == tree(copy / "out")
    assert str(tmp_path).encode() not in b"".join(content for content, _ in tree(copy / "out").values())


def test_requirement_11_other_options_or_sources_redo_their_pairs_and_no_other(copy, monkeypatch, capsys):
    made_keys = []
    real = prepare.store
    monkeypatch.setattr(prepare, "store", lambda *args: (made_keys.append(args[1].key), real(*args))[1])
    before = tree(copy / "out")
    assert rerun(copy) == 0 and made_keys == [] and tree(copy / "out") == before
    os.utime(copy / "fivek/input/a0004-photo 1.jpeg", (1e9, 1e9))
    put(copy / "fivek", "output_expert_C/a0005-photo 2.jpeg", encoded(target(5), quality=90))
    (copy / "out/images/a0006_tar.jpg").unlink()
    (copy / "out/meta/a0007.json").write_text("{")
    (copy / "out/meta/a0008.json").write_text("[" * 100_000)
    assert rerun(copy) == 0 and sorted(made_keys) == ["a0004", "a0005", "a0006", "a0007", "a0008"]
    made_keys.clear()
    capsys.readouterr()
    assert rerun(copy, "--jpeg_quality", "90") == 0 and len(made_keys) == 40
    assert "To make: 40, 40 of them again" in capsys.readouterr().out
    assert {record(copy / "out", f"a{number:04d}")["made_with"] for number in range(1, 41)} == {
        record(copy / "out", "a0001")["made_with"]
    }


@pytest.mark.parametrize(("suffix", "version_of"), [(".heic", "heif_version"), (".nef", "raw_version")])
def test_another_version_of_an_optional_decoder_redoes_the_pairs_that_it_read(monkeypatch, suffix, version_of):
    files = {ending: SourceFile(f"c/a0001{ending}", ending, 1, 1) for ending in (".jpg", suffix)}
    pairs = [FilePair("a0001", files[".jpg"], files[ending]) for ending in files]
    before = [Recipe(FivekConfig()).digest(pair) for pair in pairs]
    monkeypatch.setattr(images, version_of, lambda: "1000.0")
    plain, other = (Recipe(FivekConfig()).digest(pair) for pair in pairs)
    assert plain == before[0] and other != before[1]


def test_a_check_compares_the_options_needs_no_photos_and_writes_nothing(copy, capsys):
    shutil.rmtree(copy / "fivek")
    before = tree(copy / "out")
    assert rerun(copy, "--check", "--workers", "3") == 0
    argv = ("--fivek_dir", copy / "fivek", "--output_dir", copy / "out", "--check", "--val_ratio", "0.3", *SMALL)
    message = refused(capsys, *argv, "--expert", "A", "--jpeg_quality", "90")
    assert str(copy / "out") in message and "--output_dir" in message
    assert "expert: C before, A now" in message and "jpeg_quality: 95 before, 90 now" in message
    assert "val_ratio" not in message and tree(copy / "out") == before
    (copy / "out" / "dataset_metadata.json").unlink()
    assert "dataset_metadata.json" in refused(capsys, *argv)


def test_a_check_compares_what_the_options_mean_not_how_they_are_spelled(copy, tmp_path, capsys):
    listing, moved = copy / "val.txt", tmp_path / "elsewhere" / "list.txt"
    listing.write_text("a0001\na0007\n")
    assert rerun(copy, "--val_list", listing, "--prefer", "tif,dng") == 0
    moved.parent.mkdir()
    moved.write_text("a0001\na0007\n")
    assert rerun(copy, "--check", "--val_list", moved, "--prefer", ".TIF, dng") == 0
    moved.write_text("a0001\na0008\n")
    argv = ("--fivek_dir", copy / "fivek", "--output_dir", copy / "out", "--check", "--val_ratio", "0.3", *SMALL)
    message = refused(capsys, *argv, "--val_list", moved, "--prefer", "dng,tif")
    assert "val_list_sha256: " in message and "prefer: .tif,.dng before, .dng,.tif now" in message
    (copy / "out" / "dataset_metadata.json").write_text("[" * 100_000)
    assert "dataset_metadata.json" in refused(capsys, *argv)


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
    with locked_by_another(copy / "out"):
        message = refused(capsys, "--fivek_dir", copy / "fivek", "--output_dir", copy / "out")
        assert f"error: --output_dir {copy / 'out'} is in use by process" in message
    assert rerun(copy) == 0


def test_requirement_15_rows_are_what_training_reads_and_decodes_nothing_for(forty, monkeypatch):
    train = rows(forty / "out", "train")
    assert train == sorted(train, key=lambda row: row["src"])
    assert train[0]["src"].startswith("images/a") and train[0]["tar"] == train[0]["src"].replace("_src", "_tar")
    monkeypatch.setattr("data.fingerprint.decode_bytes", lambda *_: pytest.fail("decoded"))
    for part in ("train", "val"):
        pairs = read_pairs(forty / "out" / f"{part}.jsonl")
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
