"""A planted copy of a test photo is refused at each of the three gates: split, training, evaluation; whatever it is called."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import create_data_splits
import evaluate_darkir_test
import export_model
import train_darkir_cv
from common.files import write_jsonl
from tests.helpers.photos import darker, scene, write_pairs
from tests.helpers.report_page import Page
from tests.helpers.train_runs import ROWS_ALONE, SMALLEST
from tests.helpers.train_runs import train as train_folds


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Ten pairs as JPEG, split; and other pairs that belong to nobody."""
    folder = tmp_path_factory.mktemp("world")
    rows = []
    for seed in range(500, 510):
        rows.append({side: f"{seed}_{side}.jpg" for side in ("src", "tar")})
        for side, picture in (("src", darker(scene(seed))), ("tar", scene(seed))):
            Image.fromarray(picture).save(folder / rows[-1][side], quality=95)
    write_jsonl(folder / "pairs.jsonl", rows)
    assert split(folder / "pairs.jsonl", folder / "split") == 0
    write_pairs(folder / "other", 5, first_seed=530)
    return folder


def split(rows, output):
    argv = ["--input_jsonl", rows, "--test_size", 2, "--n_folds", 2, "--output_dir", output]
    return create_data_splits.main([str(word) for word in argv])


def train(output, *flags):
    return train_darkir_cv.main([str(word) for word in ["--output_dir", output, *SMALLEST, *flags]])


def evaluate(weights, rows, output):
    argv = ["--checkpoint", weights, "--test_jsonl", rows, "--output_dir", output, "--num_workers", 0]
    return evaluate_darkir_test.main([str(word) for word in argv])


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def renamed(path: Path, folder: Path, name: str) -> Path:
    return Path(shutil.copy(path, folder / f"holiday_{name}.jpeg"))


def saved_as_png(path: Path, folder: Path, name: str) -> Path:
    Image.open(path).save(folder / f"{name}.png", compress_level=9)
    return folder / f"{name}.png"


def linked(path: Path, folder: Path, name: str) -> Path:
    (folder / f"{name}_link.jpg").symlink_to(path)
    return folder / f"{name}_link.jpg"


def absolute(row: dict, folder: Path) -> dict:
    return {side: str(folder / row[side]) for side in ("src", "tar")}


COPIES = [renamed, saved_as_png, linked]


def planted(world, tmp_path, copy) -> tuple[dict, Path]:
    """A test row, and a JSONL of other photos with a copy of that row's photo in its last line."""
    test_row = rows_of(world / "split" / "test.jsonl")[0]
    row = {side: str(copy(world / test_row[side], tmp_path, side)) for side in ("src", "tar")}
    others = [absolute(row, world / "other") for row in rows_of(world / "other" / "pairs.jsonl")]
    write_jsonl(tmp_path / "planted.jsonl", [*others, row])
    return test_row, tmp_path / "planted.jsonl"


@pytest.mark.parametrize("copy", COPIES)
def test_the_split_refuses_a_photo_that_stands_there_twice(world, tmp_path, capsys, copy):
    test_row, _ = planted(world, tmp_path, copy)
    rows = [absolute(row, world) for row in rows_of(world / "pairs.jsonl")]
    twin = {side: str(copy(world / test_row[side], tmp_path, f"again_{side}")) for side in ("src", "tar")}
    write_jsonl(tmp_path / "pairs.jsonl", [*rows, twin])
    assert split(tmp_path / "pairs.jsonl", tmp_path / "split") == 2
    message = capsys.readouterr().err
    assert "pairs.jsonl:11" in message and twin["src"] in message and test_row["src"] in message
    assert not (tmp_path / "split").exists()


@pytest.mark.parametrize("copy", COPIES)
def test_training_refuses_a_copy_of_a_test_photo(world, tmp_path, capsys, copy):
    test_row, rows = planted(world, tmp_path, copy)
    flags = ["--test_jsonl", world / "split" / "test.jsonl", "--val_ratio", "0.3"]
    assert train(tmp_path / "run", "--train_jsonl", rows, *flags) == 2
    message = capsys.readouterr().err
    assert "planted.jsonl:6" in message and test_row["src"] in message and "test.jsonl:1" in message
    assert not list((tmp_path / "run").glob("*.pt"))


