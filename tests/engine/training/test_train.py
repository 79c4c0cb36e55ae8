"""train_darkir_cv.py as a user runs it: what a run writes, what it refuses, its flags."""

import csv
import json
import re
import shutil

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_darkir_cv
from darkir import load_network
from darkir.checkpoint_file import read_checkpoint
from tests.helpers.exits import refusal
from tests.helpers.train_runs import SMALL, assert_same_results, train

EPOCH_LINE = re.compile(
    r"^Epoch +\d+/\d+: Train Loss=\d\.\d{4}, Val Loss=\d\.\d{4}, Val PSNR=\d+\.\d\ddB, Val SSIM=-?\d\.\d{4}, "
    r"LR=\d\.\d\de[-+]\d\d( 🏆 BEST)?$"
)


def test_a_run_writes_everything_that_it_promises(finished_run):
    for fold in ("fold_1", "fold_2"):
        names = {path.name for path in (finished_run / fold).iterdir()}
        expected = {"checkpoint_best.pt", "checkpoint_final.pt", "checkpoint_last.pt", "checkpoint_last.prev.pt"}
        expected |= {
            "checkpoint_epoch_1.pt",
            "checkpoint_epoch_2.pt",
            "history.json",
            "curves.png",
            "tensorboard",
            "pictures",
        }
        assert expected <= names
        assert not [name for name in names if ".darkir-tmp." in name]
    assert (finished_run / "report.html").read_text().lower().startswith("<!doctype html>")
    log = (finished_run / "train.log").read_text().splitlines()
    assert len([line for line in log if EPOCH_LINE.match(line)]) == 4


def test_history_has_one_complete_record_an_epoch(finished_run):
    history = json.loads((finished_run / "fold_1" / "history.json").read_text())
    numbers = {"train_loss", "val_loss", "val_psnr", "val_ssim", "lr", "grad_norm", "seconds", "images_per_second"}
    assert [record["epoch"] for record in history] == [1, 2]
    for record in history:
        assert record.keys() == numbers | {
            "epoch",
            "train_terms",
            "is_best",
            "skipped_steps",
            "execution",
            "tf32",
            "precision",
            "flags",
        }
        assert all(isinstance(record[name], float) for name in numbers)
        assert record["train_terms"].keys() == {"l1", "ssim"}
        assert record["train_loss"] == pytest.approx(sum(record["train_terms"].values()))
        assert record["flags"] == [] and record["skipped_steps"] == 0
        assert record["execution"] == "eager" and record["tf32"] is False
        assert record["precision"] == "float32"


def test_the_rate_ends_at_one_percent(finished_run):
    history = json.loads((finished_run / "fold_1" / "history.json").read_text())
    assert history[-1]["lr"] == pytest.approx(1e-6)


