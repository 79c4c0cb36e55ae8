"""train_darkir_cv.py run again: finished, stopped, torn, resumed, changed, in use. What continues ends as if never stopped."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from darkir.checkpoint_file import read_checkpoint
from tests.helpers.lock_holder import locked_by_another
from tests.helpers.paths import ROOT
from tests.helpers.small_vgg import write_small_random_vgg
from tests.helpers.train_runs import SMALL, assert_same_results, stop_at, train


def test_a_finished_run_is_skipped_and_not_touched(finished_run, two_folds, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.glob("fold_*/*.pt")}
    assert train(two_folds, finished_run, "--save_every", "1") == 0
    assert capsys.readouterr().out.count("finished before, skipped") == 2
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.glob("fold_*/*.pt")}


@pytest.mark.parametrize("poll", [1, *(pytest.param(poll, marks=pytest.mark.long) for poll in (3, 8))])
def test_a_stopped_run_continues_to_the_same_result(finished_records, two_folds, tmp_path, monkeypatch, poll):
    with monkeypatch.context() as patch:
        stop_at(patch, poll)
        assert train(two_folds, tmp_path, "--save_every", "1") == 75
    if poll == 1:  # asked after the first update: stopped there, in the middle of the epoch
        assert read_checkpoint(tmp_path / "fold_1" / "checkpoint_last.pt")["step"] == 1
    assert train(two_folds, tmp_path, "--save_every", "1") == 0
    assert_same_results(finished_records, tmp_path)


@pytest.mark.long
def test_worker_processes_change_nothing(finished_records, two_folds, tmp_path):
    assert train(two_folds, tmp_path, "--save_every", "1", "--num_workers", "2") == 0
    assert_same_results(finished_records, tmp_path)


def test_a_real_signal_ends_a_real_process_with_75_and_a_state(two_folds, tmp_path):
    argv = ["--data_splits_dir", two_folds, "--n_folds", "2", "--output_dir", tmp_path, "--epochs", "500"]
    command = [sys.executable, ROOT / "train_darkir_cv.py", *argv, *SMALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("Epoch") for line in process.stdout)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "SIGTERM received; state saved" in errors and "Traceback" not in errors
    assert read_checkpoint(tmp_path / "fold_1" / "checkpoint_last.pt")["step"] > 0


def test_a_torn_state_falls_back_to_the_one_before_and_says_so(
    finished_records, two_folds, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        assert train(two_folds, tmp_path, "--save_every", "1") == 75
    last = tmp_path / "fold_1" / "checkpoint_last.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    assert train(two_folds, tmp_path, "--save_every", "1") == 0
    assert "continuing from checkpoint_last.prev.pt" in capsys.readouterr().out
    assert_same_results(finished_records, tmp_path)


def test_no_sound_state_is_refused_not_started_from_zero(two_folds, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        assert train(two_folds, tmp_path) == 75
    for path in (tmp_path / "fold_1").glob("*.pt"):
        path.write_bytes(b"torn")
    assert train(two_folds, tmp_path) == 2
    assert "no sound state" in capsys.readouterr().err


def test_resume_continues_a_state_and_starts_anew_from_weights(
    finished_run, finished_records, two_folds, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert train(two_folds, tmp_path / "one", "--save_every", "1") == 75
    state = tmp_path / "one" / "fold_1" / "checkpoint_last.pt"
    assert train(two_folds, tmp_path / "two", "--save_every", "1", "--fold", "1", "--resume", str(state)) == 0
    assert train(two_folds, tmp_path / "two", "--save_every", "1", "--fold", "2") == 0
    assert_same_results(finished_records, tmp_path / "two")
    best = finished_run / "fold_1" / "checkpoint_best.pt"
    capsys.readouterr()
    assert (
        train(two_folds, tmp_path / "three", "--fold", "1", "--allow_seen_validation", "--resume", str(best), epochs=1)
        == 0
    )
    assert "weights only" in capsys.readouterr().out


# A rate this small leaves float32 weights as they are, so no epoch after the first can be better.
BEST_IS_FIRST = ["--fold", "1", "--save_every", "1", "--lr", "1e-30"]


def best_epochs(run):
    """The epoch of checkpoint_best.pt, and the one that the finished run calls its best."""
    best, final = (read_checkpoint(run / "fold_1" / f"checkpoint_{name}.pt") for name in ("best", "final"))
    return best["epoch"], final["finished"]["best_epoch"]


def test_a_state_in_a_new_folder_brings_its_best_weights_along(two_folds, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert train(two_folds, tmp_path / "one", *BEST_IS_FIRST) == 75
    state = tmp_path / "one" / "fold_1" / "checkpoint_last.pt"
    assert train(two_folds, tmp_path / "two", *BEST_IS_FIRST, "--resume", str(state)) == 0
    assert best_epochs(tmp_path / "two") == (1, 1)


@pytest.mark.long
@pytest.mark.parametrize("lost", ["missing", "of another epoch"])
def test_a_state_without_its_best_weights_counts_the_best_anew(two_folds, tmp_path, monkeypatch, capsys, lost):
    assert train(two_folds, tmp_path / "one", *BEST_IS_FIRST, epochs=3) == 0
    folder = tmp_path / "one" / "fold_1"
    best, state, last = (folder / f"checkpoint_{name}.pt" for name in ("best", "epoch_2", "epoch_3"))
    if lost == "of another epoch":
        torch.save({**read_checkpoint(best), "epoch": 3}, best)
    else:
        best.unlink()
    branch = [*BEST_IS_FIRST, "--resume", str(state)]
    for more in ([], ["--dry_run"]):
        capsys.readouterr()
        assert train(two_folds, tmp_path / "over", *BEST_IS_FIRST, "--resume", str(last), *more, epochs=3) == 2
        message = capsys.readouterr().err
        assert f"--resume {last}" in message and str(best) in message
    assert train(two_folds, tmp_path / "two", *branch, "--dry_run", epochs=3) == 0
    assert str(best) in capsys.readouterr().out
    with monkeypatch.context() as patch:  # a stop in the middle of the first epoch after the branch
        stop_at(patch, 1)
        assert train(two_folds, tmp_path / "two", *branch, epochs=3) == 75
    assert str(best) in capsys.readouterr().out
    assert train(two_folds, tmp_path / "two", *BEST_IS_FIRST, epochs=3) == 0
    assert best_epochs(tmp_path / "two") == (3, 3)


def test_a_finished_epoch_without_a_best_one_is_a_broken_state(two_folds, finished_run, tmp_path, capsys):
    content = read_checkpoint(finished_run / "fold_1" / "checkpoint_epoch_1.pt")
    (tmp_path / "fold_1").mkdir()
    torch.save(
        {**content, "progress": {**content["progress"], "best": None}}, tmp_path / "fold_1" / "checkpoint_last.pt"
    )
    assert train(two_folds, tmp_path, "--fold", "1", "--save_every", "1") == 2
    assert "checkpoint_last.pt" in capsys.readouterr().err


def test_weights_in_resume_are_recorded_as_those_of_pretrained_path(finished_run, two_folds, tmp_path, capsys):
    one, best = (finished_run / "fold_1" / f"checkpoint_{name}.pt" for name in ("epoch_1", "best"))
    flags = ["--fold", "1", "--save_every", "0", "--allow_seen_validation"]
    assert train(two_folds, tmp_path / "a", *flags, "--resume", str(best)) == 0
    assert train(two_folds, tmp_path / "b", *flags, "--pretrained_path", str(best)) == 0
    finals = [read_checkpoint(tmp_path / run / "fold_1" / "checkpoint_final.pt") for run in "ab"]
    assert finals[0]["config"] == finals[1]["config"] and finals[0]["data"] == finals[1]["data"]
    assert finals[0]["config"]["model"]["pretrained_path"] == str(best)
    assert train(two_folds, tmp_path / "a", *flags, "--pretrained_path", str(best)) == 0, "the same run"
    capsys.readouterr()
    assert train(two_folds, tmp_path / "c", *flags, "--resume", str(best), "--pretrained_path", str(one)) == 2
    message = capsys.readouterr().err
    assert f"--resume {best}" in message and f"--pretrained_path {one}" in message
    assert not (tmp_path / "c" / "fold_1").exists()


def test_a_run_whose_former_version_recorded_no_weights_of_resume_continues(
    finished_run, two_folds, tmp_path, monkeypatch, capsys
):
    best = str(finished_run / "fold_1" / "checkpoint_best.pt")
    flags = ["--fold", "1", "--allow_seen_validation", "--resume", best]
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert train(two_folds, tmp_path, *flags) == 75
    last = tmp_path / "fold_1" / "checkpoint_last.pt"
    state = read_checkpoint(last)
    state["config"]["model"]["pretrained_path"] = state["config"]["pretrained_sha256"] = None
    torch.save(state, last)
    assert train(two_folds, tmp_path, *flags) == 0
    assert f"--resume {best}" in capsys.readouterr().out


def test_changed_options_are_refused_by_name(finished_run, two_folds, capsys):
    assert train(two_folds, finished_run, "--save_every", "1", "--lr", "3e-4", "--grad_clip", "2") == 2
    errors = capsys.readouterr().err
    assert "lr: 0.0001 before, 0.0003 now" in errors and "grad_clip: 1.0 before, 2.0 now" in errors
    assert "--overwrite" in errors and "change no result" not in errors


def test_overwrite_discards_the_former_run(finished_run, two_folds, tmp_path):
    shutil.copytree(finished_run, tmp_path / "copy")
    theirs = tmp_path / "copy" / "fold_1" / "checkpoint_epoch_2_good.pt"
    theirs.write_text("a file of the user's own")
    assert train(two_folds, tmp_path / "copy", "--overwrite", "--lr", "3e-4", epochs=1) == 0
    assert len(json.loads((tmp_path / "copy" / "fold_1" / "history.json").read_text())) == 1
    assert not (tmp_path / "copy" / "fold_1" / "checkpoint_epoch_2.pt").exists() and theirs.exists()


def test_a_second_run_in_the_same_folder_is_refused(two_folds, tmp_path, capsys):
    with locked_by_another(tmp_path / "fold_1") as owner:
        assert train(two_folds, tmp_path, epochs=1) == 2
        assert f"in use by process {owner.pid}" in capsys.readouterr().err
    assert train(two_folds, tmp_path, epochs=1) == 0


def test_starting_weights_are_compared_by_content_not_by_name(finished_run, two_folds, tmp_path, capsys):
    weights, run = tmp_path / "w.pt", tmp_path / "run"
    start = finished_run / "fold_1" / "checkpoint_best.pt"
    shutil.copy(start, weights)
    flags = ["--fold", "1", "--save_every", "0", "--allow_seen_validation"]
    assert train(two_folds, run, *flags, "--pretrained_path", str(weights), epochs=1) == 0
    assert train(two_folds, run, *flags, "--pretrained_path", str(start), epochs=1) == 0, "the same weights elsewhere"
    shutil.copy(finished_run / "fold_1" / "checkpoint_final.pt", weights)
    assert train(two_folds, run, *flags, "--pretrained_path", str(weights), epochs=1) == 2
    assert "pretrained_sha256: " in capsys.readouterr().err
    weights.unlink()
    assert train(two_folds, run, *flags, "--pretrained_path", str(weights), epochs=1) == 0, "a finished run needs none"


def test_vgg_weights_are_compared_by_content_not_by_name(two_folds, tmp_path, capsys):
    first, second = (write_small_random_vgg(tmp_path / f"{seed}.pt", seed=seed) for seed in (1, 2))
    flags, run = ["--fold", "1", "--save_every", "0", "--lambda_vgg", "0.1", "--vgg_weights"], tmp_path / "run"
    assert train(two_folds, run, *flags, str(first), epochs=1) == 0
    shutil.copy(first, tmp_path / "copy.pt")
    assert train(two_folds, run, *flags, str(tmp_path / "copy.pt"), epochs=1) == 0, "the same weights elsewhere"
    assert "vgg_weights: " in capsys.readouterr().out
    for more in ([], ["--dry_run"]):
        assert train(two_folds, run, *flags, str(second), *more, epochs=1) == 2
        assert "vgg_sha256: " in capsys.readouterr().err
    shutil.copy(second, first)
    assert train(two_folds, run, *flags, str(first), epochs=1) == 2, "other weights under the old name"
    first.unlink()
    assert train(two_folds, run, *flags, str(first), epochs=1) == 0, "a finished run needs none"
    final = run / "fold_1" / "checkpoint_final.pt"
    content = read_checkpoint(final)
    del content["config"]["vgg_sha256"]  # as former versions wrote it
    torch.save(content, final)
    shutil.copy(second, first)
    assert train(two_folds, run, *flags, str(first), epochs=1) == 0
    assert train(two_folds, run, *flags, str(second), epochs=1) == 2


def test_vgg_weights_that_no_term_uses_are_no_reason_to_refuse(two_folds, tmp_path):
    flags = ["--fold", "1", "--save_every", "0"]
    assert train(two_folds, tmp_path / "run", *flags, "--vgg_weights", str(tmp_path / "none.pt"), epochs=1) == 0
    assert train(two_folds, tmp_path / "run", *flags, epochs=1) == 0


def test_a_state_with_other_options_in_a_new_folder_is_named_itself(finished_run, two_folds, tmp_path, capsys):
    state = finished_run / "fold_1" / "checkpoint_last.pt"
    assert train(two_folds, tmp_path / "new", "--fold", "1", "--resume", str(state), epochs=3) == 2
    message = capsys.readouterr().err
    assert f"--resume {state}" in message and "epochs: 2 before, 3 now" in message
    assert f"--pretrained_path {state.with_name('checkpoint_best.pt')}" in message and str(tmp_path) not in message


@pytest.mark.parametrize(("recorded", "code"), [("plain", 0), ("triton", 2)])
def test_a_run_that_was_begun_with_the_former_flag_kernels_continues_if_it_was_plain(
    finished_run, two_folds, tmp_path, capsys, recorded, code
):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    final = run / "fold_1" / "checkpoint_final.pt"
    content = torch.load(final, weights_only=True)
    content["config"]["train"]["kernels"] = recorded
    torch.save(content, final)
    assert train(two_folds, run, "--save_every", "1", "--fold", "1", "--kernels", "plain") == code
    out, err = capsys.readouterr()
    assert "--kernels plain has no effect" in out and ("kernels: triton before, plain now" in err) is (code == 2)


def test_the_former_triton_kernels_are_refused_with_the_reason(two_folds, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train(two_folds, tmp_path / "run", "--kernels", "triton")
    assert ended.value.code == 2 and "--kernels triton: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
