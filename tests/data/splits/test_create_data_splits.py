"""create_data_splits.py as a user runs it: files, log, reruns, flags, the script itself."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import create_data_splits
from common.options import add_options, make_parser
from data import fingerprint
from data.config import AuditConfig, SplitConfig
from data.fingerprint import set_digest
from data.manifest import read_pairs
from data.splits.files import verify_splits
from tests.helpers.image_files import make_pairs
from tests.helpers.split_runs import refused, rooms_argv, rows, run

SCRIPT = Path(create_data_splits.__file__)
FLAGS = [
    "--input_jsonl",
    "--input_dir",
    "--base_dir",
    "--test_size",
    "--n_folds",
    "--scheme",
    "--val_ratio",
    "--group_key",
    "--near_duplicates",
    "--drop",
    "--seed",
    "--output_dir",
    "--audit",
    "--oof",
]


def split_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.json*"))}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """464 pairs of 16 x 12 pixels, without groups."""
    folder = tmp_path_factory.mktemp("photos")
    make_pairs(folder, 464)
    return folder


@pytest.fixture(scope="module")
def splits(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits")
    assert run("--input_jsonl", photos / "pairs.jsonl", "--output_dir", folder) == 0
    return folder


def test_464_pairs_split_as_the_design_says(splits):
    counts = {name: len(rows(splits / name)) for name in split_files(splits) if name.endswith(".jsonl")}
    assert counts == {
        "test.jsonl": 10,
        "fold_1/train.jsonl": 303,
        "fold_1/val.jsonl": 151,
        "fold_2/train.jsonl": 303,
        "fold_2/val.jsonl": 151,
        "fold_3/train.jsonl": 302,
        "fold_3/val.jsonl": 152,
    }


def test_metadata_holds_every_named_key_and_agrees_with_the_files(splits, photos):
    metadata = json.loads((splits / "split_metadata.json").read_text())
    named = {"schema_version", "created_with", "seed", "scheme", "n_folds", "val_ratio", "base_dir", "total_pairs"}
    named |= {"test", "folds", "groups", "near_duplicates", "decoder", "verified"}
    assert named <= set(metadata) and set(metadata["created_with"]) == {"argv", "versions"}
    assert (metadata["seed"], metadata["scheme"], metadata["n_folds"], metadata["total_pairs"]) == (42, "kfold", 3, 464)
    assert metadata["verified"] is True and metadata["test"]["count"] == 10
    assert metadata["test"]["digest"] == set_digest(rows(splits / "test.jsonl"))
    assert [(fold["fold"], fold["train"], fold["val"]) for fold in metadata["folds"]] == [
        (1, 303, 151),
        (2, 303, 151),
        (3, 302, 152),
    ]
    for fold in metadata["folds"]:
        for part in ("train", "val"):
            assert fold[f"{part}_digest"] == set_digest(rows(splits / f"fold_{fold['fold']}" / f"{part}.jsonl"))
    assert not Path(metadata["base_dir"]).is_absolute()
    assert (splits / metadata["base_dir"]).resolve() == photos.resolve()
    assert verify_splits(splits) == metadata


def test_rows_keep_what_was_written_and_resolve_from_the_split_folder(splits, photos):
    pair = read_pairs(splits / "fold_2" / "val.jsonl")[0]
    assert pair.src.startswith("images/") and pair.src_path == photos.resolve() / pair.src
    assert pair.row["src_bytes"] == pair.src_path.stat().st_size


def test_dataset_and_splits_can_move_together(tmp_path):
    make_pairs(tmp_path / "here" / "photos", 12)
    argv = (
        "--input_jsonl",
        tmp_path / "here/photos/pairs.jsonl",
        "--output_dir",
        tmp_path / "here/splits",
        "--test_size",
        2,
    )
    assert run(*argv) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    assert read_pairs(tmp_path / "there/splits/fold_1/train.jsonl")[0].src_path.is_file()
    assert verify_splits(tmp_path / "there/splits")["total_pairs"] == 12


def test_a_rerun_decodes_nothing_and_writes_the_same_bytes(splits, photos, monkeypatch):
    before = split_files(splits)
    monkeypatch.setattr(fingerprint, "decode_bytes", lambda *_: pytest.fail("decoded again"))
    assert run("--input_jsonl", photos / "pairs.jsonl", "--output_dir", splits) == 0
    assert split_files(splits) == before


def test_the_order_of_rows_changes_no_set(splits, photos, tmp_path):
    lines = (photos / "pairs.jsonl").read_text().splitlines()
    (photos / "reversed.jsonl").write_text("\n".join(lines[::-1]))
    shutil.copytree(splits, tmp_path / "s")
    assert run("--input_jsonl", photos / "reversed.jsonl", "--output_dir", tmp_path / "s") == 0
    first, second = (json.loads((folder / "split_metadata.json").read_text()) for folder in (splits, tmp_path / "s"))
    assert first["folds"] == second["folds"] and first["test"] == second["test"]


def test_other_options_remake_the_folder_and_say_so(rooms, capsys):
    assert run(*rooms_argv(rooms, "--n_folds", 4)) == 0
    (rooms / "s" / "fold_4" / "notes.txt").write_text("mine")
    (rooms / "s" / "fold_extra").mkdir()
    capsys.readouterr()
    assert run(*rooms_argv(rooms, "--n_folds", 2, "--seed", 1)) == 0
    out = capsys.readouterr().out
    assert "n_folds 4 -> 2" in out and "seed 42 -> 1" in out
    assert not (rooms / "s" / "fold_3").exists() and not (rooms / "s" / "fold_4" / "train.jsonl").exists()
    assert (rooms / "s" / "fold_4" / "notes.txt").exists() and (rooms / "s" / "fold_extra").exists()
    assert verify_splits(rooms / "s")["n_folds"] == 2


def test_the_log_gives_sizes_groups_and_unused_options(rooms, capsys):
    assert run(*rooms_argv(rooms, "--val_ratio", 0.2)) == 0
    out = capsys.readouterr().out
    for part in (
        "Pairs: 24",
        "12 rows have 'group', with 3 values",
        "--val_ratio is not used",
        "Test: 5 pairs",
        "Fold 3: ",
    ):
        assert part in out
    assert "Reading images" not in capsys.readouterr().err, "bars are for terminals"


def test_shuffle_and_single_folds(rooms):
    assert run(*rooms_argv(rooms, "--scheme", "shuffle", "--val_ratio", 0.25)) == 0
    assert [len(rows(rooms / "s" / f"fold_{fold}" / "val.jsonl")) for fold in (1, 2, 3)] == [5, 5, 5]
    assert run(*rooms_argv(rooms, "--n_folds", 1, "--val_ratio", 0.25)) == 0
    assert len(rows(rooms / "s" / "fold_1" / "val.jsonl")) == 5 and not (rooms / "s" / "fold_2").exists()


def test_a_folder_of_images_needs_no_jsonl(rooms, capsys):
    argv = ("--input_dir", rooms / "photos/images", "--output_dir", rooms / "s", "--test_size", 5)
    assert run(*argv) == 0
    assert rows(rooms / "s" / "test.jsonl")[0]["src"].endswith("_src.png")
    assert read_pairs(rooms / "s" / "test.jsonl")[0].src_path.is_file()
    (rooms / "photos/images/3_tar.png").unlink()
    assert "3_src.png: no _tar image" in refused(capsys, *argv)


def test_the_flag_list_is_the_design_s():
    parser = make_parser("")
    add_options(parser, SplitConfig, "splits")
    add_options(parser, AuditConfig, "audit")
    given = [option for action in parser._actions for option in action.option_strings if option not in ("-h", "--help")]
    assert given == FLAGS
    defaults = vars(parser.parse_args([]))
    expected = [10, 3, "kfold", 0.1, "group", "group", None, 42, "data_splits", False, None]
    assert [defaults[name[2:]] for name in FLAGS[3:]] == expected


def test_as_a_process_from_another_folder_with_a_bare_terminal(rooms):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    (rooms / "photos").rename(rooms / "Fot\u00f3s")
    argv = [sys.executable, SCRIPT, "--input_jsonl", "Fot\u00f3s/pairs.jsonl", "--test_size", "5"]
    result = subprocess.run(argv, cwd=rooms, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Test: 5 pairs" in result.stdout and result.stderr == ""
    assert verify_splits(rooms / "data_splits")["base_dir"] == "../Fot\u00f3s"
    bad = subprocess.run(
        [*argv, "--test_size", "99"], cwd=rooms, env=environment, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2 and bad.stderr.startswith("error: --test_size 99") and len(bad.stderr.splitlines()) == 1


def test_a_signal_during_start_up_is_not_lost(rooms):
    argv = [sys.executable, SCRIPT, *map(str, rooms_argv(rooms))]
    code = (
        "import os, runpy, signal, sys; from common import signals; real = signals.install\n"
        "signals.install = lambda: (real(), os.kill(os.getpid(), signal.SIGTERM))\n"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    result = subprocess.run(
        [argv[0], "-c", code, *map(str, argv[1:])], cwd=SCRIPT.parent, capture_output=True, check=False
    )
    assert result.returncode == 75 and signal.SIGTERM.name.encode() in result.stderr


def test_the_script_is_executable_light_and_tells_old_pythons():
    source = SCRIPT.read_text(encoding="utf-8")
    assert source.startswith("#!/usr/bin/env python3\n") and os.access(SCRIPT, os.X_OK)
    ast.parse(source, feature_version=(3, 5))
    code = "import sys; sys.version_info = (3, 9); sys.version = '3.9.1 x'; import create_data_splits"
    old = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=False)
    assert old.returncode == 2 and old.stderr == "error: Python 3.10 or newer is needed; this is 3.9.1\n"
    code = (
        "import sys, create_data_splits; sys.exit(bool({'torch', 'numpy', 'PIL', 'jinja2', 'tqdm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, check=False).returncode == 0


def test_a_split_made_again_alike_is_left_untouched_and_foreign_files_stay(rooms, capsys):
    """Jobs may be reading it. A folder fold_9 of somebody else is none of ours, whatever it holds."""
    out = rooms / "s"
    foreign = out / "fold_9" / "train.jsonl"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("theirs")
    assert run(*rooms_argv(rooms)) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}
    capsys.readouterr()
    assert run(*rooms_argv(rooms)) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")} == before
    assert "Unchanged" in (said := capsys.readouterr().out) and "Wrote" not in said
    assert run(*rooms_argv(rooms, "--n_folds", "2")) == 0
    assert not (out / "fold_3").exists() and foreign.read_text() == "theirs"