def test_training_refuses_a_copy_among_mixed_pairs_and_in_what_the_start_has_seen(world, tmp_path, capsys):
    test_row, rows = planted(world, tmp_path, saved_as_png)
    folds = ["--data_splits_dir", world / "split", "--n_folds", 2, "--fold", 1]
    assert train(tmp_path / "mixed", *folds, "--mix_jsonl", rows) == 2
    message = capsys.readouterr().err
    assert "planted.jsonl:6" in message and test_row["src"] in message
    assert train(tmp_path / "pretrained", "--train_jsonl", rows, "--val_ratio", "0.3") == 0
    capsys.readouterr()
    assert train(tmp_path / "run", *folds, "--pretrained_path", tmp_path / "pretrained" / "checkpoint_best.pt") == 2
    message = capsys.readouterr().err
    assert "the starting weights saw 1 of the 2 test photos" in message and test_row["src"] in message


@pytest.mark.parametrize("copy", [renamed, *(pytest.param(copy, marks=pytest.mark.long) for copy in COPIES[1:])])
def test_evaluation_refuses_weights_that_saw_a_copy_of_a_test_photo(world, tmp_path, capsys, copy):
    test_row, rows = planted(world, tmp_path, copy)
    assert train(tmp_path / "own", "--train_jsonl", rows, "--val_ratio", "0.3") == 0
    start = ["--pretrained_path", tmp_path / "own" / "checkpoint_best.pt"]
    again = ["--train_jsonl", world / "other" / "pairs.jsonl", "--allow_seen_validation"]  # the same photos held out
    assert train(tmp_path / "earlier", *again, *start) == 0
    for run in ("own", "earlier"):
        capsys.readouterr()
        weights = tmp_path / run / "checkpoint_best.pt"
        assert evaluate(weights, world / "split" / "test.jsonl", tmp_path / "results") == 2, run
        message = capsys.readouterr().err
        assert test_row["src"] in message and "test.jsonl:1" in message and "saw 1 of the 2 test photos" in message
    assert not (tmp_path / "results").exists()


def resaved(path: Path, folder: Path, name: str) -> Path:
    """Another picture by its bytes and pixels: mirrored, and saved at quality 96."""
    ImageOps.mirror(Image.open(path)).save(folder / f"{name}.jpg", quality=96)
    return folder / f"{name}.jpg"


@pytest.fixture(scope="module")
def saw_resaved(world, tmp_path_factory):
    """A run that learned from a resaved test photo, and the row of that photo."""
    folder = tmp_path_factory.mktemp("saw_resaved")
    test_row, rows = planted(world, folder, resaved)
    assert train(folder / "own", "--train_jsonl", rows, "--val_ratio", "0.3") == 0
    return folder / "own" / "checkpoint_best.pt", test_row


def test_weights_that_saw_a_resaved_test_photo_are_refused_unless_told_otherwise(world, saw_resaved, tmp_path, capsys):
    own, test_row = saw_resaved
    test = world / "split" / "test.jsonl"
    told = f"look like 1 of the 2 test photos: {test_row['src']} ("
    assert evaluate(own, test, tmp_path / "results") == 2
    message = capsys.readouterr().err
    assert told in message and "test.jsonl:1" in message and "--near_duplicates report" in message
    start = ["--train_jsonl", world / "other" / "pairs.jsonl", "--val_ratio", "0.3", "--pretrained_path", own]
    assert train(tmp_path / "run", *start, "--test_jsonl", test) == 2
    assert f"the starting weights saw photos that {told}" in capsys.readouterr().err
    # Validation photos are looked at in the same way.
    assert train(tmp_path / "run", *start[:2], "--val_jsonl", test, *start[4:]) == 2
    assert "saw 0 of the 2 validation photos, and photos that look like 1 more: " in capsys.readouterr().err
    results = look_alikes_reported(world, tmp_path, own)
    out = capsys.readouterr().out
    assert told in out and "contaminated: 1 of the 2 test photos look like" in out
    (found,) = results["near_duplicates"].pop("found")
    assert results["near_duplicates"] == {"mode": "report", "photos": [test_row["src"]]}
    assert (found["src"], found["model"]) == (test_row["src"], own.name) and "likeness" in found["how"]
    page = Page(tmp_path / "results" / "report.html")
    assert "Contaminated. 1 of the 2 test photos look like" in page.text and "Results (contaminated)" in page.text
    listed, among_all = page.cells(test_row["src"])
    assert listed == [test_row["src"], own.name, found["how"]] and among_all[0] == f"{test_row['src']} (look-alike)"


