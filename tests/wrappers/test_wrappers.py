"""train_darkir.sh and train_with_pretrain.sh under plain bash: order, settings, rerun, refusals. Slurm: tests/slurm/."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.photos import darker, scene
from tests.helpers.wrapper_desk import EVALUATE, FIVEK, ROOT, SPLIT, TRAIN, options

SAMPLE = ROOT / "data" / "sample"
TINY = {
    "MODEL_SIZE": "tiny",
    "RESOLUTION": "16",
    "EPOCHS": "1",
    "BATCH_SIZE": "8",
    "NUM_WORKERS": "0",
    "TEST_SIZE": "6",
    "MIXED_PRECISION": "0",
    "PYTHON": sys.executable,
    "INPUT_JSONL": str(SAMPLE / "pairs.jsonl"),
}


def test_shellcheck_finds_nothing():
    program = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    wrappers = ["train_darkir.sh", "train_with_pretrain.sh"]
    ended = subprocess.run([program, "-x", "-a", *wrappers], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.long
def test_both_chains_on_real_photos(desk):
    for name in ("data_splits", "my outputs", "test_results"):  # links to scratch space, as clusters want it
        (desk.folder / "scratch" / name).mkdir(parents=True)
        (desk.folder / name).symlink_to(desk.folder / "scratch" / name)
    code, out, err = desk.run("train_darkir.sh", "--lambda_vgg", "0", N_FOLDS="2", OUTPUT_DIR="my outputs", **TINY)
    assert code == 0, err
    assert "===== Done: test_results/report.html" in out

    photos = [(darker(scene(number, 120, 90)), scene(number, 120, 90)) for number in range(1, 9)]
    held_out = json.loads((desk.folder / "data_splits" / "test.jsonl").read_text().splitlines()[0])
    # Found before the pre-training, or the fine-tuning would refuse its weights.
    photos.append(tuple(np.array(Image.open(SAMPLE / held_out[side]))[:, ::-1] for side in ("src", "tar")))
    for number, pair in enumerate(photos, start=1):
        for image, place in zip(pair, ("input", "c"), strict=True):
            target = desk.folder / "fivek_dataset" / place / f"a{number:04d}-photo.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(target)
    fivek = {"FIVEK_OPTIONS": "--min_resolution 64 --val_ratio 0.3 --workers 1", "PRETRAIN_EPOCHS": "1"}
    settings = {**TINY, **fivek, "PRETRAIN_RESOLUTION": "16", "N_FOLDS": "1", "SPLITS_DIR": "single split"}
    settings["BASELINE"] = "test_results/test_results.json"
    code, out, err = desk.run("train_with_pretrain.sh", "--lambda_vgg", "0", **settings)
    assert code == 0, out + err
    assert (desk.folder / "outputs_finetuned_from_fivek" / "checkpoint_best.pt").exists()
    excluded = (desk.folder / "outputs_fivek_pretrained" / "excluded.jsonl").read_text().splitlines()
    assert [json.loads(line)["held_out"] for line in excluded] == [held_out["src"]]
    assert "Starting from outputs_fivek_pretrained/checkpoint_best.pt" in out
    results = json.loads((desk.folder / "test" / "finetuned_from_fivek" / "test_results.json").read_text())
    assert results["comparison"]


def test_settings_and_arguments_reach_the_steps(desk):
    settings = {
        "N_FOLDS": "2",
        "LR": "3e-4",
        "SPLITS_DIR": "my splits",
        "OUTPUT_DIR": "my models",
        "RESULTS_DIR": "my results",
    }
    settings |= {
        "SEED": "7",
        "GROUP_KEY": "property",
        "BASE_DIR": "my photos",
        "DEVICE": "cpu",
        "EVALUATION_OPTIONS": "--tta --batch_size 2",
    }
    code, _, err = desk.run("train_darkir.sh", "--ema_decay", "0.5", **settings)
    assert code == 0, err
    assert desk.scripts() == [SPLIT, TRAIN, EVALUATE]
    split, train, evaluate = map(options, desk.calls())
    assert split | {"input_jsonl": "my pairs.jsonl", "base_dir": "my photos", "n_folds": "2", "seed": "7"} == split
    assert split["group_key"] == "property" and "group_key" not in train | evaluate, "who reads the split knows its key"
    assert train["data_splits_dir"] == split["output_dir"] == "my splits"
    assert (
        train | {"lr": "3e-4", "resolution": "384", "epochs": "100", "mixed_precision": True, "device": "cpu"} == train
    )
    assert train["base_dir"] == evaluate["base_dir"] == "my photos" and train["ema_decay"] == "0.5"
    assert evaluate["cv_dir"] == train["output_dir"] == "my models" and evaluate["output_dir"] == "my results"
    assert evaluate["test_jsonl"] == "my splits/test.jsonl" and evaluate["tta"] and evaluate["batch_size"] == "2"


def test_the_chain_from_fivek_has_the_settings_of_the_guide(desk):
    code, _, err = desk.run(
        "train_with_pretrain.sh", "--ema_decay", "0.5", BASELINE_L1="0.0514", INPUT_JSONL="", INPUT_DIR="p"
    )
    assert code == 0, err
    assert desk.scripts() == [SPLIT, FIVEK, TRAIN, TRAIN, EVALUATE]
    split, fivek, pretrain, finetune, evaluate = map(options, desk.calls())
    assert split["input_dir"] == "p" and "input_jsonl" not in split
    assert fivek | {"fivek_dir": "fivek_dataset", "output_dir": "fivek_processed", "expert": "C"} == fivek
    first = (
        "resolution=512 batch_size=8 epochs=30 lr=5e-5 warmup_epochs=5 early_stopping_patience=10 preprocess=light_aug"
    )
    second = "resolution=896 batch_size=4 epochs=100 lr=1e-5 warmup_epochs=5 early_stopping_patience=15"
    for call, wanted in ((pretrain, first), (finetune, second)):
        assert call | dict(pair.split("=") for pair in wanted.split()) == call
        assert call["ema_decay"] == "0.5"
    assert (
        pretrain["train_jsonl"] == "fivek_processed/train.jsonl"
        and pretrain["output_dir"] == "outputs_fivek_pretrained"
    )
    assert pretrain["exclude_splits_dir"] == split["output_dir"] and "exclude_splits_dir" not in finetune
    assert finetune["pretrained_path"] == "outputs_fivek_pretrained/checkpoint_best.pt"
    assert finetune["output_dir"] == evaluate["cv_dir"] == "outputs_finetuned_from_fivek"
    assert evaluate["output_dir"] == "test/finetuned_from_fivek" and evaluate["baseline_l1"] == "0.0514"


@pytest.mark.parametrize("stage", [[], ["--stage", "pretrain"]])
def test_what_the_folds_hold_out_is_kept_from_the_pretraining_wherever_the_photos_lie(desk, stage):
    for base in ({}, {"BASE_DIR": "copy of the photos"}):
        assert desk.run("train_with_pretrain.sh", *stage, SPLITS_DIR="my split", **base)[0] == 0
        pretrain = next(call for call in map(options, desk.calls()) if call["output_dir"] == "outputs_fivek_pretrained")
        assert pretrain["exclude_splits_dir"] == "my split" and "base_dir" not in pretrain
        desk.log.unlink()


def test_a_rerun_prepares_nothing_twice_and_compares_what_is_there(desk):
    assert desk.run("train_with_pretrain.sh")[0] == 0
    code, out, _ = desk.run("train_with_pretrain.sh")
    assert code == 0 and "FiveK: fivek_processed is complete" in out
    assert desk.scripts()[5:] == [TRAIN, TRAIN, EVALUATE]
    assert desk.checks() == 2
    other = {"FIVEK_EXPERT": "A", "FIVEK_LIMIT": "9", "FIVEK_OPTIONS": "--jpeg_quality 90", "STUB_ENDS": f"{FIVEK}=2"}
    code, _, err = desk.run("train_with_pretrain.sh", **other)
    call = options(desk.calls()[-1])
    assert code == 2 and "FIVEK_OUTPUT" in err and call["check"]
    assert call | {"expert": "A", "limit": "9", "jpeg_quality": "90"} == call
    before = len(desk.scripts())
    (desk.folder / "weights.pt").touch()
    assert desk.run("train_with_pretrain.sh", PRETRAINED_PATH="weights.pt", FIVEK_EXPERT="B")[0] == 0
    assert desk.scripts()[before:] == [TRAIN, EVALUATE]


def test_one_fold_is_a_single_run_at_the_top_of_its_folder(desk):
    assert desk.run("train_with_pretrain.sh", N_FOLDS="1")[0] == 0
    *_, finetune, evaluate = map(options, desk.calls())
    rows = {name: finetune[f"{name}_jsonl"] for name in ("train", "val", "test")}
    assert rows == {
        "train": "data_splits/fold_1/train.jsonl",
        "val": "data_splits/fold_1/val.jsonl",
        "test": "data_splits/test.jsonl",
    }
    assert evaluate["checkpoint"] == "outputs_finetuned_from_fivek/checkpoint_best.pt"


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["--n_folds", "5"], {}, "--n_folds: set"),
        (["--output_dir=x"], {}, "--output_dir: set"),
        (["--exclude_splits_dir", "x"], {}, "--exclude_splits_dir: set SPLITS_DIR"),
        ([], {"N_FOLDS": "three"}, "N_FOLDS=three"),
        ([], {"INPUT_JSONL": ""}, "set INPUT_JSONL or INPUT_DIR"),
        ([], {"BASELINE": "other/test_results.json"}, "BASELINE=other/test_results.json is missing"),
        ([], {"PYTHON": "no such python"}, "PYTHON=no such python"),
        ([], {"SLURM_ARRAY_TASK_ID": "0"}, "counted from 1 to N_FOLDS=3"),
        # --array=0-3: not task 0 alone, or the others would wait for it and nobody would evaluate
        ([], {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "3"}, "--array=1-3"),
        ([], {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "4"}, "--array=1-3"),
        (
            [],
            {"OUTPUT_DIR": "my pairs.jsonl/x"},
            "OUTPUT_DIR=my pairs.jsonl/x cannot be made: my pairs.jsonl is no folder",
        ),
        ([], {"SPLITS_DIR": "nowhere/"}, "SPLITS_DIR=nowhere/ cannot be made: nowhere is no folder"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(desk, arguments, settings, message):
    (desk.folder / "my pairs.jsonl").touch()
    (desk.folder / "nowhere").symlink_to("gone")
    for wrapper in ("train_darkir.sh", "train_with_pretrain.sh"):
        code, _, err = desk.run(wrapper, *arguments, **settings)
        assert code == 2 and message in err and err.count("\n") == 1
    assert desk.calls() == []


@pytest.mark.parametrize("name", ["PRETRAIN_OPTIONS", "FINETUNE_OPTIONS"])
@pytest.mark.parametrize("flag", ["--output_dir", "--pretrained_path", "--fold"])
def test_options_that_only_the_wrapper_may_set_are_refused_wherever_they_stand(desk, name, flag):
    code, _, err = desk.run("train_with_pretrain.sh", **{name: f"--ema_decay 0.5 {flag} 1"})
    assert code == 2 and f"{flag}: set" in err and desk.calls() == []
    code, _, err = desk.run("train_with_pretrain.sh", FIVEK_OPTIONS="--output_dir x")
    assert code == 2 and "FIVEK_OUTPUT" in err and desk.calls() == []


def test_python_may_be_a_command_with_arguments(desk):
    words = f"env {sys.executable} {ROOT / 'tests' / 'helpers' / 'stub_python.py'}"
    assert desk.run("train_darkir.sh", PYTHON=words)[0] == 0
    assert desk.scripts() == [SPLIT, TRAIN, EVALUATE]


@pytest.fixture
def split_of_two(desk):
    """A split of two folds in data_splits, as create_data_splits.py records it."""
    record = {
        "seed": 7,
        "n_folds": 2,
        "config": {"input_jsonl": "train.jsonl", "test_size": 3, "n_folds": 2, "seed": 7},
    }
    folder = desk.folder / "data_splits"
    folder.mkdir()
    (folder / "split_metadata.json").write_text(json.dumps(record, indent=2))
    return desk


@pytest.mark.parametrize("wrapper", ["train_darkir.sh", "train_with_pretrain.sh"])
def test_a_split_that_is_there_decides_what_is_not_named(split_of_two, wrapper):
    weights = {"PRETRAINED_PATH": split_of_two.stub}
    code, out, err = split_of_two.run(wrapper, INPUT_JSONL="", **weights)
    assert code == 0, err
    assert split_of_two.scripts() == [TRAIN, EVALUATE] and "N_FOLDS=2, as the split in data_splits has it" in out
    assert options(split_of_two.calls()[0])["n_folds"] == "2" and options(split_of_two.calls()[0])["seed"] == "42"
    split_of_two.log.unlink()
    named = {"N_FOLDS": "2", "TEST_SIZE": "3", "SEED": "7"}
    assert split_of_two.run(wrapper, **weights)[0] == split_of_two.run(wrapper, **weights, **named)[0] == 0
    for check in (call for call in split_of_two.calls() if call["script"] == SPLIT):
        assert options(check) | {"test_size": "3", "n_folds": "2", "seed": "7", "check": True} == options(check)


@pytest.mark.parametrize(
    ("name", "value", "there"), [("N_FOLDS", "1", "2"), ("TEST_SIZE", "10", "3"), ("SEED", "42", "7")]
)
def test_settings_that_the_split_does_not_have_are_refused(split_of_two, name, value, there):
    for wrapper, more in (("train_darkir.sh", []), ("train_with_pretrain.sh", ["--submit"])):
        code, _, err = split_of_two.run(wrapper, *more, **{"INPUT_JSONL": "", name: value})
        assert (
            code == 2 and f"{name}={value}, but the split in data_splits was made with {there}: leave {name} out" in err
        )
    assert split_of_two.calls() == []


def test_the_guides_rows_are_the_input_when_none_is_named(desk):
    code, _, err = desk.run("train_darkir.sh", INPUT_JSONL="")
    assert code == 2 and "no train_cleaned.jsonl and no train.jsonl is here" in err
    for name in ("train.jsonl", "train_cleaned.jsonl"):  # the second is preferred
        (desk.folder / name).touch()
        code, out, err = desk.run("train_darkir.sh", INPUT_JSONL="", SPLITS_DIR=f"split of {name}")
        assert code == 0 and f"INPUT_JSONL={name}: no input is named" in out, err
        assert options([call for call in desk.calls() if call["script"] == SPLIT][-1])["input_jsonl"] == name
    before = desk.checks()
    assert desk.run("train_darkir.sh", INPUT_JSONL="", SPLITS_DIR="split of train.jsonl")[0] == 0
    assert desk.checks() == before + 1, "the split was made from it"
    record = desk.folder / "split of train.jsonl" / "split_metadata.json"
    record.write_text(record.read_text().replace("train.jsonl", "other.jsonl"))
    assert desk.run("train_darkir.sh", INPUT_JSONL="", SPLITS_DIR="split of train.jsonl")[0] == 0
    assert desk.checks() == before + 1, "a split of other rows is used as it is"


@pytest.mark.parametrize("wrapper", ["train_darkir.sh", "train_with_pretrain.sh"])
def test_help_prints_every_setting_with_its_default(desk, wrapper):
    code, out, err = desk.run(wrapper, "--help")
    assert (code, err, desk.calls()) == (0, "", [])
    text = "".join((ROOT / name).read_text() for name in (wrapper, "slurm/settings.sh", "slurm/job.sh"))
    settings = re.findall(r'"\$\{([A-Z0-9_]+):=(.*?)\}"', text)
    assert len(settings) >= 25 and "bash train_" in out and "SBATCH --" not in out
    for name, default in settings:
        assert re.search(rf"^  {name}={re.escape(default)}\s+\w", out, re.MULTILINE), name
