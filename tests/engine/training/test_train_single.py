"""train_darkir_cv.py --train_jsonl: one model without folds, its held-out pairs, and the weights that it starts from."""

import json
import shutil

import torch

from common.files import write_jsonl
from darkir.checkpoint_file import read_checkpoint
from tests.helpers.photos import write_pairs
from tests.helpers.train_runs import ROWS_ALONE, train_single


def test_a_single_run_holds_out_validation_pairs_and_writes_at_the_top(tmp_path, capsys):
    write_pairs(tmp_path, 6, first_seed=50)
    assert train_single(tmp_path, tmp_path / "run", "--val_ratio", "0.3") == 0
    assert "2 held out" in capsys.readouterr().out
    assert {"checkpoint_best.pt", "history.json", "train.log"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_what_a_field_keeps_together_is_held_out_as_one(tmp_path, capsys):
    """Three properties of three photos: none stands on both sides, by --group_key or by the units of an earlier split."""
    rows = [json.loads(line) for line in open(write_pairs(tmp_path, 9, first_seed=120))]
    flags = ["--val_ratio", "0.2", *ROWS_ALONE]
    for field, more in (("property", ["--group_key", "property"]), ("unit", [])):
        write_jsonl(tmp_path / "pairs.jsonl", [{**row, field: f"no. {number % 3}"} for number, row in enumerate(rows)])
        assert train_single(tmp_path, tmp_path / "run", *flags, *more) == 2
        assert "3 held out" in capsys.readouterr().out, field
    assert train_single(tmp_path, tmp_path / "run", *flags, "--group_key", "property") == 2
    assert "--group_key property: no row has that field" in capsys.readouterr().err
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    assert train_single(tmp_path, tmp_path / "run", *flags) == 2
    assert "2 held out" in capsys.readouterr().out, "otherwise this test shows nothing"


def test_a_single_run_takes_val_jsonl_beside_its_rows(tmp_path, capsys):
    write_pairs(tmp_path, 6, first_seed=60)
    rows = [json.loads(line) for line in open(tmp_path / "pairs.jsonl")]
    write_jsonl(tmp_path / "pairs.jsonl", rows[:4])
    write_jsonl(tmp_path / "val.jsonl", rows[4:])
    assert train_single(tmp_path, tmp_path / "run") == 0
    assert "4 training pairs, 2 validation pairs" in capsys.readouterr().out


def test_a_renamed_copy_of_a_test_photo_is_refused(two_folds, tmp_path, capsys):
    write_pairs(tmp_path, 5, first_seed=70)
    test_row = json.loads((two_folds / "test.jsonl").read_text().splitlines()[0])
    for side in ("src", "tar"):
        shutil.copy(two_folds.parent / test_row[side], tmp_path / "images" / f"holiday_{side}.png")
    rows = [json.loads(line) for line in open(tmp_path / "pairs.jsonl")]
    write_jsonl(tmp_path / "pairs.jsonl", [*rows, {side: f"images/holiday_{side}.png" for side in ("src", "tar")}])
    assert train_single(tmp_path, tmp_path / "run", "--test_jsonl", str(two_folds / "test.jsonl")) == 2
    errors = capsys.readouterr().err
    assert "images/holiday_src.png" in errors and test_row["src"] in errors and "pairs.jsonl:6" in errors


def test_weights_that_saw_a_test_photo_are_refused_as_a_start(finished_run, two_folds, tmp_path, capsys):
    seen_row = json.loads((two_folds / "fold_1" / "train.jsonl").read_text().splitlines()[0])
    write_jsonl(tmp_path / "test.jsonl", [{side: str(two_folds.parent / seen_row[side]) for side in ("src", "tar")}])
    write_pairs(tmp_path, 4, first_seed=80)
    flags = ["--test_jsonl", str(tmp_path / "test.jsonl")]
    start = ["--pretrained_path", str(finished_run / "fold_1" / "checkpoint_best.pt")]
    assert train_single(tmp_path, tmp_path / "run", *flags, *start) == 2
    assert "starting weights saw 1 of the 1 test photos" in capsys.readouterr().err
    assert train_single(tmp_path, tmp_path / "run", *flags) == 0


def test_published_weights_start_a_run_with_unknown_provenance(finished_run, tmp_path, capsys):
    write_pairs(tmp_path, 4, first_seed=90)
    params = read_checkpoint(finished_run / "fold_1" / "checkpoint_best.pt")["params"]
    torch.save({"params": params}, tmp_path / "published.pt")
    assert train_single(tmp_path, tmp_path / "run", "--pretrained_path", str(tmp_path / "published.pt")) == 0
    out = capsys.readouterr().out
    assert "343 of 343 tensors" in out and "provenance unknown" in out
    assert read_checkpoint(tmp_path / "run" / "checkpoint_best.pt")["data"]["known"] is False


def test_weights_of_another_size_are_refused_by_name(finished_run, tmp_path, capsys):
    write_pairs(tmp_path, 4, first_seed=100)
    start = ["--pretrained_path", str(finished_run / "fold_1" / "checkpoint_best.pt"), "--model_size", "m"]
    assert train_single(tmp_path, tmp_path / "run", *start) == 2
    errors = capsys.readouterr().err
    assert "width 8" in errors and "width 32" in errors


def test_starting_weights_that_give_no_finite_loss_fail_the_self_test(finished_run, tmp_path, capsys):
    write_pairs(tmp_path, 4, first_seed=110)
    params = read_checkpoint(finished_run / "fold_1" / "checkpoint_best.pt")["params"]
    params["ending.bias"] = params["ending.bias"] + 3e38
    torch.save({"params": params}, tmp_path / "huge.pt")
    assert train_single(tmp_path, tmp_path / "run", "--pretrained_path", str(tmp_path / "huge.pt")) == 1
    errors = capsys.readouterr().err
    assert "self-test: loss term" in errors and "images/11" in errors and "Traceback" not in errors
    assert not list((tmp_path / "run").glob("*.pt"))


def test_a_single_run_guards_the_test_photos_of_a_split_beside_it(two_folds, tmp_path, monkeypatch, capsys):
    """In the current folder, beside its rows, or around them; and without the photos, which may have moved."""
    rows = [json.loads(line) for line in open(two_folds.parent / "pairs.jsonl")]
    rows = [{side: str(two_folds.parent / row[side]) for side in ("src", "tar")} for row in rows]
    for name in ("here", "rows"):
        (tmp_path / name).mkdir()
    write_jsonl(tmp_path / "rows" / "pairs.jsonl", rows)
    monkeypatch.chdir(tmp_path / "here")
    for place in ("here", "rows"):
        shutil.copytree(two_folds, tmp_path / place / "data_splits")
        assert train_single(tmp_path / "rows", tmp_path / "run") == 2
        captured = capsys.readouterr()
        assert "test photo" in captured.err and "data_splits/test.jsonl:1" in captured.err
        assert "the 2 test photos of" in captured.out and not list((tmp_path / "run").rglob("*.pt"))
        shutil.rmtree(tmp_path / place / "data_splits")
    shutil.copy(two_folds / "fold_1" / "train.jsonl", two_folds / "fold_1" / "pairs.jsonl")
    try:
        assert (
            train_single(two_folds / "fold_1", tmp_path / "run", "--batch_size", "9999") == 2
        )  # more than it has, told at once
    finally:
        (two_folds / "fold_1" / "pairs.jsonl").unlink()
    assert f"the 2 test photos of {two_folds / 'test.jsonl'} are guarded" in capsys.readouterr().out
