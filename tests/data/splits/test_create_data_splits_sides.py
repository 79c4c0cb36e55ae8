"""create_data_splits.py: what belongs together stays on one side, and whoever breaks that is found out."""

import json
import shutil

import pytest

from common.errors import InputError
from data.manifest import read_pairs
from data.splits import split as splits
from data.splits.files import verify_splits
from data.units import unit_names
from tests.helpers.image_files import write_rows
from tests.helpers.split_runs import add_near_duplicate, refused, rooms_argv, rows, run, sides


def test_groups_stay_on_one_side_in_every_fold(rooms):
    for seed in range(6):
        assert run(*rooms_argv(rooms, "--seed", seed)) == 0
        for fold in (1, 2, 3):
            parts = [
                rows(rooms / "s" / name)
                for name in ("test.jsonl", f"fold_{fold}/train.jsonl", f"fold_{fold}/val.jsonl")
            ]
            groups = [{row["group"] for row in part if "group" in row} for part in parts]
            assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
            assert sum(map(len, parts)) == 24


def test_units_that_cannot_be_tested_are_told_with_the_size_that_helps(rooms, capsys):
    assert run(*rooms_argv(rooms)) == 0
    assert "can never be test photos" not in capsys.readouterr().out
    assert run("--input_jsonl", rooms / "photos/pairs.jsonl", "--output_dir", rooms / "s", "--test_size", 3) == 0
    told = "12 of 24 pairs, in 3 units of 4, can never be test photos beside a test set of 3"
    line = next(line for line in capsys.readouterr().out.splitlines() if told in line)
    assert line.endswith("with --test_size 4 every unit can be")