def look_alikes_reported(world, tmp_path, weights) -> dict:
    """Results where the split beside the test rows was made with --near_duplicates report, which decides."""
    shutil.copytree(world, tmp_path / "world")
    metadata = json.loads((tmp_path / "world" / "split" / "split_metadata.json").read_text())
    metadata["near_duplicates"]["mode"] = "report"
    (tmp_path / "world" / "split" / "split_metadata.json").write_text(json.dumps(metadata))
    assert evaluate(weights, tmp_path / "world" / "split" / "test.jsonl", tmp_path / "results") == 0
    return json.loads((tmp_path / "results" / "test_results.json").read_text())


@pytest.mark.long
def test_what_a_resaved_photo_taints_and_who_may_go_on(world, saw_resaved, tmp_path, capsys):
    own, test_row = saw_resaved
    test = world / "split" / "test.jsonl"
    other = ["--train_jsonl", world / "other" / "pairs.jsonl", "--val_ratio", "0.3", "--pretrained_path", own]
    assert train(tmp_path / "earlier", *other, "--allow_seen_validation") == 0
    capsys.readouterr()
    told = f"look like 1 of the 2 test photos: {test_row['src']} ("
    for weights in (own, tmp_path / "earlier" / "checkpoint_best.pt"):
        assert evaluate(weights, test, tmp_path / "results") == 2
        message = capsys.readouterr().err
        assert told in message and "test.jsonl:1" in message and "--near_duplicates report" in message
    assert train(tmp_path / "run", *other, "--test_jsonl", test) == 2
    assert f"the starting weights saw photos that {told}" in capsys.readouterr().err
    reported = ["--test_jsonl", test, "--near_duplicates", "report", "--allow_seen_validation", "--dry_run"]
    assert train(tmp_path / "run", *other, *reported) == 0
    assert told in capsys.readouterr().out
    # Validation photos are looked at in the same way.
    held_out = [*other[:2], "--val_jsonl", test, "--pretrained_path", own, "--dry_run"]
    assert train(tmp_path / "run", *held_out) == 2
    message = capsys.readouterr().err
    assert "saw 0 of the 2 validation photos, and photos that look like 1 more: " + test_row["src"] in message
    assert "--near_duplicates report" in message and "--allow_seen_validation" in message
    assert train(tmp_path / "run", *held_out, "--near_duplicates", "off") == 0
    assert "validation photos" not in capsys.readouterr().out
    for way_out in (["--near_duplicates", "report"], ["--allow_seen_validation"]):
        assert train(tmp_path / "run", *held_out, *way_out) == 0
        assert "score of this run is contaminated" in capsys.readouterr().out
    # What an earlier version trained carries digests alone.
    content = torch.load(own, weights_only=True)
    del content["data"]["looks"], content["data"]["sources_without_looks"]
    torch.save(content, tmp_path / "old.pt")
    assert evaluate(tmp_path / "old.pt", test, tmp_path / "old") == 0
    assert f"{tmp_path / 'old.pt'} carries digests only" in capsys.readouterr().out


