"""--extend and --accept_changes: a run that is there goes on otherwise, recorded, and as exactly as any other run."""

import json
import shutil

import pytest

import train_darkir_cv
from darkir.checkpoint_file import read_checkpoint
from tests.helpers.exits import refusal
from tests.helpers.run_records import differences, run_records
from tests.helpers.train_runs import SMALL, assert_same_results, stop_at, train

EXTENDED = ["--save_every", "1", "--extend"]


def history_of(output, fold=1):
    return json.loads((output / f"fold_{fold}" / "history.json").read_text())


@pytest.fixture
def finished(finished_run, tmp_path):
    """A copy of the finished run of two folds that a test may change."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def extended(finished_run, two_folds, tmp_path_factory):
    """Both folds extended from two to four epochs, in one go."""
    output = shutil.copytree(finished_run, tmp_path_factory.mktemp("extended") / "run")
    assert train(two_folds, output, *EXTENDED, epochs=4) == 0
    return output


def test_an_extended_run_goes_on_with_a_fresh_schedule_and_says_so(finished_run, extended, two_folds, capsys):
    before, after = history_of(finished_run), history_of(extended)
    assert after[:2] == before and [record["epoch"] for record in after] == [1, 2, 3, 4]
    updates = read_checkpoint(extended / "fold_1" / "checkpoint_last.pt")["step"] // 4
    change = {"flag": "--extend", "epoch": 2, "update": 2 * updates, "options": {"epochs": [2, 4]}}
    assert [record.get("changes") for record in after] == [None, None, [change], None]
    # Cosine from 1e-4 to 1 % of it, once over epochs 1 and 2, once over 3 and 4; each record has the rate of its last update.
    assert [record["lr"] for record in after[2:]] == pytest.approx([record["lr"] for record in before])
    summary = json.loads((extended / "cv_summary.json").read_text())
    assert [(fold["epochs_run"], fold["changes"]) for fold in summary["folds"]] == [(4, [change])] * 2
    assert "--extend after epoch 2" in (extended / "report.html").read_text()
    best = max(after, key=lambda record: record["val_psnr"])["epoch"]
    assert (
        summary["folds"][0]["best_epoch"]
        == read_checkpoint(extended / "fold_1" / "checkpoint_best.pt")["epoch"]
        == best
    )
    log = (extended / "train.log").read_text()
    assert "a fresh schedule for epochs 3 to 4" in log and "Self-test" in log.split("a fresh schedule", 1)[1]
    for flags in (EXTENDED, EXTENDED[:2]):  # the same command again; and it is a run of four epochs now
        assert train(two_folds, extended, *flags, epochs=4) == 0
        out = capsys.readouterr().out
        assert out.count("finished before, skipped") == 2 and "was finished with" not in out


@pytest.mark.long
@pytest.mark.parametrize("moment", ["old last file still there", "state torn"])
def test_an_extension_that_was_stopped_ends_as_one_that_was_not(
    finished, extended, two_folds, monkeypatch, capsys, moment
):
    fold = finished / "fold_1"
    old_last_file = (fold / "checkpoint_final.pt").read_bytes()
    with monkeypatch.context() as patch:
        stop_at(patch, 1 if moment == "state torn" else 2)
        assert train(two_folds, finished, *EXTENDED, "--fold", "1", epochs=4) == 75
    assert not (fold / "checkpoint_final.pt").exists(), "an unfinished run counts as one"
    if moment == "state torn":
        for name in ("checkpoint_last.pt", "checkpoint_last.prev.pt"):
            (fold / name).write_bytes(b"torn")  # left: checkpoint_epoch_2.pt, of the run before it was extended
    else:
        (fold / "checkpoint_final.pt").write_bytes(old_last_file)  # as after a kill between the two
    assert train(two_folds, finished, *EXTENDED, "--fold", "1", epochs=4) == 0
    ours, theirs = ({name: v for name, v in run_records(o).items() if "fold_1/" in name} for o in (finished, extended))
    assert differences(ours, theirs) == []
    assert "Continuing fold 1" in capsys.readouterr().out


def test_what_cannot_be_extended_is_refused_before_anything_runs(
    finished, finished_run, two_folds, tmp_path, monkeypatch, capsys
):
    def refused(output, *flags, epochs):
        argv = [
            "--data_splits_dir",
            two_folds,
            "--output_dir",
            output,
            "--n_folds",
            2,
            "--epochs",
            epochs,
            *SMALL,
            *flags,
        ]
        return refusal(capsys, train_darkir_cv.main, *argv)

    assert "--extend, which lets epochs, lr, warmup_epochs differ" in refused(finished, epochs=4)
    assert "has run 2 epochs already" in refused(finished, "--extend", epochs=2)
    assert "use --extend" in refused(finished, "--accept_changes", epochs=4)
    assert "holds no state of a run" in refused(tmp_path / "new", "--extend", epochs=4)
    assert "grad_clip" in refused(finished, "--extend", "--grad_clip", "2", epochs=4)
    assert "discards it" in refused(finished, "--extend", "--overwrite", epochs=4)
    shutil.rmtree(finished / "fold_2")
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        assert train(two_folds, finished, "--save_every", "1") == 75
    assert "stands after epoch 0 of 2; finish it with --epochs 2" in refused(finished, "--extend", epochs=4)
    files = {path.name: path.read_bytes() for path in (finished / "fold_1").glob("*.*")}
    assert files == {path.name: path.read_bytes() for path in (finished_run / "fold_1").glob("*.*")}, (
        "fold 1 stays as it was"
    )


def test_accepted_changes_are_recorded_and_exact(two_folds, tmp_path, monkeypatch, capsys):
    one = ["--fold", "1", "--accumulate_steps", "1"]
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        assert train(two_folds, tmp_path / "a", *one, epochs=1) == 75
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = [
        "--fold",
        "1",
        "--batch_size",
        "1",
        "--accumulate_steps",
        "2",
        "--early_stopping_patience",
        "9",
        "--mixed_precision",
    ]
    capsys.readouterr()
    assert train(two_folds, tmp_path / "a", *other, epochs=2) == 2
    message = capsys.readouterr().err
    assert "batch_size: 2 before, 1 now" in message and "--accept_changes, which lets" in message
    other.append("--accept_changes")
    assert train(two_folds, tmp_path / "a", *other, "--accumulate_steps", "3", epochs=2) == 2
    assert "their product must stay the same" in capsys.readouterr().err
    assert train(two_folds, tmp_path / "a", *other, epochs=2) == 0
    change = history_of(tmp_path / "a")[0]["changes"][0]
    assert (change["flag"], change["epoch"], change["update"]) == ("--accept_changes", 0, 1)
    assert change["options"] == {
        "accumulate_steps": [1, 2],
        "batch_size": [2, 1],
        "early_stopping_patience": [15, 9],
        "epochs": [1, 2],
        "mixed_precision": [False, True],
    }
    assert (
        "--accept_changes after epoch 0 (update 1): accumulate_steps 1 -> 2, batch_size 2 -> 1"
        in capsys.readouterr().out
    )
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert train(two_folds, tmp_path / "b", *other, epochs=2) == 75
    assert train(two_folds, tmp_path / "b", *other, epochs=2) == 0
    assert_same_results(run_records(tmp_path / "a"), tmp_path / "b")
    assert train(two_folds, tmp_path / "b", *other, "--epochs", "1") == 0
    assert "it stays as it is" in capsys.readouterr().out


@pytest.mark.long
def test_more_patience_lets_a_run_that_stopped_early_go_on_with_its_schedule(two_folds, tmp_path, capsys):
    still = ["--fold", "1", "--lr", "1e-30"]  # no epoch after the first can be better
    assert train(two_folds, tmp_path, *still, "--early_stopping_patience", "1", epochs=4) == 0
    assert len(history_of(tmp_path)) == 2
    assert train(two_folds, tmp_path, *still, "--early_stopping_patience", "2", "--accept_changes", epochs=4) == 0
    assert len(history_of(tmp_path)) == 3
    # As with that patience from the beginning.
    whole = tmp_path / "whole"
    assert train(two_folds, whole, *still, "--early_stopping_patience", "2", epochs=4) == 0
    asides = {"changes", "seconds", "images_per_second"}
    plain, other = ([{k: v for k, v in r.items() if k not in asides} for r in history_of(p)] for p in (tmp_path, whole))
    assert plain == other
    # An early stop is an end as well: --extend goes on from there, also to the number of epochs that was planned.
    assert train(two_folds, whole, *still, "--early_stopping_patience", "2", "--extend", epochs=4) == 0
    assert [record["epoch"] for record in history_of(whole)] == [1, 2, 3, 4]
    assert read_checkpoint(whole / "fold_1" / "checkpoint_last.pt")["progress"]["epochs_without_gain"] == 1


@pytest.mark.long
def test_finished_folds_are_extended_while_others_take_the_new_number(two_folds, tmp_path, monkeypatch, capsys):
    assert train(two_folds, tmp_path, "--fold", "1", epochs=2) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        assert train(two_folds, tmp_path, "--fold", "2", epochs=2) == 75
    for flag in ("--extend", "--accept_changes"):
        assert train(two_folds, tmp_path, flag, epochs=3) == 2
    assert "--extend and --accept_changes together" in capsys.readouterr().err
    assert train(two_folds, tmp_path, "--extend", "--accept_changes", epochs=3) == 0
    finished = [read_checkpoint(tmp_path / f"fold_{fold}" / "checkpoint_final.pt")["finished"] for fold in (1, 2)]
    assert [fold["epochs_run"] for fold in finished] == [3, 3]
    assert [[change["flag"] for change in fold["changes"]] for fold in finished] == [["--extend"], ["--accept_changes"]]
