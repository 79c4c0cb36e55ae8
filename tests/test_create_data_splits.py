"""create_data_splits.py as a user runs it: files, exit codes, messages, reruns."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import create_data_splits
from darkir.options import add_options, make_parser
from data import fingerprint, stop
from data.errors import DataError
from data.fingerprint import set_digest
from data.manifest import read_pairs
from data.split_files import verify_splits
from data.splits import SplitConfig
from tests.image_files import make_pairs, noise, save, write_rows

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
    "--seed",
    "--output_dir",
]


def run(*argv) -> int:
    return create_data_splits.main([str(argument) for argument in argv])


def split_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.json*"))}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refused(capsys, *argv) -> str:
    """stderr of a run that must end with exit code 2, in a message without traceback."""
    capsys.readouterr()
    try:
        code = run(*argv)
    except SystemExit as exit_:
        code = exit_.code
    message = capsys.readouterr().err
    assert code == 2 and message and "Traceback" not in message
    return message


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


@pytest.fixture
def small(tmp_path):
    """24 pairs: three groups of 4, the rest free."""
    groups = {number: f"room {number // 4}" for number in range(12)}
    make_pairs(tmp_path / "photos", 24, groups)
    return tmp_path


def small_argv(small, *more) -> tuple:
    return ("--input_jsonl", small / "photos/pairs.jsonl", "--output_dir", small / "s", "--test_size", 5, *more)


def test_groups_stay_on_one_side_in_every_fold(small):
    for seed in range(6):
        assert run(*small_argv(small, "--seed", seed)) == 0
        for fold in (1, 2, 3):
            parts = [
                rows(small / "s" / name)
                for name in ("test.jsonl", f"fold_{fold}/train.jsonl", f"fold_{fold}/val.jsonl")
            ]
            groups = [{row["group"] for row in part if "group" in row} for part in parts]
            assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
            assert sum(map(len, parts)) == 24


def test_other_options_remake_the_folder_and_say_so(small, capsys):
    assert run(*small_argv(small, "--n_folds", 4)) == 0
    (small / "s" / "fold_4" / "notes.txt").write_text("mine")
    (small / "s" / "fold_extra").mkdir()
    capsys.readouterr()
    assert run(*small_argv(small, "--n_folds", 2, "--seed", 1)) == 0
    out = capsys.readouterr().out
    assert "n_folds 4 -> 2" in out and "seed 42 -> 1" in out
    assert not (small / "s" / "fold_3").exists() and not (small / "s" / "fold_4" / "train.jsonl").exists()
    assert (small / "s" / "fold_4" / "notes.txt").exists() and (small / "s" / "fold_extra").exists()
    assert verify_splits(small / "s")["n_folds"] == 2


def test_the_log_gives_sizes_groups_and_unused_options(small, capsys):
    assert run(*small_argv(small, "--val_ratio", 0.2)) == 0
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


def test_shuffle_and_single_folds(small):
    assert run(*small_argv(small, "--scheme", "shuffle", "--val_ratio", 0.25)) == 0
    assert [len(rows(small / "s" / f"fold_{fold}" / "val.jsonl")) for fold in (1, 2, 3)] == [5, 5, 5]
    assert run(*small_argv(small, "--n_folds", 1, "--val_ratio", 0.25)) == 0
    assert len(rows(small / "s" / "fold_1" / "val.jsonl")) == 5 and not (small / "s" / "fold_2").exists()


def add_near_duplicate(photos: Path) -> None:
    """Two more pairs: photo-like ones, the second a recompressed copy of the first."""
    names = []
    for number, quality in ((90, 95), (91, 60)):
        names.append({side: f"images/{number}_{side}.jpg" for side in ("src", "tar")})
        for seed, side in enumerate(("src", "tar")):
            image = np.asarray(Image.fromarray(noise(seed + 900, 8, 6)).resize((64, 48), Image.Resampling.BICUBIC))
            save(image, photos / names[-1][side], quality=quality)
    write_rows(photos / "pairs.jsonl", rows(photos / "pairs.jsonl") + names)


def sides(folder: Path, fold: int, *srcs: str) -> list[str]:
    names = {"test": "test.jsonl", "train": f"fold_{fold}/train.jsonl", "val": f"fold_{fold}/val.jsonl"}
    side = {row["src"]: part for part, name in names.items() for row in rows(folder / name)}
    return [side[src] for src in srcs]


def test_near_duplicates_are_named_and_kept_together_unless_told_otherwise(small, capsys):
    add_near_duplicate(small / "photos")
    both = ("images/90_src.jpg", "images/91_src.jpg")
    parted = False
    for mode in ("group", "report", "off"):
        for seed in range(8):
            assert run(*small_argv(small, "--near_duplicates", mode, "--seed", seed)) == 0
            out = capsys.readouterr().out
            assert ((both[0] in out) and (both[1] in out)) == (mode != "off")
            found = json.loads((small / "s" / "split_metadata.json").read_text())["near_duplicates"]
            assert found["mode"] == mode and [set(hit["src"]) for hit in found["pairs"]] == [set(both)] * (
                mode != "off"
            )
            together = all(len(set(sides(small / "s", fold, *both))) == 1 for fold in (1, 2, 3))
            assert together or mode != "group"
            parted = parted or not together
    assert parted, "without grouping some seed parts them: otherwise this test shows nothing"


def test_one_tar_with_several_srcs_stays_on_one_side(small):
    table = rows(small / "photos/pairs.jsonl")
    for number in range(13, 18):
        shutil.copy(small / "photos/images/12_tar.png", small / f"photos/images/{number}_tar.png")
    write_rows(small / "photos/pairs.jsonl", table)
    for seed in range(5):
        assert run(*small_argv(small, "--seed", seed)) == 0
        assert all(
            len(set(sides(small / "s", fold, *(f"images/{n}_src.png" for n in range(12, 18))))) == 1
            for fold in (1, 2, 3)
        )


def test_a_folder_of_images_needs_no_jsonl(small, capsys):
    argv = ("--input_dir", small / "photos/images", "--output_dir", small / "s", "--test_size", 5)
    assert run(*argv) == 0
    assert rows(small / "s" / "test.jsonl")[0]["src"].endswith("_src.png")
    assert read_pairs(small / "s" / "test.jsonl")[0].src_path.is_file()
    (small / "photos/images/3_tar.png").unlink()
    assert "3_src.png: no _tar image" in refused(capsys, *argv)


def test_another_field_can_be_the_group(small, capsys):
    table = [{**row, "scene": number // 3} for number, row in enumerate(rows(small / "photos/pairs.jsonl"))]
    write_rows(small / "photos/pairs.jsonl", table)
    assert run(*small_argv(small, "--group_key", "scene", "--test_size", 6)) == 0
    assert len({row["scene"] for row in rows(small / "s" / "test.jsonl")}) == 2
    message = refused(capsys, *small_argv(small, "--group_key", "sceen"))
    assert "--group_key sceen" in message and "scene" in message
    renamed = [{"src": row["src"], "tar": row["tar"], "groupe": "x"} for row in table]
    write_rows(small / "photos/pairs.jsonl", renamed)
    assert run(*small_argv(small)) == 0
    assert "is 'groupe' meant?" in capsys.readouterr().out


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
def test_wrong_input_ends_with_2_names_file_and_line_and_writes_nothing(small, capsys, damage):
    reason = damage(small / "photos")
    message = refused(capsys, *small_argv(small))
    assert reason in message and str(small / "photos" / "pairs.jsonl") in message
    assert not (small / "s").exists()


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
def test_wrong_flags_end_with_2_and_are_named(small, capsys, more, reason):
    assert reason in refused(capsys, *small_argv(small, *more))
    assert not (small / "s").exists()


def test_an_output_folder_that_is_a_file_or_in_use(small, capsys):
    (small / "s").write_text("x")
    assert "--output_dir" in refused(capsys, *small_argv(small))
    (small / "s").unlink()
    holder = (
        "import sys, time; from data.files import FolderLock\n"
        "with FolderLock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(small / "s")], cwd=SCRIPT.parent, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        assert "is in use by process" in refused(capsys, *small_argv(small))
        process.kill()
    assert run(*small_argv(small)) == 0, "a dead holder's lock is taken over"


@pytest.mark.parametrize("name", ["test.jsonl", "fold_1/train.jsonl", "fold_3/val.jsonl"])
@pytest.mark.parametrize("edit", ["drop", "path", "gone"])
def test_an_edited_split_file_is_noticed(small, name, edit):
    assert run(*small_argv(small)) == 0
    path = small / "s" / name
    lines = path.read_bytes().splitlines(keepends=True)
    if edit == "drop":
        path.write_bytes(b"".join(lines[1:]))
    elif edit == "path":
        path.write_bytes(b"".join([lines[0].replace(b"_src.png", b"_tar.png"), *lines[1:]]))
    else:
        path.unlink()
    with pytest.raises(DataError, match=name):
        verify_splits(small / "s")
    assert run(*small_argv(small)) == 0, "a rerun repairs it"
    assert verify_splits(small / "s")["verified"]


def test_edited_or_missing_metadata_is_noticed_and_repaired(small, capsys):
    with pytest.raises(DataError, match="create_data_splits"):
        verify_splits(small / "s")
    assert run(*small_argv(small)) == 0
    path = small / "s" / "split_metadata.json"
    whole = json.loads(path.read_text())
    for change in ({"verified": False}, {"schema_version": 0}, {"test": {"count": 5, "digest": "0"}}, {"folds": [{}]}):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(DataError):
            verify_splits(small / "s")
    path.write_text("{")
    capsys.readouterr()
    assert run(*small_argv(small)) == 0
    assert "made anew" in capsys.readouterr().out
    assert json.loads(path.read_text()) == whole


@pytest.mark.parametrize("fault", ["swap", "lose", "group", "near"])
def test_the_proof_refuses_a_split_that_leaks(small, capsys, monkeypatch, fault):
    """The proof must not trust what drew the split: here the drawing is broken on purpose."""
    add_near_duplicate(small / "photos")
    real = create_data_splits.make_split

    def broken(pairs, near, config):
        if fault == "group":
            pairs = [
                pair if number else type(pair)(**{**vars(pair), "group": None}) for number, pair in enumerate(pairs)
            ]
        split = real(pairs, [] if fault == "near" else near, config)
        if fault == "swap":
            split.folds[0].train[0] = split.test[0]
        if fault == "lose":
            del split.folds[1].train[0]
        return split

    monkeypatch.setattr(create_data_splits, "make_split", broken)
    messages = []
    for seed in range(8):
        capsys.readouterr()
        if run(*small_argv(small, "--seed", seed)) == 2:
            messages.append(capsys.readouterr().err)
            assert not (small / "s" / "split_metadata.json").exists()
    word = {"swap": "is in test and in train", "lose": "every pair", "group": "group room 0", "near": "look the same"}[
        fault
    ]
    assert messages and all("failed their check" in message and word in message for message in messages)


def test_a_stop_leaves_nothing_half_written(small, monkeypatch, capsys):
    monkeypatch.setattr(stop, "_received", ["SIGTERM"])
    assert run(*small_argv(small)) == 75
    assert not (small / "s").exists() and "run the same command again" in capsys.readouterr().err


def test_the_flag_list_is_the_design_s():
    parser = make_parser("")
    add_options(parser, SplitConfig, "splits")
    given = [option for action in parser._actions for option in action.option_strings if option not in ("-h", "--help")]
    assert given == FLAGS
    defaults = vars(parser.parse_args([]))
    assert [defaults[name[2:]] for name in FLAGS[3:]] == [10, 3, "kfold", 0.1, "group", "group", 42, "data_splits"]


def test_as_a_process_from_another_folder_with_a_bare_terminal(small):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    (small / "photos").rename(small / "Fot\u00f3s")
    argv = [sys.executable, SCRIPT, "--input_jsonl", "Fot\u00f3s/pairs.jsonl", "--test_size", "5"]
    result = subprocess.run(argv, cwd=small, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Test: 5 pairs" in result.stdout and result.stderr == ""
    assert verify_splits(small / "data_splits")["base_dir"] == "../Fot\u00f3s"
    bad = subprocess.run(
        [*argv, "--test_size", "99"], cwd=small, env=environment, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2 and bad.stderr.startswith("error: --test_size 99") and len(bad.stderr.splitlines()) == 1


def test_names_that_are_not_utf8_are_told(small, capsys):
    odd = os.fsdecode(b"caf\xe9")
    try:
        (small / odd).mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    shutil.copytree(small / "photos", small / odd / "photos")
    message = refused(
        capsys, "--input_jsonl", small / odd / "photos/pairs.jsonl", "--output_dir", small / "s", "--test_size", 5
    )
    assert "is not UTF-8" in message and not (small / "s" / "test.jsonl").exists()
    assert (
        run("--input_jsonl", small / odd / "photos/pairs.jsonl", "--output_dir", small / odd / "s", "--test_size", 5)
        == 0
    )
    (small / "photos/images/0_src.png").rename(small / "photos/images" / f"{odd}_src.png")
    assert "the name is not UTF-8" in refused(capsys, "--input_dir", small / "photos", "--output_dir", small / "s")


def test_a_signal_during_start_up_is_not_lost(small):
    argv = [sys.executable, SCRIPT, *map(str, small_argv(small))]
    code = (
        "import os, runpy, signal, sys; from data import stop; real = stop.install\n"
        "stop.install = lambda: (real(), os.kill(os.getpid(), signal.SIGTERM))\n"
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
    code = "import sys, create_data_splits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, check=False).returncode == 0
