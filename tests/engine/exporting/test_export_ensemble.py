"""export_model.py --choose ensemble: one file of all folds' networks, which the other scripts take as they take the folds."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import enhance_photos
import evaluate_darkir_test
import export_model
import train_darkir_cv
from darkir import load_network
from tests.helpers.evaluate_runs import results_of
from tests.helpers.exits import refusal
from tests.helpers.export_runs import argv_of, change, contents_of, export, metadata_of
from tests.helpers.photos import scene
from tests.helpers.train_runs import SMALLEST


@pytest.fixture(scope="module")
def ensemble(finished_run, two_folds, tmp_path_factory):
    """The file, with its card beside it."""
    folder = tmp_path_factory.mktemp("ensemble")
    assert export(finished_run, two_folds, folder / "all.safetensors", "--choose", "ensemble") == 0
    return folder / "all.safetensors"


def run(script, *words):
    return script.main([str(word) for word in words])


def test_one_file_scores_and_enhances_as_the_folds_do(ensemble, finished_run, two_folds, tmp_path):
    models = {"file": ["--checkpoint", ensemble], "folds": ["--cv_dir", finished_run]}
    Image.fromarray(scene(1, 60, 44)).save(tmp_path / "photo.png")
    for name, flags in models.items():
        words = ["--test_jsonl", two_folds / "test.jsonl", "--num_workers", 0, "--device", "cpu", "--n_folds", 2]
        assert run(evaluate_darkir_test, *flags, *words, "--output_dir", tmp_path / name) == 0
        words = ["--input", tmp_path / "photo.png", "--output", tmp_path / f"{name}_photos", "--device", "cpu"]
        assert run(enhance_photos, *flags, *words) == 0
    file, folds = (results_of(tmp_path / name) for name in models)
    assert file["ensemble"] == folds["ensemble"] and file["folds"] == folds["folds"]
    assert file["settings"]["resolution"] == 16 and file["models"][0]["validation"] == {}
    ours, theirs = (np.array(Image.open(tmp_path / f"{name}_photos" / "photo.png")) for name in models)
    assert (ours == theirs).all()
    scores = json.loads(metadata_of(ensemble)["scores"])
    assert scores["validation"] is None and scores["test"] == scores["test_of_all"]["ensemble"]
    for metric, summary in scores["test"].items():
        assert summary["mean"] == pytest.approx(folds["ensemble"][metric]["mean"], abs=1e-5), metric


def test_in_python_it_is_one_network_and_its_card_says_what_it_is(ensemble, finished_run):
    photo, networks = torch.rand(1, 3, 21, 30), ("fold_1", "fold_2")
    with torch.inference_mode():
        each = [load_network(finished_run / fold / "checkpoint_best.pt")(photo).clamp(0, 1) for fold in networks]
        assert torch.allclose(load_network(ensemble)(photo), sum(each) / 2, rtol=0, atol=1e-6)
    card = ensemble.with_suffix(".md").read_text(encoding="utf-8")
    assert card.startswith("# Ensemble of 2 x DarkIR-tiny (width 8): all.safetensors\n")
    assert "The ensemble has no validation score" in card and "which this file is not" not in card
    assert 'network = load_network("all.safetensors")' in card and card.count("| ensemble |") == 1
    assert metadata_of(ensemble)["networks"] == '["fold_1", "fold_2"]'


def test_it_has_seen_what_any_fold_has_and_is_no_start_and_no_part(ensemble, own_run, two_folds, tmp_path, capsys):
    rows = ["--test_jsonl", two_folds / "fold_1" / "val.jsonl", "--output_dir", tmp_path / "out", "--num_workers", 0]
    assert run(evaluate_darkir_test, "--checkpoint", ensemble, *rows) == 2
    assert f"{ensemble} saw 3 of the 3 test photos" in capsys.readouterr().err
    fold = own_run / "fold_1" / "checkpoint_best.pt"
    assert run(evaluate_darkir_test, "--checkpoint", ensemble, fold, *rows) == 2
    assert f"{ensemble} is an ensemble of 2 networks" in capsys.readouterr().err
    assert run(evaluate_darkir_test, "--checkpoint", ensemble, *rows, "--n_folds", 3) == 2
    assert "--n_folds 3, but --checkpoint names 2 models" in capsys.readouterr().err
    start = [
        "--data_splits_dir",
        two_folds,
        "--n_folds",
        2,
        "--output_dir",
        tmp_path / "new",
        "--pretrained_path",
        ensemble,
    ]
    assert run(train_darkir_cv, *SMALLEST, *start) == 2
    assert f"{ensemble}: an ensemble of 2 networks (fold_1, fold_2), and one is needed" in capsys.readouterr().err
    content = bytearray(ensemble.read_bytes())
    content[-1] ^= 1
    (tmp_path / "torn.safetensors").write_bytes(content)
    assert run(evaluate_darkir_test, "--checkpoint", tmp_path / "torn.safetensors", *rows) == 2
    assert "the tensors changed since the export" in capsys.readouterr().err
    for path in (own_run / "fold_1", own_run / "fold_2"):
        change(path / "checkpoint_best.pt", split=None)
    output = tmp_path / "none.safetensors"
    message = refusal(capsys, export_model.main, *argv_of(own_run, None, output, "--choose", "ensemble"))
    assert "--choose ensemble: no validation score" in message and not output.exists()


def test_an_ensemble_that_is_worse_than_a_fold_says_so(own_run, two_folds, tmp_path, capsys):
    content = contents_of(own_run)["fold_1"]
    content["params"]["ending.bias"] -= 1.0
    change(own_run / "fold_1" / "checkpoint_best.pt", params=content["params"])
    assert export(own_run, two_folds, tmp_path / "m.safetensors", "--choose", "ensemble") == 0
    assert "⚠️  the ensemble scores" in (out := capsys.readouterr().out) and "; export fold_2 instead" in out