def test_what_a_later_fine_tuning_holds_out_is_left_out_before_the_pre_training(world, tmp_path, capsys):
    """A copy of a test photo to train on, and to validate with a mirrored validation photo whose sides are exchanged: without them,
    the fine-tuning begins."""
    test_row, rows = planted(world, tmp_path, saved_as_png)
    held_out = rows_of(world / "split" / "fold_2" / "val.jsonl")[0]
    sides = {"src": "tar", "tar": "src"}
    mirrored = {side: str(resaved(world / held_out[sides[side]], tmp_path, f"mirrored_{side}")) for side in sides}
    write_pairs(tmp_path / "val", 2, first_seed=540)
    others = [absolute(row, tmp_path / "val") for row in rows_of(tmp_path / "val" / "pairs.jsonl")]
    write_jsonl(tmp_path / "val.jsonl", [*others, mirrored])
    flags = ["--train_jsonl", rows, "--exclude_splits_dir", world / "split"]
    assert train(tmp_path / "run", *flags) == 0
    out = capsys.readouterr().out
    assert "left out: 1 training, 1 validation rows" in out and f"{mirrored['src']} ({tmp_path / 'val.jsonl'}:3)" in out
    assert "5 training pairs, 2 validation pairs" in out and "nothing checks these rows" not in out
    listed = rows_of(tmp_path / "run" / "excluded.jsonl")
    assert [(row["part"], row["held_out"]) for row in listed] == [
        ("training", test_row["src"]),
        ("validation", held_out["src"]),
    ]
    assert listed[0]["how"] == "the same content" and "likeness" in listed[1]["how"]
    assert listed[1]["held_out_where"] == f"{world / 'split' / 'fold_2' / 'val.jsonl'}:1"
    folds = ["--data_splits_dir", world / "split", "--n_folds", 2, "--dry_run"]
    assert train(tmp_path / "folds", *folds, "--pretrained_path", tmp_path / "run" / "checkpoint_best.pt") == 0
    capsys.readouterr()
    for way_out in ("--near_duplicates report", "--allow_seen_validation"):
        assert train(tmp_path / "other", *flags, *way_out.split(), *ROWS_ALONE) == 2
        out = capsys.readouterr().out
        assert "left out: 1 training rows" in out, way_out
        assert (mirrored["src"] in out) is ("report" in way_out)
    assert not (tmp_path / "other").exists()
    write_jsonl(tmp_path / "planted.jsonl", rows_of(rows)[-1:])
    assert train(tmp_path / "other", *flags) == 2
    assert "all 1 training rows hold or look like photos" in capsys.readouterr().err
    assert train(tmp_path / "other", *flags[:2], "--exclude_splits_dir", world / "other") == 2
    assert f"--exclude_splits_dir {world / 'other'}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["test.jsonl", "fold_1/train.jsonl", "fold_2/val.jsonl"])
def test_training_notices_an_edited_fold_file(world, tmp_path, capsys, name):
    shutil.copytree(world, tmp_path / "world")
    path = tmp_path / "world" / "split" / name
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    other = tmp_path / "world" / "split" / ("fold_1/val.jsonl" if "train" in name else "fold_1/train.jsonl")
    path.write_text("".join([*lines, other.read_text(encoding="utf-8").splitlines(keepends=True)[0]]), encoding="utf-8")
    assert train(tmp_path / "run", "--data_splits_dir", tmp_path / "world" / "split", "--n_folds", 2) == 2
    message = capsys.readouterr().err
    assert str(path) in message and "was changed" in message
    assert not (tmp_path / "run").exists()


def test_lookalikes_on_two_sides_of_a_single_run_are_reported_with_both_names(world, tmp_path, capsys):
    test_row = rows_of(world / "split" / "test.jsonl")[0]
    near = {}
    for side in ("src", "tar"):
        with Image.open(world / test_row[side]) as image:
            brighter = np.clip(np.asarray(image).astype(int) + 3, 0, 255).astype(np.uint8)
        near[side] = str(tmp_path / f"near_{side}.png")
        Image.fromarray(brighter).save(near[side])
    others = [absolute(row, world / "other") for row in rows_of(world / "other" / "pairs.jsonl")]
    write_jsonl(tmp_path / "train.jsonl", [*others[:3], near])
    write_jsonl(tmp_path / "val.jsonl", others[3:])
    # Test rows as an earlier version wrote them, without tone prints.
    older = [{**row, **absolute(row, world)} for row in rows_of(world / "split" / "test.jsonl")]
    for row in older:
        del row["src_tone"], row["tar_tone"]
    write_jsonl(tmp_path / "test.jsonl", older)
    flags = ["--train_jsonl", tmp_path / "train.jsonl", "--test_jsonl", tmp_path / "test.jsonl", *ROWS_ALONE]
    assert train(tmp_path / "run", *flags) == 2
    out = capsys.readouterr().out
    assert f"{tmp_path / 'test.jsonl'}: 2 rows are of an earlier version" in out
    line = next(line for line in out.splitlines() if "looks the same as" in line)
    assert (
        near["src"] in line
        and "train.jsonl:4" in line
        and str(world / test_row["src"]) in line
        and "test.jsonl:1" in line
    )
    assert out.count("looks the same as") == 1


