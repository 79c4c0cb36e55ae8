"""train_darkir_cv.py run again: finished, stopped, torn, resumed, changed, in use. What continues ends as if never stopped."""

import json
import shutil
import subprocess
import sys

import pytest

from darkir.checkpoint_file import read_checkpoint
from tests.helpers.lock_holder import locked_by_another
from tests.helpers.paths import ROOT
from tests.helpers.train_runs import SMALL, assert_same_results, stop_at, train


def test_a_finished_run_is_skipped_and_not_touched(finished_run, two_folds, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.glob("fold_*/*.pt")}
    assert train(two_folds, finished_run, "--save_every", "1") == 0
    assert capsys.readouterr().out.count("finished before, skipped") == 2
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.glob("fold_*/*.pt")}


@pytest.mark.parametrize("poll", [1, 2, 3, 5, 8])
def test_a_stopped_run_continues_to_the_same_result(finished_records, two_folds, tmp_path, monkeypatch, poll):
    with monkeypatch.context() as patch:
        stop_at(patch, poll)
        assert train(two_folds, tmp_path, "--save_every", "1") == 75
    if poll == 1:  # asked after the first update: stopped there, in the middle of the epoch
        assert read_checkpoint(tmp_path / "fold_1" / "checkpoint_last.pt")["step"] == 1
    assert train(two_folds, tmp_path, "--save_every", "1") == 0
    assert_same_results(finished_records, tmp_path)


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
    assert train(two_folds, tmp_path / "three", "--fold", "1", "--resume", str(best), epochs=1) == 0
    assert "holds weights only: a new run starts from them" in capsys.readouterr().out


def test_changed_options_are_refused_by_name(finished_run, two_folds, capsys):
    assert train(two_folds, finished_run, "--save_every", "1", "--lr", "3e-4", "--grad_clip", "2") == 2
    errors = capsys.readouterr().err
    assert "lr: 0.0001 before, 0.0003 now" in errors and "grad_clip: 1.0 before, 2.0 now" in errors
    assert "--overwrite" in errors


def test_overwrite_discards_the_former_run(finished_run, two_folds, tmp_path):
    shutil.copytree(finished_run, tmp_path / "copy")
    assert train(two_folds, tmp_path / "copy", "--overwrite", "--lr", "3e-4", epochs=1) == 0
    assert len(json.loads((tmp_path / "copy" / "fold_1" / "history.json").read_text())) == 1
    assert not (tmp_path / "copy" / "fold_1" / "checkpoint_epoch_2.pt").exists()


def test_a_second_run_in_the_same_folder_is_refused(two_folds, tmp_path, capsys):
    with locked_by_another(tmp_path / "fold_1") as owner:
        assert train(two_folds, tmp_path, epochs=1) == 2
        assert f"in use by process {owner.pid}" in capsys.readouterr().err
    assert train(two_folds, tmp_path, epochs=1) == 0