def test_another_field_can_be_the_group(rooms, capsys):
    table = [{**row, "scene": number // 3} for number, row in enumerate(rows(rooms / "photos/pairs.jsonl"))]
    write_rows(rooms / "photos/pairs.jsonl", table)
    assert run(*rooms_argv(rooms, "--group_key", "scene", "--test_size", 6)) == 0
    assert len({row["scene"] for row in rows(rooms / "s" / "test.jsonl")}) == 2
    (first, *_) = pairs = read_pairs(rooms / "s" / "fold_1" / "val.jsonl")
    assert first.group == str(first.row["scene"]), "whoever reads the split's files groups by the same field"
    assert len(set(unit_names(pairs))) == len({pair.group for pair in pairs}) < len(pairs)
    for pair in pairs:
        del pair.row["unit"]  # a split of an older version
    assert len(set(unit_names(pairs))) == len({pair.group for pair in pairs})
    message = refused(capsys, *rooms_argv(rooms, "--group_key", "sceen"))
    assert "--group_key sceen" in message and "scene" in message
    renamed = [{"src": row["src"], "tar": row["tar"], "groupe": "x"} for row in table]
    write_rows(rooms / "photos/pairs.jsonl", renamed)
    assert run(*rooms_argv(rooms)) == 0
    assert "is 'groupe' meant?" in capsys.readouterr().out


def test_every_row_names_its_unit_and_the_metadata_count_them(rooms, capsys):
    """Groups of 4, a tar of two srcs, near-duplicates: each is one unit, and its name does not hang on the order of rows."""
    add_near_duplicate(rooms / "photos")
    shutil.copy(rooms / "photos/images/12_tar.png", rooms / "photos/images/13_tar.png")
    table = rows(rooms / "photos/pairs.jsonl")
    table[20]["unit"] = "my own"
    write_rows(rooms / "photos/pairs.jsonl", table)
    assert run(*rooms_argv(rooms)) == 0
    said, unit = capsys.readouterr().out, {}
    for name in ("test.jsonl", "fold_1/train.jsonl", "fold_1/val.jsonl"):
        unit |= {row["src"]: row["unit"] for row in rows(rooms / "s" / name)}
    assert {unit[f"images/{number}_src.png"] for number in range(8, 12)} == {"images/10_src.png"}
    assert unit["images/12_src.png"] == unit["images/13_src.png"] == "images/12_src.png"
    assert unit["images/90_src.jpg"] == unit["images/91_src.jpg"] == "images/90_src.jpg"
    assert unit["images/20_src.png"] == "images/20_src.png" and "1 rows of the input have a 'unit' of their own" in said
    metadata = verify_splits(rooms / "s")
    counts = [metadata["test"]["units"], metadata["folds"][0]["train_units"], metadata["folds"][0]["val_units"]]
    assert sum(counts) == metadata["groups"]["kept_together"] == len(set(unit.values())) == 26 - 9 - 1 - 1
    assert f"Test: 5 pairs in {counts[0]} units" in said
    write_rows(rooms / "photos/pairs.jsonl", table[::-1])
    assert run(*rooms_argv(rooms)) == 0
    assert {row["src"]: row["unit"] for row in rows(rooms / "s" / "test.jsonl")}.items() <= unit.items()


def test_few_test_units_are_told(rooms, capsys):
    for number, row in enumerate(table := rows(rooms / "photos/pairs.jsonl")):
        row["group"] = number // 6
    write_rows(rooms / "photos/pairs.jsonl", table)
    assert run(*rooms_argv(rooms)) == 0
    said = capsys.readouterr().out
    assert (
        "Test: 6 pairs in 1 units" in said and "an interval of a test score needs 5 independent units or more" in said
    )


def test_one_tar_with_several_srcs_stays_on_one_side(rooms):
    for number in range(13, 18):
        shutil.copy(rooms / "photos/images/12_tar.png", rooms / f"photos/images/{number}_tar.png")
    views = [f"images/{number}_src.png" for number in range(12, 18)]
    for seed in range(5):
        assert run(*rooms_argv(rooms, "--seed", seed)) == 0
        assert all(len(set(sides(rooms / "s", fold, *views))) == 1 for fold in (1, 2, 3))


def test_near_duplicates_are_named_and_kept_together_unless_told_otherwise(rooms, capsys):
    add_near_duplicate(rooms / "photos")
    both = ("images/90_src.jpg", "images/91_src.jpg")
    parted = False
    for mode in ("group", "report", "off"):
        for seed in range(8):
            assert run(*rooms_argv(rooms, "--near_duplicates", mode, "--seed", seed)) == 0
            out = capsys.readouterr().out
            assert ((both[0] in out) and (both[1] in out)) == (mode != "off")
            found = json.loads((rooms / "s" / "split_metadata.json").read_text())["near_duplicates"]
            assert found["mode"] == mode and [set(hit["src"]) for hit in found["pairs"]] == [set(both)] * (
                mode != "off"
            )
            together = all(len(set(sides(rooms / "s", fold, *both))) == 1 for fold in (1, 2, 3))
            assert together or mode != "group"
            parted = parted or not together
    assert parted, "without grouping some seed parts them: otherwise this test shows nothing"


@pytest.mark.parametrize("fault", ["swap", "lose", "group", "near", "unit"])
def test_the_proof_refuses_a_split_that_leaks(rooms, capsys, monkeypatch, fault):
    """The proof must not trust what drew the split: here the drawing is broken on purpose."""
    add_near_duplicate(rooms / "photos")
    real = splits.make_split

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
        if fault == "unit":
            split.components[:] = [sorted(row for rows in split.components for row in rows)]
        return split

    monkeypatch.setattr(splits, "make_split", broken)
    messages = []
    for seed in range(8):
        capsys.readouterr()
        if run(*rooms_argv(rooms, "--seed", seed)) == 2:
            messages.append(capsys.readouterr().err)
            assert not (rooms / "s" / "split_metadata.json").exists()
    words = {"swap": "is in test and in train", "lose": "every pair", "group": "group room 0", "near": "look the same"}
    word = {**words, "unit": "unit images/0_src.png of"}[fault]
    assert messages and all("failed their check" in message and word in message for message in messages)


@pytest.mark.parametrize("name", ["test.jsonl", "fold_1/train.jsonl", "fold_3/val.jsonl"])
@pytest.mark.parametrize("edit", ["drop", "path", "gone"])
def test_an_edited_split_file_is_noticed(rooms, name, edit):
    assert run(*rooms_argv(rooms)) == 0
    path = rooms / "s" / name
    lines = path.read_bytes().splitlines(keepends=True)
    if edit == "drop":
        path.write_bytes(b"".join(lines[1:]))
    elif edit == "path":
        path.write_bytes(b"".join([lines[0].replace(b"_src.png", b"_tar.png"), *lines[1:]]))
    else:
        path.unlink()
    with pytest.raises(InputError, match=name):
        verify_splits(rooms / "s")
    assert run(*rooms_argv(rooms)) == 0, "a rerun repairs it"
    assert verify_splits(rooms / "s")["verified"]


def test_edited_or_missing_metadata_is_noticed_and_repaired(rooms, capsys):
    with pytest.raises(InputError, match="create_data_splits"):
        verify_splits(rooms / "s")
    assert run(*rooms_argv(rooms)) == 0
    path = rooms / "s" / "split_metadata.json"
    whole = json.loads(path.read_text())
    for change in ({"verified": False}, {"schema_version": 0}, {"test": {"count": 5, "digest": "0"}}, {"folds": [{}]}):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(InputError):
            verify_splits(rooms / "s")
    path.write_text("{")
    capsys.readouterr()
    assert run(*rooms_argv(rooms)) == 0
    assert "made anew" in capsys.readouterr().out
    assert json.loads(path.read_text()) == whole