@pytest.mark.parametrize("copy", COPIES)
def test_training_refuses_a_copy_of_a_validation_photo(world, tmp_path, capsys, copy):
    photo, rows = planted(world, tmp_path, copy)
    flags = ["--val_jsonl", world / "split" / "test.jsonl"]
    assert train(tmp_path / "run", "--train_jsonl", rows, *flags) == 2
    message = capsys.readouterr().err
    assert "planted.jsonl:6" in message and f"validation photo {photo['src']} (" in message
    others = [absolute(row, world / "other") for row in rows_of(world / "other" / "pairs.jsonl")]
    write_jsonl(tmp_path / "others.jsonl", others)
    assert train(tmp_path / "run", "--train_jsonl", tmp_path / "others.jsonl", *flags, "--mix_jsonl", rows) == 2
    assert "planted.jsonl:6" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.pt"))


def test_weights_that_saw_validation_photos_are_refused_or_mark_every_score(finished_run, two_folds, tmp_path, capsys):
    """A fold's best weights as the start of a new cross-validation of the same split: they saw all photos outside the test."""
    flags = ["--pretrained_path", str(finished_run / "fold_1" / "checkpoint_best.pt")]
    assert train_folds(two_folds, tmp_path, *flags, epochs=1) == 2
    message = capsys.readouterr().err
    photo = rows_of(two_folds / "fold_1" / "val.jsonl")[0]["src"]
    assert "the starting weights saw 3 of the 3 validation photos: " + photo in message
    assert "--allow_seen_validation" in message and not list(tmp_path.rglob("*.pt"))
    assert train_folds(two_folds, tmp_path, *flags, "--allow_seen_validation", epochs=1) == 0
    out = capsys.readouterr().out
    assert out.count("finished: best PSNR") == out.count("contaminated: the starting weights saw") == 2
    assert "CONTAMINATED, out of fold, 7 photos" in out
    summary = json.loads((tmp_path / "cv_summary.json").read_text(encoding="utf-8"))
    assert summary["contaminated"] == [1, 2] and summary["oof"]["contaminated"] is True
    assert [fold["seen_validation"] for fold in summary["folds"]] == [{"exact": n, "alike": 0} for n in (3, 4)]
    page = Page(tmp_path / "report.html")
    assert "Contaminated." in page.text and "fold 2, 4 of its validation photos" in page.text
    assert "Out of fold (contaminated)" in page.text and page.cells("1")[0][-1] == "known, contaminated"
    export = ["--cv_dir", tmp_path, "--output", tmp_path / "m.safetensors", "--num_workers", 0, "--device", "cpu"]
    assert export_model.main([str(word) for word in export]) == 0
    assert "CONTAMINATED validation, each fold" in capsys.readouterr().out
    card = (tmp_path / "m.md").read_text(encoding="utf-8")
    assert "**Warning**: validation scores are contaminated (fold_1: the starting weights saw 3 of the 3" in card
    assert "| contaminated validation, " in card and "took no part in the updates" not in card
    # A run of an earlier version recorded nothing: its earlier photos are compared with its own.
    path = tmp_path / "fold_1" / "checkpoint_final.pt"
    content = torch.load(path, weights_only=True)
    for earlier, contaminated in ((content["data"]["earlier"], [1, 2]), ([], [2])):
        old = {name: part for name, part in content.items() if name != "seen_validation"}
        torch.save({**old, "data": {**content["data"], "earlier": earlier}}, path)
        assert train_folds(two_folds, tmp_path, *flags, "--fold", "1", epochs=1) == 0
        assert ("fold 1 was trained before it was recorded" in capsys.readouterr().out) is (1 in contaminated)
        summary = json.loads((tmp_path / "cv_summary.json").read_text(encoding="utf-8"))
        assert summary["contaminated"] == contaminated


def test_groups_on_two_sides_of_a_single_run_are_told(world, tmp_path, capsys):
    others = [absolute(row, world / "other") for row in rows_of(world / "other" / "pairs.jsonl")]
    house, street = ({**row, "group": name} for row, name in zip(others, ("house", "street"), strict=False))
    write_jsonl(tmp_path / "train.jsonl", [house, street, others[2]])
    write_jsonl(tmp_path / "val.jsonl", [{**others[3], "group": "house"}, others[4]])
    assert train(tmp_path / "run", "--train_jsonl", tmp_path / "train.jsonl", *ROWS_ALONE) == 2
    warning = [line for line in capsys.readouterr().out.splitlines() if "stand both in" in line]
    assert len(warning) == 1 and "1 groups stand both in training and in validation: house;" in warning[0]