def test_every_photo_outside_the_test_set_is_scored_once_out_of_fold(finished_run, two_folds):
    with open(finished_run / "oof_predictions.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    val = [json.loads(line)["src"] for fold in (1, 2) for line in open(two_folds / f"fold_{fold}" / "val.jsonl")]
    assert sorted(row["src"] for row in rows) == sorted(val) and len(rows) == 7
    summary = json.loads((finished_run / "cv_summary.json").read_text())
    assert [(summary[side]["n"], summary[side]["units"]) for side in ("oof", "identity")] == [(7, 7), (7, 7)]
    assert "95 % interval over 7 independent units (of 7 photos)" in (finished_run / "train.log").read_text()
    for name in ("psnr", "ssim", "l1"):
        assert summary["oof"][name]["mean"] == pytest.approx(sum(float(row[name]) for row in rows) / 7)
        assert summary["identity"][name]["mean"] == pytest.approx(
            sum(float(row[f"identity_{name}"]) for row in rows) / 7
        )
        low, high = summary["oof"][name]["ci95"]
        assert low <= summary["oof"][name]["mean"] <= high
    assert [fold["status"] for fold in summary["folds"]] == ["finished", "finished"]
    best = [fold["best_psnr"] for fold in summary["folds"]]
    assert summary["best_psnr"]["mean"] == pytest.approx(sum(best) / 2)


def test_best_is_the_epoch_with_the_highest_psnr_and_deploys_as_published(finished_run):
    history = json.loads((finished_run / "fold_1" / "history.json").read_text())
    content = read_checkpoint(finished_run / "fold_1" / "checkpoint_best.pt")
    best = max(history, key=lambda record: record["val_psnr"])
    assert content["epoch"] == best["epoch"]
    assert content["metrics"] == {"psnr": best["val_psnr"], "ssim": best["val_ssim"], "l1": best["val_loss"]}
    final = read_checkpoint(finished_run / "fold_1" / "checkpoint_final.pt")
    last = history[-1]
    assert final["metrics"] == {"psnr": last["val_psnr"], "ssim": last["val_ssim"], "l1": last["val_loss"]}
    network = load_network(finished_run / "fold_1" / "checkpoint_best.pt")
    assert network.config.width == 8 and not network.training


TRACKED = (
    "val_psnr",
    "val_ssim",
    "val_loss",
    "train_loss",
    "lr",
    "grad_norm",
    "skipped_steps",
    "seconds",
    "images_per_second",
)


def test_tensorboard_holds_scalars_and_the_same_pictures(finished_run):
    events = EventAccumulator(str(finished_run / "fold_1" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    names = {tag.partition("/")[2] for tag in events.Tags()["scalars"]}
    record = json.loads((finished_run / "fold_1" / "history.json").read_text())[-1]
    assert names == {*TRACKED, *record["train_terms"]} and set(TRACKED) <= set(record)
    assert min(events.Tags()["scalars"]) == "1_validation/val_loss"  # sections are sorted by name
    assert [event.step for event in events.Scalars("1_validation/val_psnr")] == [1, 2]
    assert len(events.Tags()["images"]) == 3  # all validation photos of a fold of 3


def test_one_fold_alone_names_the_missing_one(finished_records, two_folds, tmp_path, capsys):
    assert train(two_folds, tmp_path, "--save_every", "1", "--fold", "2") == 0
    assert "still missing from the summary: 1" in capsys.readouterr().out
    summary = json.loads((tmp_path / "cv_summary.json").read_text())
    assert [fold["status"] for fold in summary["folds"]] == ["missing", "finished"]
    assert train(two_folds, tmp_path, "--save_every", "1", "--fold", "1") == 0
    assert_same_results(finished_records, tmp_path)


# The flags, and what the message names.
USER_MISTAKES = {
    "no rows": ([], ["--data_splits_dir", "--train_jsonl", "looked for data_splits/split_metadata.json"]),
    "both kinds of rows": (["--data_splits_dir", "x", "--train_jsonl", "y"], ["--data_splits_dir", "--train_jsonl"]),
    "missing split": (["--data_splits_dir", "no_such_folder"], ["no_such_folder", "create_data_splits.py"]),
    "missing jsonl": (["--train_jsonl", "no_such.jsonl"], ["no_such.jsonl does not exist"]),
    "a split's own group": (["--data_splits_dir", "x", "--group_key", "property"], ["--group_key", "--train_jsonl"]),
    "folds kept from a split": (
        ["--data_splits_dir", "x", "--exclude_splits_dir", "x"],
        ["--exclude_splits_dir", "--train_jsonl"],
    ),
    "fold zero": (["--data_splits_dir", "x", "--fold", "0"], ["--fold 0"]),
    "fold out of range": (["--fold", "3"], ["--fold 3", "2 folds"]),
    "abbreviated flag": (["--data_splits", "x"], ["--data_splits"]),
    "unknown device": (["--data_splits_dir", "x", "--device", "quantum"], ["--device quantum"]),
    "negative rate": (["--data_splits_dir", "x", "--lr", "-1"], ["--lr"]),
    "not a number": (["--data_splits_dir", "x", "--lr", "nan"], ["--lr"]),
    "no loss": (["--data_splits_dir", "x", "--lambda_l1=0", "--lambda_vgg=0", "--lambda_ssim=0"], ["--lambda_"]),
    "missing weights": (["--pretrained_path", "no_such.pt"], ["no_such.pt: no such file"]),
    "wrong number of folds": (["--n_folds", "5"], ["--n_folds 5", "2 folds"]),
}


@pytest.mark.parametrize("mistake", USER_MISTAKES)
def test_user_mistakes_end_with_exit_2_and_leave_nothing(two_folds, tmp_path, monkeypatch, capsys, mistake):
    monkeypatch.chdir(tmp_path)
    argv, words = USER_MISTAKES[mistake]
    if mistake in ("missing weights", "wrong number of folds", "fold out of range"):
        argv = ["--data_splits_dir", str(two_folds), *SMALL, *argv]
    message = refusal(capsys, train_darkir_cv.main, *argv)
    assert [word for word in words if word not in message] == []
    assert not list(tmp_path.rglob("*.pt"))


def test_a_split_of_the_usual_name_is_taken_when_no_rows_are_named(two_folds, tmp_path, monkeypatch, capsys):
    shutil.copytree(two_folds, tmp_path / "data_splits")
    monkeypatch.chdir(tmp_path)
    assert train_darkir_cv.main(["--fold", "3", *SMALL]) == 2
    captured = capsys.readouterr()
    assert "Split: data_splits, which is here (no --data_splits_dir, no --train_jsonl)" in captured.out
    assert "--fold 3: data_splits has 2 folds" in captured.err


FLAGS = """
--data_splits_dir --train_jsonl --val_jsonl --test_jsonl --val_ratio --base_dir --near_duplicates --group_key --n_folds --fold
--exclude_splits_dir --allow_seen_validation --output_dir --overwrite --extend --accept_changes --resume --device
--resolution --fit --preprocess --num_workers --cache --cache_dir --mix_jsonl --mix_ratio
--arch --model_size --layer_norm --pretrained_path --allow_partial
--epochs --batch_size --lr --warmup_epochs --weight_decay --grad_clip --accumulate_steps --ema_decay
--checkpoint_every_steps --skip_bad_batches --dry_run
--early_stopping_patience --mixed_precision --amp_dtype --tf32 --compile --checkpoint_activations --seed --save_every
--lambda_l1 --lambda_vgg --lambda_ssim --lambda_edge --lambda_freq --lambda_side --vgg_weights
--freeze_stages --unfreeze_every --layer_decay
"""


def test_flags_are_exactly_these(capsys):
    with pytest.raises(SystemExit):
        train_darkir_cv.main(["--help"])
    flags = set(re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE))
    assert flags == set(FLAGS.split())


@pytest.mark.long
def test_a_fold_draws_as_the_folds_that_a_former_version_trained(two_folds, tmp_path):
    assert train(two_folds, tmp_path, "--fold", "1", epochs=1) == 0
    first, second = (tmp_path / f"fold_{fold}" / "checkpoint_last.pt" for fold in (1, 2))
    state = read_checkpoint(first)
    del state["progress"]["draws"]
    torch.save(state, first)
    assert train(two_folds, tmp_path, "--fold", "2", epochs=1) == 0
    assert read_checkpoint(second)["progress"]["draws"] == 1
    assert train(two_folds, tmp_path, "--fold", "2", "--overwrite", epochs=1) == 0
    assert read_checkpoint(second)["progress"]["draws"] == 2
