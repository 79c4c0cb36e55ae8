"""train_darkir_cv.py as a user runs it: what it writes, what a rerun does, what it refuses."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import create_data_splits
import train_darkir_cv
from darkir import load_network
from darkir.weights import read_checkpoint
from data import stop
from data.files import write_jsonl
from tests.photos import write_pairs
from tests.small_vgg import write_small_random_vgg

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--model_size", "tiny", "--resolution", "16", "--batch_size", "2", "--num_workers", "0", "--lambda_vgg", "0"]
EPOCH_LINE = re.compile(
    r"^Epoch +\d+/\d+: Train Loss=\d\.\d{4}, Val Loss=\d\.\d{4}, Val PSNR=\d+\.\d\ddB, Val SSIM=-?\d\.\d{4}, "
    r"LR=\d\.\d\de[-+]\d\d( 🏆 BEST)?$"
)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """9 pairs: 2 for the test, 2 folds of the other 7."""
    folder = tmp_path_factory.mktemp("photos")
    rows = write_pairs(folder, 9)
    flags = ["--test_size", "2", "--n_folds", "2", "--output_dir", str(folder / "split")]
    assert create_data_splits.main(["--input_jsonl", str(rows), *flags]) == 0
    return folder / "split"


def train(split, output, *flags, epochs=2):
    """Run the script on both folds."""
    argv = ["--data_splits_dir", str(split), "--n_folds", "2", "--output_dir", str(output), "--epochs", str(epochs)]
    return train_darkir_cv.main([*argv, *SMALL, *flags])


@pytest.fixture(scope="module")
def finished(split, tmp_path_factory):
    """An uninterrupted two-fold run of two epochs."""
    output = tmp_path_factory.mktemp("run")
    assert train(split, output, "--save_every", "1") == 0
    return output


def results(output):
    """Everything that must be equal between two runs: tensors and records, times left out."""
    tensors, records = {}, {}
    for fold in ("fold_1", "fold_2"):
        for name in ("checkpoint_best.pt", "checkpoint_final.pt"):
            for key, tensor in read_checkpoint(output / fold / name)["params"].items():
                tensors[f"{fold}/{name}/{key}"] = tensor
        state = read_checkpoint(output / fold / "checkpoint_last.pt")
        tensors |= {f"{fold}/raw/{key}": tensor for key, tensor in state["raw_params"].items()}
        for index, moments in state["optimizer"]["state"].items():
            tensors |= {f"{fold}/optimizer/{index}/{key}": tensor for key, tensor in moments.items()}
        history = json.loads((output / fold / "history.json").read_text())
        records[fold] = [
            {key: value for key, value in record.items() if key not in ("seconds", "images_per_second")}
            for record in history
        ]
    summary = json.loads((output / "cv_summary.json").read_text())
    del summary["created_with"], summary["config"]["data"]["num_workers"]
    records["summary"] = summary
    records["oof"] = (output / "oof_predictions.csv").read_text()
    return tensors, records


def assert_same_results(one, other):
    (tensors, records), (other_tensors, other_records) = results(one), results(other)
    assert records == other_records
    assert tensors.keys() == other_tensors.keys()
    assert [key for key in tensors if not torch.equal(tensors[key], other_tensors[key])] == []


def stop_at(monkeypatch, poll):
    """Pretend that SIGTERM came just before the `poll`-th time the run asks."""
    polls = iter(range(1, 10**6))
    monkeypatch.setattr(stop, "requested", lambda: "SIGTERM" if next(polls) >= poll else None)


def test_a_run_writes_everything_that_it_promises(finished, split):
    for fold in ("fold_1", "fold_2"):
        names = {path.name for path in (finished / fold).iterdir()}
        expected = {"checkpoint_best.pt", "checkpoint_final.pt", "checkpoint_last.pt", "checkpoint_last.prev.pt"}
        expected |= {"checkpoint_epoch_1.pt", "checkpoint_epoch_2.pt", "history.json", "curves.png", "tensorboard"}
        assert expected <= names
        assert not [name for name in names if ".tmp." in name]
    assert (finished / "report.html").read_text().lower().startswith("<!doctype html>")
    log = (finished / "train.log").read_text().splitlines()
    assert len([line for line in log if EPOCH_LINE.match(line)]) == 4


def test_history_has_one_complete_record_an_epoch(finished):
    history = json.loads((finished / "fold_1" / "history.json").read_text())
    numbers = {"train_loss", "val_loss", "val_psnr", "val_ssim", "lr", "grad_norm", "seconds", "images_per_second"}
    assert [record["epoch"] for record in history] == [1, 2]
    for record in history:
        assert record.keys() == numbers | {"epoch", "train_terms", "is_best", "skipped_steps", "flags"}
        assert all(isinstance(record[name], float) for name in numbers)
        assert record["train_terms"].keys() == {"l1", "ssim"}
        assert record["train_loss"] == pytest.approx(sum(record["train_terms"].values()))
        assert record["flags"] == [] and record["skipped_steps"] == 0


def test_the_rate_ends_at_one_percent(finished):
    history = json.loads((finished / "fold_1" / "history.json").read_text())
    assert history[-1]["lr"] == pytest.approx(1e-6)


def test_every_photo_outside_the_test_set_is_scored_once_out_of_fold(finished, split):
    with open(finished / "oof_predictions.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    val = [json.loads(line)["src"] for fold in (1, 2) for line in open(split / f"fold_{fold}" / "val.jsonl")]
    assert sorted(row["src"] for row in rows) == sorted(val) and len(rows) == 7
    summary = json.loads((finished / "cv_summary.json").read_text())
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


def test_best_is_the_epoch_with_the_highest_psnr_and_deploys_as_published(finished):
    history = json.loads((finished / "fold_1" / "history.json").read_text())
    content = read_checkpoint(finished / "fold_1" / "checkpoint_best.pt")
    best = max(history, key=lambda record: record["val_psnr"])
    assert content["epoch"] == best["epoch"] and content["metrics"]["psnr"] == best["val_psnr"]
    network = load_network(finished / "fold_1" / "checkpoint_best.pt")
    assert network.config.width == 8 and not network.training


def test_tensorboard_holds_scalars_and_the_same_pictures(finished):
    events = EventAccumulator(str(finished / "fold_1" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert {"val_psnr", "train_loss", "train_terms/l1", "lr"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("val_psnr")] == [1, 2]
    assert len(events.Tags()["images"]) == 3  # all validation photos of a fold of 3


def test_a_finished_run_is_skipped_and_not_touched(finished, split, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("fold_*/*.pt")}
    assert train(split, finished, "--save_every", "1") == 0
    assert capsys.readouterr().out.count("finished before, skipped") == 2
    assert before == {path: path.stat().st_mtime_ns for path in finished.glob("fold_*/*.pt")}


@pytest.mark.parametrize("poll", [1, 2, 3, 5, 8])
def test_a_stopped_run_continues_to_the_same_result(finished, split, tmp_path, monkeypatch, poll):
    with monkeypatch.context() as patch:
        stop_at(patch, poll)
        assert train(split, tmp_path, "--save_every", "1") == 75
    if poll == 1:  # asked after the first update: stopped there, in the middle of the epoch
        assert read_checkpoint(tmp_path / "fold_1" / "checkpoint_last.pt")["step"] == 1
    assert train(split, tmp_path, "--save_every", "1") == 0
    assert_same_results(finished, tmp_path)


def test_worker_processes_change_nothing(finished, split, tmp_path):
    assert train(split, tmp_path, "--save_every", "1", "--num_workers", "2") == 0
    assert_same_results(finished, tmp_path)


def test_a_real_signal_ends_a_real_process_with_75_and_a_state(split, tmp_path):
    argv = ["--data_splits_dir", split, "--n_folds", "2", "--output_dir", tmp_path, "--epochs", "500"]
    command = [sys.executable, ROOT / "train_darkir_cv.py", *argv, *SMALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("Epoch") for line in process.stdout)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "SIGTERM received; state saved" in errors and "Traceback" not in errors
    assert read_checkpoint(tmp_path / "fold_1" / "checkpoint_last.pt")["step"] > 0


def test_a_torn_state_falls_back_to_the_one_before_and_says_so(finished, split, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        assert train(split, tmp_path, "--save_every", "1") == 75
    last = tmp_path / "fold_1" / "checkpoint_last.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    assert train(split, tmp_path, "--save_every", "1") == 0
    assert "continuing from checkpoint_last.prev.pt" in capsys.readouterr().out
    assert_same_results(finished, tmp_path)


def test_no_sound_state_is_refused_not_started_from_zero(split, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        assert train(split, tmp_path) == 75
    for path in (tmp_path / "fold_1").glob("*.pt"):
        path.write_bytes(b"torn")
    assert train(split, tmp_path) == 2
    assert "no sound state" in capsys.readouterr().err


def test_changed_options_are_refused_by_name(finished, split, capsys):
    assert train(split, finished, "--save_every", "1", "--lr", "3e-4", "--grad_clip", "2") == 2
    errors = capsys.readouterr().err
    assert "lr: 0.0001 before, 0.0003 now" in errors and "grad_clip: 1.0 before, 2.0 now" in errors
    assert "--overwrite" in errors


def test_overwrite_discards_the_former_run(finished, split, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    assert train(split, tmp_path / "copy", "--overwrite", "--lr", "3e-4", epochs=1) == 0
    assert len(json.loads((tmp_path / "copy" / "fold_1" / "history.json").read_text())) == 1
    assert not (tmp_path / "copy" / "fold_1" / "checkpoint_epoch_2.pt").exists()


def test_one_fold_alone_names_the_missing_one(finished, split, tmp_path, capsys):
    assert train(split, tmp_path, "--save_every", "1", "--fold", "2") == 0
    assert "still missing from the summary: 1" in capsys.readouterr().out
    summary = json.loads((tmp_path / "cv_summary.json").read_text())
    assert [fold["status"] for fold in summary["folds"]] == ["missing", "finished"]
    assert train(split, tmp_path, "--save_every", "1", "--fold", "1") == 0
    assert_same_results(finished, tmp_path)


def test_a_second_run_in_the_same_folder_is_refused(split, tmp_path):
    code = (
        "import sys, time\nfrom data.files import FolderLock\n"
        f"with FolderLock({str(tmp_path / 'fold_1')!r}):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        command = [sys.executable, ROOT / "train_darkir_cv.py", "--data_splits_dir", split, "--n_folds", "2"]
        ended = subprocess.run(
            [*command, "--output_dir", tmp_path, *SMALL], capture_output=True, text=True, check=False
        )
        owner.kill()
    assert ended.returncode == 2 and f"in use by process {owner.pid}" in ended.stderr
    assert train(split, tmp_path, epochs=1) == 0


def test_patience_ends_a_run_that_no_longer_gains(split, tmp_path, capsys):
    # A rate this small leaves float32 weights as they are, so no epoch after the first can be better.
    assert train(split, tmp_path, "--lr", "1e-30", "--early_stopping_patience", "2", epochs=9) == 0
    out = capsys.readouterr().out
    assert "⏹️  Early stopping triggered!\n   Best PSNR: " in out and "at epoch 1\n   No improvement for 2 epochs" in out
    assert len(json.loads((tmp_path / "fold_1" / "history.json").read_text())) == 3
    summary = json.loads((tmp_path / "cv_summary.json").read_text())
    assert summary["folds"][0]["stopped_early"] is True and summary["folds"][0]["epochs_run"] == 3


def test_patience_zero_never_ends_a_run(split, tmp_path):
    assert train(split, tmp_path, "--lr", "1e-30", "--early_stopping_patience", "0", "--fold", "1", epochs=4) == 0
    assert len(json.loads((tmp_path / "fold_1" / "history.json").read_text())) == 4


def test_training_learns(split, tmp_path):
    assert train(split, tmp_path, "--lr", "3e-3", "--ema_decay", "0.5", "--fold", "1", epochs=15) == 0
    history = json.loads((tmp_path / "fold_1" / "history.json").read_text())
    assert history[-1]["val_psnr"] > history[0]["val_psnr"] + 3


@pytest.mark.parametrize("amp_dtype", ["bf16", "fp16"])
def test_mixed_precision_stays_close_to_float32(finished, split, tmp_path, amp_dtype, capsys):
    flags = ["--mixed_precision", "--amp_dtype", amp_dtype, "--fold", "1", "--save_every", "1"]
    assert train(split, tmp_path, *flags) == 0
    assert "mixed, " in capsys.readouterr().out
    ours, theirs = (json.loads((run / "fold_1" / "history.json").read_text()) for run in (tmp_path, finished))
    assert ours[-1]["val_psnr"] == pytest.approx(theirs[-1]["val_psnr"], abs=0.1)


def test_accumulated_batches_make_the_update_of_one_large_batch(split, tmp_path):
    runs = {"whole": ["--batch_size", "4"], "parts": ["--batch_size", "2", "--accumulate_steps", "2"]}
    for name, flags in runs.items():
        assert train(split, tmp_path / name, "--fold", "1", *flags, epochs=1) == 0
    whole, parts = (json.loads((tmp_path / name / "fold_1" / "history.json").read_text())[0] for name in runs)
    for key in ("train_loss", "val_psnr", "grad_norm"):
        assert parts[key] == pytest.approx(whole[key], rel=1e-4)


def test_all_terms_train_with_named_weights(split, tmp_path):
    weights = write_small_random_vgg(tmp_path / "small_random_vgg19.pth")
    flags = ["--lambda_vgg", "0.1", "--vgg_weights", str(weights), "--resolution", "128"]
    flags += ["--lambda_edge", "50", "--lambda_freq", "0.01", "--lambda_side", "0.1", "--fold", "1"]
    assert train(split, tmp_path / "run", *flags, epochs=1) == 0
    terms = json.loads((tmp_path / "run" / "fold_1" / "history.json").read_text())[0]["train_terms"]
    assert terms.keys() == {"l1", "vgg", "ssim", "edge", "freq", "side"} and min(terms.values()) > 0


def test_vgg_weights_that_cannot_be_had_end_the_run_at_the_start(split, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no_hub_here"))
    assert train(split, tmp_path / "run", "--lambda_vgg", "0.1") == 2
    assert "--lambda_vgg 0" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("fold_1/*.pt"))


def single(folder, output, *flags):
    argv = ["--train_jsonl", str(folder / "pairs.jsonl"), "--output_dir", str(output), "--epochs", "1"]
    return train_darkir_cv.main([*argv, *SMALL, *flags])


def test_a_single_run_holds_out_validation_pairs_and_writes_at_the_top(tmp_path, capsys):
    write_pairs(tmp_path, 6, first_seed=50)
    assert single(tmp_path, tmp_path / "run", "--val_ratio", "0.3") == 0
    assert "2 held out" in capsys.readouterr().out
    assert {"checkpoint_best.pt", "history.json", "train.log"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_a_single_run_takes_val_jsonl_beside_its_rows(tmp_path, capsys):
    write_pairs(tmp_path, 6, first_seed=60)
    rows = [json.loads(line) for line in open(tmp_path / "pairs.jsonl")]
    write_jsonl(tmp_path / "pairs.jsonl", rows[:4])
    write_jsonl(tmp_path / "val.jsonl", rows[4:])
    assert single(tmp_path, tmp_path / "run") == 0
    assert "4 training pairs, 2 validation pairs" in capsys.readouterr().out


def test_a_renamed_copy_of_a_test_photo_is_refused(split, tmp_path, capsys):
    write_pairs(tmp_path, 5, first_seed=70)
    test_row = json.loads((split / "test.jsonl").read_text().splitlines()[0])
    for side in ("src", "tar"):
        shutil.copy(split.parent / test_row[side], tmp_path / "images" / f"holiday_{side}.png")
    rows = [json.loads(line) for line in open(tmp_path / "pairs.jsonl")]
    write_jsonl(tmp_path / "pairs.jsonl", [*rows, {side: f"images/holiday_{side}.png" for side in ("src", "tar")}])
    assert single(tmp_path, tmp_path / "run", "--test_jsonl", str(split / "test.jsonl")) == 2
    errors = capsys.readouterr().err
    assert "images/holiday_src.png" in errors and test_row["src"] in errors and "pairs.jsonl:6" in errors


def test_weights_that_saw_a_test_photo_are_refused_as_a_start(finished, split, tmp_path, capsys):
    seen_row = json.loads((split / "fold_1" / "train.jsonl").read_text().splitlines()[0])
    write_jsonl(tmp_path / "test.jsonl", [{side: str(split.parent / seen_row[side]) for side in ("src", "tar")}])
    write_pairs(tmp_path, 4, first_seed=80)
    flags = ["--test_jsonl", str(tmp_path / "test.jsonl")]
    start = ["--pretrained_path", str(finished / "fold_1" / "checkpoint_best.pt")]
    assert single(tmp_path, tmp_path / "run", *flags, *start) == 2
    assert "starting weights saw 1 of the 1 test photos" in capsys.readouterr().err
    assert single(tmp_path, tmp_path / "run", *flags) == 0


def test_published_weights_start_a_run_with_unknown_provenance(finished, tmp_path, capsys):
    write_pairs(tmp_path, 4, first_seed=90)
    params = read_checkpoint(finished / "fold_1" / "checkpoint_best.pt")["params"]
    torch.save({"params": params}, tmp_path / "published.pt")
    assert single(tmp_path, tmp_path / "run", "--pretrained_path", str(tmp_path / "published.pt")) == 0
    out = capsys.readouterr().out
    assert "343 of 343 tensors" in out and "provenance unknown" in out
    assert read_checkpoint(tmp_path / "run" / "checkpoint_best.pt")["data"]["known"] is False


def test_weights_of_another_size_are_refused_by_name(finished, tmp_path, capsys):
    write_pairs(tmp_path, 4, first_seed=100)
    start = ["--pretrained_path", str(finished / "fold_1" / "checkpoint_best.pt"), "--model_size", "m"]
    assert single(tmp_path, tmp_path / "run", *start) == 2
    errors = capsys.readouterr().err
    assert "width 8" in errors and "width 32" in errors


def test_resume_continues_a_state_and_starts_anew_from_weights(finished, split, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert train(split, tmp_path / "one", "--save_every", "1") == 75
    state = tmp_path / "one" / "fold_1" / "checkpoint_last.pt"
    assert train(split, tmp_path / "two", "--save_every", "1", "--fold", "1", "--resume", str(state)) == 0
    assert train(split, tmp_path / "two", "--save_every", "1", "--fold", "2") == 0
    assert_same_results(finished, tmp_path / "two")
    best = finished / "fold_1" / "checkpoint_best.pt"
    capsys.readouterr()
    assert train(split, tmp_path / "three", "--fold", "1", "--resume", str(best), epochs=1) == 0
    assert "holds weights only: a new run starts from them" in capsys.readouterr().out


def test_starting_weights_that_give_no_finite_loss_fail_the_self_test(finished, tmp_path, capsys):
    write_pairs(tmp_path, 4, first_seed=110)
    params = read_checkpoint(finished / "fold_1" / "checkpoint_best.pt")["params"]
    params["ending.bias"] = params["ending.bias"] + 3e38
    torch.save({"params": params}, tmp_path / "huge.pt")
    assert single(tmp_path, tmp_path / "run", "--pretrained_path", str(tmp_path / "huge.pt")) == 1
    errors = capsys.readouterr().err
    assert "self-test: loss term" in errors and "images/11" in errors and "Traceback" not in errors
    assert not list((tmp_path / "run").glob("*.pt"))


USER_MISTAKES = {
    "no rows": [],
    "both kinds of rows": ["--data_splits_dir", "x", "--train_jsonl", "y"],
    "missing split": ["--data_splits_dir", "no_such_folder"],
    "missing jsonl": ["--train_jsonl", "no_such.jsonl"],
    "fold out of range": ["--data_splits_dir", "x", "--fold", "4"],
    "abbreviated flag": ["--data_splits", "x"],
    "unknown device": ["--data_splits_dir", "x", "--device", "quantum"],
    "negative rate": ["--data_splits_dir", "x", "--lr", "-1"],
    "not a number": ["--data_splits_dir", "x", "--lr", "nan"],
    "no loss": ["--data_splits_dir", "x", "--lambda_l1", "0", "--lambda_vgg", "0", "--lambda_ssim", "0"],
    "missing weights": ["--pretrained_path", "no_such.pt"],
    "wrong number of folds": ["--n_folds", "5"],
}


@pytest.mark.parametrize("mistake", USER_MISTAKES)
def test_user_mistakes_end_with_exit_2_and_leave_nothing(split, tmp_path, monkeypatch, capsys, mistake):
    monkeypatch.chdir(tmp_path)
    argv = USER_MISTAKES[mistake]
    if mistake in ("missing weights", "wrong number of folds"):
        argv = ["--data_splits_dir", str(split), *SMALL, "--n_folds", "2", *argv]
    try:
        code = train_darkir_cv.main(argv)
    except SystemExit as ended:
        code = ended.code
    message = capsys.readouterr().err
    assert code == 2 and "error: " in message and "Traceback" not in message
    assert not list(tmp_path.rglob("*.pt"))


FLAGS = """
--data_splits_dir --train_jsonl --val_jsonl --test_jsonl --val_ratio --base_dir --n_folds --fold
--output_dir --overwrite --resume --device
--resolution --fit --preprocess --num_workers --cache --cache_dir --mix_jsonl --mix_ratio
--model_size --pretrained_path --allow_partial
--epochs --batch_size --lr --warmup_epochs --weight_decay --grad_clip --accumulate_steps --ema_decay
--checkpoint_every_steps --skip_bad_batches --dry_run
--early_stopping_patience --mixed_precision --amp_dtype --compile --seed --save_every
--lambda_l1 --lambda_vgg --lambda_ssim --lambda_edge --lambda_freq --lambda_side --vgg_weights
--freeze_stages --unfreeze_every --layer_decay
"""


def test_flags_are_exactly_these(capsys):
    with pytest.raises(SystemExit):
        train_darkir_cv.main(["--help"])
    flags = set(re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE))
    assert flags == set(FLAGS.split())
