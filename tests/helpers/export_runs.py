"""Runs of export_model.py in this process, on a finished run of two folds, and what the exported file says."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import export_model


def argv_of(run, splits, output, *flags):
    words = ["--cv_dir", run, "--output", output, "--num_workers", 0, "--device", "cpu"]
    words += [] if splits is None else ["--test_jsonl", splits / "test.jsonl"]
    return [str(word) for word in (*words, *flags)]


def export(run, splits, output, *flags):
    return export_model.main(argv_of(run, splits, output, *flags))


@pytest.fixture(scope="module")
def exported(finished_run, two_folds, tmp_path_factory):
    """The folder of model.safetensors and its card."""
    folder = tmp_path_factory.mktemp("exported")
    assert export(finished_run, two_folds, folder / "model.safetensors") == 0
    return folder


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of `finished_run` that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def change(path, **entries):
    torch.save({**torch.load(path, weights_only=True), **entries}, path)


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def best_of(run):
    """The fold with the best recorded score."""
    summary = json.loads((run / "cv_summary.json").read_text(encoding="utf-8"))
    return "fold_{fold}".format(**max(summary["folds"], key=lambda fold: fold["best_psnr"]))


def contents_of(run):
    return {fold: torch.load(run / fold / "checkpoint_best.pt", weights_only=True) for fold in ("fold_1", "fold_2")}
