"""What the options of train_darkir_cv.py do to a run: patience, precision, accumulated batches, loss terms."""

import json

import pytest

from tests.helpers.small_vgg import write_small_random_vgg
from tests.helpers.train_runs import train


def test_patience_ends_a_run_that_no_longer_gains(two_folds, tmp_path, capsys):
    # A rate this small leaves float32 weights as they are, so no epoch after the first can be better.
    assert train(two_folds, tmp_path, "--lr", "1e-30", "--early_stopping_patience", "2", "--fold", "1", epochs=9) == 0
    out = capsys.readouterr().out
    assert "⏹️  Early stopping triggered!\n   Best PSNR: " in out and "at epoch 1\n   No improvement for 2 epochs" in out
    assert len(json.loads((tmp_path / "fold_1" / "history.json").read_text())) == 3
    summary = json.loads((tmp_path / "cv_summary.json").read_text())
    assert summary["folds"][0]["stopped_early"] is True and summary["folds"][0]["epochs_run"] == 3


def test_patience_zero_never_ends_a_run(two_folds, tmp_path):
    assert train(two_folds, tmp_path, "--lr", "1e-30", "--early_stopping_patience", "0", "--fold", "1", epochs=4) == 0
    assert len(json.loads((tmp_path / "fold_1" / "history.json").read_text())) == 4


def test_training_learns(two_folds, tmp_path):
    assert train(two_folds, tmp_path, "--lr", "3e-3", "--ema_decay", "0.5", "--fold", "1", epochs=15) == 0
    history = json.loads((tmp_path / "fold_1" / "history.json").read_text())
    assert history[-1]["val_psnr"] > history[0]["val_psnr"] + 3


@pytest.mark.parametrize("amp_dtype", ["bf16", "fp16"])
def test_mixed_precision_stays_close_to_float32(finished_run, two_folds, tmp_path, amp_dtype, capsys):
    flags = ["--mixed_precision", "--amp_dtype", amp_dtype, "--fold", "1", "--save_every", "1"]
    assert train(two_folds, tmp_path, *flags) == 0
    assert "mixed, " in capsys.readouterr().out
    ours, theirs = (json.loads((run / "fold_1" / "history.json").read_text()) for run in (tmp_path, finished_run))
    assert ours[-1]["val_psnr"] == pytest.approx(theirs[-1]["val_psnr"], abs=0.1)


def test_accumulated_batches_make_the_update_of_one_large_batch(two_folds, tmp_path):
    runs = {"whole": ["--batch_size", "4"], "parts": ["--batch_size", "2", "--accumulate_steps", "2"]}
    for name, flags in runs.items():
        assert train(two_folds, tmp_path / name, "--fold", "1", *flags, epochs=1) == 0
    whole, parts = (json.loads((tmp_path / name / "fold_1" / "history.json").read_text())[0] for name in runs)
    for key in ("train_loss", "val_psnr", "grad_norm"):
        assert parts[key] == pytest.approx(whole[key], rel=1e-4)


def test_all_terms_train_with_named_weights(two_folds, tmp_path):
    weights = write_small_random_vgg(tmp_path / "small_random_vgg19.pth")
    flags = ["--lambda_vgg", "0.1", "--vgg_weights", str(weights), "--resolution", "128"]
    flags += ["--lambda_edge", "50", "--lambda_freq", "0.01", "--lambda_side", "0.1", "--fold", "1"]
    assert train(two_folds, tmp_path / "run", *flags, epochs=1) == 0
    terms = json.loads((tmp_path / "run" / "fold_1" / "history.json").read_text())[0]["train_terms"]
    assert terms.keys() == {"l1", "vgg", "ssim", "edge", "freq", "side"} and min(terms.values()) > 0


def test_vgg_weights_that_cannot_be_had_end_the_run_at_the_start(two_folds, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no_hub_here"))
    assert train(two_folds, tmp_path / "run", "--lambda_vgg", "0.1") == 2
    assert "--lambda_vgg 0" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("fold_1/*.pt"))
