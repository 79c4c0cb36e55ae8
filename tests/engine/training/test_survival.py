"""What a run survives and how it ends: broken numbers, full memory, full disk; and the rehearsal before it."""

import ast
import gc
import json
import os
import subprocess
import sys
import time

import pytest
import torch

import create_data_splits
import train_darkir_cv
from common import log
from common.files import write_jsonl
from darkir.checkpoint_file import read_checkpoint
from engine.training.updates import loop as updates
from engine.training.updates.learner import Learner
from engine.training.updates.memory import MemoryUse, memory_advice
from tests.helpers.live_updates import BrokenUpdate
from tests.helpers.paths import ROOT
from tests.helpers.photos import write_pairs
from tests.helpers.train_runs import stop_at

SMALL = ["--model_size", "tiny", "--resolution", "16", "--batch_size", "2", "--num_workers", "0", "--lambda_vgg", "0"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six pairs, the last two for validation."""
    folder = tmp_path_factory.mktemp("photos")
    rows = write_pairs(folder, 6, first_seed=200)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    write_jsonl(folder / "train.jsonl", lines[:4])
    write_jsonl(folder / "val.jsonl", lines[4:])
    return folder


def train(photos, output, *flags, epochs=2):
    argv = ["--train_jsonl", str(photos / "train.jsonl"), "--output_dir", str(output), "--epochs", str(epochs)]
    return train_darkir_cv.main([*argv, *SMALL, *flags])


def history(output):
    return json.loads((output / "history.json").read_text())


def break_updates(monkeypatch, bad):
    """Let the updates with these numbers (from 1, as they are called) come out as not finite, as with a broken photo."""
    real, calls = updates.train_step, iter(range(1, 10**6))

    def step(*arguments):
        return BrokenUpdate("loss term l1") if next(calls) in bad else real(*arguments)

    monkeypatch.setattr(updates, "train_step", step)


def test_a_run_that_diverges_stops_before_the_update_and_keeps_its_last_state(photos, tmp_path, capsys):
    assert train(photos, tmp_path, "--lr", "1e30", "--checkpoint_every_steps", "1") == 1
    errors = capsys.readouterr().err
    assert (
        "failed: loss term " in errors
        and "is not finite at update 2 (epoch 1)" in errors
        and "images/20" in errors
        and "Traceback" not in errors
    )
    assert read_checkpoint(tmp_path / "checkpoint_last.pt")["step"] == 1


def test_bad_batches_are_left_out_up_to_the_number_allowed_and_counted(photos, tmp_path, monkeypatch, capsys):
    break_updates(monkeypatch, {2, 4})
    assert train(photos, tmp_path, "--skip_bad_batches", "2") == 0
    assert [record["skipped_steps"] for record in history(tmp_path)] == [1, 1]
    out = capsys.readouterr().out
    assert "left out, 1 of 2 allowed. Photos: images/20" in out and "2 of 2 allowed" in out


def test_one_bad_batch_too_many_ends_the_run(photos, tmp_path, monkeypatch, capsys):
    break_updates(monkeypatch, {1, 3})
    assert train(photos, tmp_path, "--skip_bad_batches", "1") == 1
    assert "loss term l1 is not finite at update 3" in capsys.readouterr().err


def test_an_epoch_of_nothing_but_bad_batches_ends_the_run(photos, tmp_path, monkeypatch, capsys):
    break_updates(monkeypatch, {1, 2})
    assert train(photos, tmp_path, "--skip_bad_batches", "9") == 1
    assert "epoch 1" in capsys.readouterr().err


def test_states_inside_an_epoch_change_no_result(photos, tmp_path):
    assert train(photos, tmp_path / "often", "--checkpoint_every_steps", "1") == 0
    assert train(photos, tmp_path / "rarely") == 0
    ours, theirs = (read_checkpoint(tmp_path / name / "checkpoint_last.pt") for name in ("often", "rarely"))
    assert all(torch.equal(ours["raw_params"][name], theirs["raw_params"][name]) for name in ours["raw_params"])


def test_a_network_that_cannot_learn_fails_the_self_test(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("engine.training.self_test.LR", 1e-30)
    assert train(photos, tmp_path) == 1
    assert "self-test: an update changed nothing" in capsys.readouterr().err


def test_the_copy_of_the_self_test_is_gone_when_training_begins(photos, tmp_path, monkeypatch):
    real, alive = updates.train_step, []

    def step(*arguments):
        gc.collect()
        alive.append(sum(type(thing) is Learner for thing in gc.get_objects()))
        return real(*arguments)

    monkeypatch.setattr(updates, "train_step", step)
    assert train(photos, tmp_path, epochs=1) == 0
    assert set(alive) == {1}


def test_a_run_that_makes_no_progress_shows_where_it_stands(photos, tmp_path, monkeypatch, capfd):
    real = updates.train_step

    def stuck(*arguments):
        if (tmp_path / "run").exists() and not calls:
            calls.append(1)
            time.sleep(1.5)
        return real(*arguments)

    calls = []
    monkeypatch.setattr(updates, "train_step", stuck)
    assert train(photos, tmp_path / "run", epochs=1) == 0
    assert "stuck" not in capfd.readouterr().err
    calls.clear()
    monkeypatch.setattr(log, "STALL_SECONDS", 1.0)
    assert train(photos, tmp_path / "run", "--overwrite", epochs=1) == 0
    shown = capfd.readouterr().err
    assert shown.startswith("No progress for 1 s. ") and "in stuck" in shown and "in start_next" in shown


def test_a_batch_that_does_not_fit_says_what_to_do(photos, tmp_path, monkeypatch, capsys):
    def step(*arguments):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(updates, "train_step", step)
    assert train(photos, tmp_path) == 1
    errors = capsys.readouterr().err
    assert "--batch_size 2 --resolution 16" in errors and "--accumulate_steps" in errors


def test_the_estimate_of_what_fits_follows_from_one_measured_sample():
    use = MemoryUse(fixed=1000, per_sample=2000, capacity=10000)
    assert use.largest_batch() == 4  # (0.9 * 10000 - 1000) / 2000
    assert use.largest_resolution(384, batch_size=16) == 192  # a quarter of the room: half the side
    advice = memory_advice(use, 16, 384)
    assert "Estimate from one measured sample: --batch_size 4 or --resolution 192 would have fitted" in advice
    assert (
        "--batch_size"
        not in memory_advice(MemoryUse(8500, 2000, 10000), 16, 384).split("sample: ")[1].split(" would")[0]
    )
    assert "no batch and no resolution would have fitted" in memory_advice(MemoryUse(9000, 2000, 10000), 16, 384)


def test_a_dry_run_checks_and_estimates_and_writes_nothing(photos, tmp_path, capsys):
    assert train(photos, tmp_path / "run", "--dry_run") == 0
    out = capsys.readouterr().out
    assert (
        "Self-test passed" in out and "s an epoch" in out and "GiB of checkpoints for 1 runs" in out and "enough" in out
    )
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_the_run_would_refuse(photos, tmp_path, capsys):
    flags = ["--dry_run", "--test_jsonl", str(photos / "val.jsonl")]
    assert train(photos, tmp_path / "run", *flags) == 2
    assert "has the content of test photo" in capsys.readouterr().err
    assert train(photos, tmp_path / "run", "--dry_run", "--pretrained_path", "missing.pt") == 2


def test_a_dry_run_knows_what_is_finished(photos, tmp_path, capsys):
    assert train(photos, tmp_path) == 0
    assert train(photos, tmp_path, "--dry_run") == 0
    assert "1 runs, 1 of them finished" in capsys.readouterr().out


@pytest.mark.long
def test_a_dry_run_plans_as_the_run_would(photos, tmp_path, capsys):
    assert train(photos, tmp_path) == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pt")}
    assert train(photos, tmp_path, "--dry_run", "--lr", "3e-4") == 2
    assert "lr: 0.0001 before, 0.0003 now" in capsys.readouterr().err
    assert train(photos, tmp_path, "--dry_run", "--lr", "3e-4", "--overwrite", epochs=3) == 0
    out = capsys.readouterr().out
    assert "0 of them finished" in out and "3 epochs in 1 runs" in out
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.pt")}
    (tmp_path / "checkpoint_final.pt").write_bytes(b"torn")
    assert train(photos, tmp_path, "--dry_run") == 0
    out = capsys.readouterr().out
    assert "checkpoint_final.pt" in out and "0 epochs in 1 runs" in out
    for path in tmp_path.glob("checkpoint_[!bf]*.pt"):
        path.unlink()
    assert train(photos, tmp_path, "--dry_run") == 2
    assert "checkpoint_final.pt" in capsys.readouterr().err


def test_a_dry_run_survives_the_bad_batch_that_the_run_may_leave_out(photos, tmp_path, capsys):
    flags = ["--dry_run", "--lambda_l1", "1e38", "--skip_bad_batches", "1"]
    assert train(photos, tmp_path / "run", *flags) == 0
    out = capsys.readouterr().out
    assert "not finite in the first batch" in out and "images/20" in out and "s an epoch" in out


def test_a_full_disk_ends_with_one_message_and_the_last_state_intact(photos, tmp_path, monkeypatch):
    argv = ["--train_jsonl", photos / "train.jsonl", "--output_dir", tmp_path, "--checkpoint_every_steps", "1"]
    command = [sys.executable, ROOT / "train_darkir_cv.py", *argv, *SMALL, "--epochs", "500"]
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert train(photos, tmp_path, "--checkpoint_every_steps", "1", epochs=500) == 75
    before = read_checkpoint(tmp_path / "checkpoint_last.pt")["step"]
    # A file may not grow past 1000 KiB: what a quota or a full disk does, for root too.
    full = ["bash", "-c", 'ulimit -f 1000; exec "$@"', "bash", *command]
    ended = subprocess.run(full, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 1 and ".pt: File too large" in ended.stderr and "Traceback" not in ended.stderr
    assert read_checkpoint(tmp_path / "checkpoint_last.pt")["step"] >= before > 0
    assert not list(tmp_path.glob(".darkir-tmp.*"))


def test_a_save_that_fails_leaves_the_state_before(photos, tmp_path, monkeypatch, capsys):
    calls, real = iter(range(10**6)), os.fsync

    def fsync(handle):
        if next(calls) >= 6:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert train(photos, tmp_path, "--checkpoint_every_steps", "1") == 1
    assert "progress.json: No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    states = [name for name in ("checkpoint_last.pt", "checkpoint_last.prev.pt") if (tmp_path / name).exists()]
    assert read_checkpoint(tmp_path / states[0])["step"] >= 1
    assert not list(tmp_path.glob(".darkir-tmp.*"))
    assert train(photos, tmp_path, "--checkpoint_every_steps", "1") == 0


def test_a_changed_photo_is_noticed(tmp_path, capsys):
    rows = write_pairs(tmp_path, 8, first_seed=300)
    flags = ["--test_size", "2", "--n_folds", "2", "--output_dir", str(tmp_path / "split")]
    assert create_data_splits.main(["--input_jsonl", str(rows), *flags]) == 0
    row = json.loads((tmp_path / "split" / "fold_1" / "train.jsonl").read_text().splitlines()[0])
    other = json.loads((tmp_path / "split" / "fold_1" / "train.jsonl").read_text().splitlines()[1])
    (tmp_path / row["tar"]).write_bytes((tmp_path / other["tar"]).read_bytes())
    argv = ["--data_splits_dir", str(tmp_path / "split"), "--n_folds", "2", "--output_dir", str(tmp_path / "run")]
    assert train_darkir_cv.main([*argv, *SMALL]) == 2
    assert f"{row['tar']} is not the photo that this row's digest was made from" in capsys.readouterr().err


# Everything else must go through common/files.py, which writes whole files or none.
WRITERS = {"torch.save", "os.open", "os.rename", "os.replace", "shutil.copy", "shutil.move"}
WRITING_METHODS = {"write_text", "write_bytes", "savefig", "save", "tofile", "savez"}
HARMLESS_TARGETS = ("temporary", "buffer", "content", "stream")  # the path that atomic_output gave, and memory
EXCEPTIONS = {
    ("engine/checkpoint.py", "os.replace"),  # the rotation of the state before
    ("common/log.py", "os.open"),  # train.log grows by whole lines; and the null device for a stdout that takes no more
    ("common/exits.py", "os.open"),  # the null device, for a standard stream that is closed
    ("common/exits.py", "open"),
    ("common/gpus.py", "os.open"),  # asks whether a device may be opened
    ("common/locks.py", "os.open"),  # a lock is on its very inode
    ("data/images.py", "os.open"),  # reads without blocking
    ("darkir/checkpoint_file.py", "safetensors.torch.save"),  # gives bytes
}


def calls_that_write(path):
    """(name, line) of every call in a file that could write to disk."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        mode = next(
            (ast.unparse(a) for a in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]), ""
        )
        if any(ast.unparse(argument).startswith(HARMLESS_TARGETS) for argument in node.args):
            continue
        opens = name.rsplit(".", 1)[-1] == "open" and any(letter in mode for letter in "wax+")
        method = (
            isinstance(node.func, ast.Attribute) and node.func.attr in WRITING_METHODS and name != "checkpoint.save"
        )
        if opens or method or name in WRITERS:
            yield name, node.lineno


def test_nothing_writes_past_the_atomic_helper():
    found = []
    for path in sorted(
        [
            *ROOT.glob("*.py"),
            *(p for d in ("common", "darkir", "data", "losses", "engine") for p in (ROOT / d).rglob("*.py")),
        ]
    ):
        relative = path.relative_to(ROOT).as_posix()
        if relative != "common/files.py":
            found += [(relative, name, line) for name, line in calls_that_write(path)]
    assert [entry for entry in found if entry[:2] not in EXCEPTIONS] == []
    assert {entry[:2] for entry in found} == EXCEPTIONS
