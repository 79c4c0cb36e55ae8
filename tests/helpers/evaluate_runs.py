"""Runs of evaluate_darkir_test.py in this process, and what they need: photos, and three tiny fold models."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate_darkir_test
from common.files import write_jsonl
from darkir.architectures import NetworkConfig
from darkir.network import DarkIR
from engine import checkpoint
from engine.provenance import Seen
from tests.helpers.exits import refusal

CONFIG = NetworkConfig(width=8)
METRICS = ("psnr", "ssim", "l1")
# Two sizes, so that batches mix; two stems that collide once case and folder are gone, and one that takes the number.
PHOTOS = {
    "a/1_src.png": (48, 40),
    "b/1_SRC.png": (48, 40),
    "a/1_src_2.png": (40, 48),
    "a/dark_src.png": (48, 40),
    "a/light_src.png": (48, 40),
}


@pytest.fixture(scope="session")
def three_folds(tmp_path_factory):
    """Photos with their test.jsonl, and cv/, the output folder of a three-fold run; `own_folds` is a copy to change."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.Generator(np.random.PCG64(5))
    rows = []
    for number, (src, (width, height)) in enumerate(PHOTOS.items()):
        ramp = np.linspace(0.1, 0.6 + 0.08 * number, width)[None, :, None] * np.linspace(0.6, 1, height)[:, None, None]
        tar = (ramp * [1.0, 0.9, 0.8] + rng.normal(0, 0.03, (height, width, 3))).clip(0, 1)
        save_png(folder / src, tar * 0.6)
        save_png(folder / tar_of(src), tar)
        rows.append({"src": src, "tar": tar_of(src)})
    write_jsonl(folder / "test.jsonl", rows)
    for fold in (1, 2, 3):
        save_fold(folder / "cv", fold, noisy_network(fold))
    return folder


@pytest.fixture
def own_folds(three_folds, tmp_path):
    """A copy of `three_folds` that a test may change."""
    return Path(shutil.copytree(three_folds, tmp_path / "world"))


def tar_of(src):
    """The name of a photo's target."""
    return src.replace("_src", "_tar").replace("_SRC", "_TAR")


def save_png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(path)


def noisy_network(seed, brightness=0.2):
    """A network that brightens, differs with its seed, and leaves [0, 1] at places."""
    torch.manual_seed(seed)
    network = DarkIR(CONFIG).eval()
    with torch.no_grad():
        network.ending.bias += brightness + 0.03 * seed
        for name, parameter in network.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter += 0.1 * torch.randn_like(parameter)
    return network


def save_weights(path, network, **facts):
    checkpoint.save(path, checkpoint.weights_content(network, CONFIG, **facts))


def save_fold(cv_dir, fold, network, seen=None, resolution=64, finished=True):
    facts = {
        "data": (seen or Seen(own=frozenset({f"digest {fold}"}))).as_plain(),
        "config": {"data": {"resolution": resolution, "fit": "crop"}},
        "fold": fold,
    }
    folder = cv_dir / f"fold_{fold}"
    save_weights(folder / checkpoint.BEST, network, metrics={"psnr": 20.5, "ssim": 0.8, "l1": 0.1}, epoch=7, **facts)
    if finished:
        save_weights(folder / checkpoint.FINAL, network, finished={"fold": fold}, scores=[], history=[], **facts)


def argv(world, output, *more, models=None):
    """Evaluate the fold models of `world`, or others, on its photos."""
    models = ["--cv_dir", world / "cv"] if models is None else models
    return [*models, "--test_jsonl", world / "test.jsonl", "--output_dir", output, "--num_workers", 0, *more]


def run(world, output, *more, models=None):
    """The script's exit code."""
    return evaluate_darkir_test.main([str(argument) for argument in argv(world, output, *more, models=models)])


def refused(capsys, world, output, *more, models=None):
    """The message of a run that must end with exit code 2, with nothing written."""
    message = refusal(capsys, evaluate_darkir_test.main, *argv(world, output, *more, models=models))
    assert not output.exists()
    return message


def results_of(output):
    def no_constants(text):
        raise AssertionError(f"{text} is not strict JSON")

    return json.loads((output / "test_results.json").read_text(encoding="utf-8"), parse_constant=no_constants)


def rows_of(output):
    with (output / "per_image.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def floats(path):
    return np.asarray(Image.open(path), dtype=np.float64) / 255
