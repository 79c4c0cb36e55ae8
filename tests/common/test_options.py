"""What the scripts say of a flag that they do not know, of a value that they cannot use, and of a flag that does nothing."""

import json

import pytest

import create_data_splits
import enhance_photos
import evaluate_darkir_test
import export_model
import prepare_fivek_robust
import train_darkir_cv
from engine.training import plans
from tests.helpers.exits import exit_code
from tests.helpers.photos import write_pairs
from tests.helpers.train_runs import train

SCRIPTS = (
    create_data_splits,
    enhance_photos,
    evaluate_darkir_test,
    export_model,
    prepare_fivek_robust,
    train_darkir_cv,
)
SPLIT = ("--data_splits_dir", "x")


def lines_of(capsys, script, *argv) -> list[str]:
    assert exit_code(script.main, *argv) == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_mistyped_flag_is_two_lines_with_what_was_meant(script, capsys):
    # Nothing else is given, so that every flag that must be is missing as well.
    wanted = "--output" if script in (enhance_photos, export_model) else "--output_dir"
    first, second = lines_of(capsys, script, f"{wanted}s", "x")
    assert first == f"error: unrecognized arguments: {wanted}s"
    assert second.startswith(f"Did you mean {wanted}? All options: ") and second.endswith(" --help")


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["--batch-size", "4"], "--batch_size?"),
        (["--EPOCHS=4"], "--epochs?"),
        (["\u2013epochs", "4"], "--epochs?"),
        (["-epochs", "4"], "--epochs?"),
        (["--patience", "4"], "--early_stopping_patience?"),
        (["--learning_rate", "1"], "--lr or "),
        (["--model_size", "M"], "--model_size m?"),
        (["--epochs", "1O"], "--epochs: passes over the training pairs"),
        (["--epochs"], "--epochs: passes over the training pairs"),
        (["--mixed_precision", "true"], "No option takes 'true' as its value."),
        (["--zzz"], "All options: "),
    ],
)
def test_what_was_meant(argv, meant, capsys):
    _, second = lines_of(capsys, train_darkir_cv, *SPLIT, *argv)
    assert meant in second


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([*SPLIT, "--mix_ratio", "0.5"], "--mix_ratio has no effect without --mix_jsonl"),
        ([*SPLIT, "--amp_dtype", "bf16"], "--amp_dtype has no effect without --mixed_precision"),
        ([*SPLIT, "--val_ratio", "0.1"], "--val_ratio belongs to --train_jsonl"),
        (["--train_jsonl", "x", "--val_jsonl", "y", "--val_ratio", "0.1"], "without --val_jsonl"),
        (["--train_jsonl", "x", "--n_folds", "3"], "--n_folds belongs to --data_splits_dir"),
    ],
)
def test_a_flag_without_the_one_that_it_needs_is_refused_whatever_its_value(argv, named, capsys):
    assert named in lines_of(capsys, train_darkir_cv, *argv)[0]


def test_a_flag_that_does_nothing_beside_the_others_is_named_in_the_log(two_folds, finished_run, tmp_path, capsys):
    flags = ["--allow_seen_validation", "--near_duplicates", "report", "--save_every", "1"]
    assert train(two_folds, finished_run, *flags, "--cache", "off", "--cache_dir", "x") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if " is not used: " in line]
    for name in ("allow_seen_validation", "near_duplicates", "cache_dir"):
        assert any(note.startswith(f"Note: --{name} is not used: ") for note in notes), name
    rows = write_pairs(tmp_path / "photos", 4)
    argv = ["--input_jsonl", rows, "--output_dir", tmp_path / "split", "--test_size", "3", "--n_folds", "1"]
    assert exit_code(create_data_splits.main, *argv, "--audit") == 0
    assert capsys.readouterr().out.count("is not used: --audit makes no split") == 2


def test_a_run_that_began_with_a_flag_that_did_nothing_continues_without_it(two_folds, tmp_path, monkeypatch, capsys):
    def as_earlier_versions_recorded(plan, options, requested=plans.requested_config):
        config = requested(plan, options)
        return json.loads(json.dumps(config)) | {"data": {**config["data"], "mix_ratio": 0.25}}

    with monkeypatch.context() as patch:
        patch.setattr("engine.training.run.requested_config", as_earlier_versions_recorded)
        assert train(two_folds, tmp_path, "--fold", "1", epochs=1) == 0
    assert train(two_folds, tmp_path, "--fold", "1", epochs=1) == 0
    assert "finished before, skipped" in capsys.readouterr().out


def test_sizes_that_single_photos_do_not_allow_are_not_blamed_on_what_must_stay_together(tmp_path, capsys):
    rows = write_pairs(tmp_path, 6)
    argv = ["--input_jsonl", rows, "--output_dir", tmp_path / "split", "--n_folds", "2"]
    assert exit_code(create_data_splits.main, *argv, "--test_size", "5") == 0
    out = capsys.readouterr().out
    assert "Test: 4 pairs in 4 units (wanted 5; training and validation need the other 2 pairs)" in out
    assert "stay together" not in out
