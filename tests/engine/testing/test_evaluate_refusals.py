"""evaluate_darkir_test.py: a model that saw a test photo, and every other mistake, ends with exit 2 and a reason."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate_darkir_test
from common.files import write_jsonl
from data.fingerprint import fingerprint_pairs
from data.manifest import read_pairs
from engine import checkpoint
from engine.provenance import Seen, digests
from tests.helpers.evaluate_runs import (
    argv,
    noisy_network,
    refused,
    results_of,
    run,
    save_fold,
    save_png,
    save_weights,
)
from tests.helpers.exits import refusal


@pytest.mark.parametrize("when", ["own", "earlier"])
@pytest.mark.parametrize("kind", ["src_sha256", "tar_file_sha256"])
def test_a_model_that_saw_a_test_photo_is_refused(own_folds, capsys, when, kind):
    pairs = fingerprint_pairs(read_pairs(own_folds / "test.jsonl"))
    seen = Seen(**{when: frozenset({"something else", pairs[3].row[kind]})})
    save_fold(own_folds / "cv", 2, noisy_network(2), seen=seen)
    message = refused(capsys, own_folds, own_folds / "out")
    assert "fold_2" in message and "a/dark_src.png" in message and "test.jsonl:4" in message


def test_stale_digests_in_the_rows_do_not_hide_a_leak(own_folds, capsys):
    pairs = fingerprint_pairs(read_pairs(own_folds / "test.jsonl"))
    save_fold(own_folds / "cv", 1, noisy_network(1), seen=Seen(own=digests(pairs[:1])))
    rows = [pair.row for pair in pairs]
    for name in ("src_sha256", "tar_sha256", "src_file_sha256", "tar_file_sha256"):
        rows[0][name] = "0" * 64
    write_jsonl(own_folds / "test.jsonl", rows)
    for name in ("src", "tar"):
        os.utime(own_folds / rows[0][name], ns=(1, 1))
    message = refused(capsys, own_folds, own_folds / "out")
    assert "fold_1" in message and rows[0]["src"] in message and "test.jsonl:1" in message


def test_unknown_provenance_is_said_everywhere(three_folds, tmp_path, capsys):
    torch.save({"params": noisy_network(1).state_dict()}, tmp_path / "published.pt")
    assert run(three_folds, tmp_path / "out", models=["--checkpoint", tmp_path / "published.pt"]) == 0
    log = capsys.readouterr().out
    assert "provenance unknown" in log and "record no resolution: using --resolution 384" in log
    (model,) = results_of(tmp_path / "out")["models"]
    assert model["provenance"] == "unknown"
    assert "Provenance unknown" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def break_manifest(world):
    with (world / "test.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"src": \n{"src": "a/gone.png", "tar": "a/1_tar.png"}\n')


def break_image(world):
    (world / "a" / "dark_src.png").write_bytes(b"not an image")


def tiny_photo(world):
    for name in ("a/dark_src.png", "a/dark_tar.png"):
        save_png(world / name, np.zeros((10, 48, 3)))


def tear_fold(world):
    path = world / "cv" / "fold_1" / checkpoint.BEST
    path.write_bytes(path.read_bytes()[:5000])


def single_run(world):
    shutil.move(world / "cv" / "fold_1" / checkpoint.BEST, world / "cv" / checkpoint.BEST)
    for fold in (1, 2, 3):
        shutil.rmtree(world / "cv" / f"fold_{fold}")


MISTAKES = {
    "test set missing": (
        lambda w: (w / "test.jsonl").unlink(),
        [],
        ["error: --test_jsonl ", "test.jsonl does not exist"],
    ),
    "rows broken": (break_manifest, [], ["error: --test_jsonl ", "test.jsonl:6", "test.jsonl:7"]),
    "image unreadable": (break_image, [], ["test.jsonl:4", "dark_src.png"]),
    "photo too small": (tiny_photo, [], ["test.jsonl:4", "a side needs 11 pixels"]),
    "base_dir wrong": (lambda w: None, ["--base_dir", "nowhere"], ["--base_dir", "nowhere"]),
    "no folds": (lambda w: shutil.rmtree(w / "cv"), [], ["--cv_dir", "missing"]),
    "fold missing": (lambda w: shutil.rmtree(w / "cv" / "fold_2"), [], ["error: --cv_dir ", "fold_2 is missing"]),
    "fold unfinished": (lambda w: (w / "cv/fold_3" / checkpoint.FINAL).unlink(), [], ["fold_3", "unfinished"]),
    "best gone": (lambda w: (w / "cv/fold_3" / checkpoint.BEST).unlink(), [], ["fold_3", checkpoint.BEST]),
    "checkpoint torn": (tear_fold, [], ["error: --cv_dir ", f"fold_1/{checkpoint.BEST}: torn"]),
    "single run as folds": (single_run, [], ["--checkpoint", checkpoint.BEST]),
    "n_folds too large": (lambda w: None, ["--n_folds", 4], ["fold_4", "missing"]),
    "n_folds too small": (lambda w: None, ["--n_folds", 2], ["--n_folds 2", "fold_3"]),
    "model_size wrong": (lambda w: None, ["--model_size", "l"], ["--model_size l", "fold_1", "width 8"]),
    "model_size unknown": (lambda w: None, ["--model_size", "xl"], ["--model_size"]),
    "resolution wrong": (lambda w: None, ["--resolution", 8], ["--resolution 8"]),
    "batch_size wrong": (lambda w: None, ["--batch_size", 0], ["--batch_size 0"]),
    "device wrong": (lambda w: None, ["--device", "cuda:99"], ["--device cuda:99"]),
    "abbreviated flag": (lambda w: None, ["--save_vis"], ["--save_vis"]),
    "both sources": (lambda w: None, ["--checkpoint", "x.pt"], ["--checkpoint", "--cv_dir"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_exit_2_and_say_what_is_wrong(own_folds, capsys, mistake):
    damage, flags, words = MISTAKES[mistake]
    damage(own_folds)
    message = refused(capsys, own_folds, own_folds / "out", *flags)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], ["--cv_dir", "--checkpoint"]),
        (["--checkpoint", "good.pt", "gone.pt"], ["error: --checkpoint gone.pt: no such file"]),
        (["--checkpoint", "notes.txt"], ["error: --checkpoint notes.txt: not a checkpoint"]),
        (["--checkpoint", "other.pt"], ["other.pt"]),
        (["--checkpoint", "good.pt", "good.pt"], ["good.pt", "more than once"]),
        (["--checkpoint", "good.pt", "--n_folds", "3"], ["--n_folds 3", "names 1 models"]),
    ],
)
def test_wrong_checkpoints_end_with_exit_2(three_folds, tmp_path, monkeypatch, capsys, models, words):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("hello, this is no checkpoint")
    torch.save({"params": {"weight": torch.zeros(3)}}, "other.pt")
    save_weights(Path("good.pt"), noisy_network(1))
    message = refused(capsys, three_folds, tmp_path / "out", models=models)
    assert [word for word in words if word not in message] == []


def test_missing_folds_are_found_through_the_summary(own_folds, capsys):
    summary = {"folds": [{"fold": fold, "status": "finished"} for fold in (1, 2, 3, 4)]}
    (own_folds / "cv" / "cv_summary.json").write_text(json.dumps(summary))
    assert "fold_4 is missing" in refused(capsys, own_folds, own_folds / "out")
    message = refused(capsys, own_folds, own_folds / "out", "--n_folds", 3)
    assert "--n_folds 3" in message and "lists 4 folds" in message
    for broken in ("{", "[" * 100_000):
        (own_folds / "cv" / "cv_summary.json").write_text(broken)
        assert str(own_folds / "cv" / "cv_summary.json") in refused(capsys, own_folds, own_folds / "out")


def test_folders_beyond_the_summary_are_named_and_are_no_part_of_the_ensemble(own_folds, capsys):
    summary = own_folds / "cv" / "cv_summary.json"
    summary.write_text(json.dumps({"folds": [{"fold": 1, "status": "finished"}, {"fold": 2, "status": "finished"}]}))
    (own_folds / "cv" / "fold_4").mkdir()
    assert run(own_folds, own_folds / "out") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "⚠️" in line and "fold_3" in line)
    assert "fold_4" in line and str(summary) in line
    results = json.loads((own_folds / "out" / "test_results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["fold_1", "fold_2"]
    summary.write_text('{"folds": []}')
    assert str(summary) in refused(capsys, own_folds, own_folds / "other")


@pytest.mark.parametrize("name", ["train.log", "cv_summary.json"])
def test_the_folder_of_a_training_keeps_its_own_files(three_folds, tmp_path, capsys, name):
    (tmp_path / name).write_text("{}")
    (tmp_path / "report.html").write_text("the training's")
    message = refusal(capsys, evaluate_darkir_test.main, *argv(three_folds, tmp_path))
    assert f"--output_dir {tmp_path} holds a training" in message
    assert (tmp_path / "report.html").read_text() == "the training's" and len([*tmp_path.iterdir()]) == 2


def test_output_dir_that_is_a_file_is_refused(three_folds, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        run(three_folds, tmp_path / "out")
    assert stopped.value.code == 2
    assert "--output_dir" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"
