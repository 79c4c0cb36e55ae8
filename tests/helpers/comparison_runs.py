"""Runs of evaluate_darkir_test.py on gray photos whose metrics are known by hand, and a baseline's folder to compare with."""

import math
import random

import pytest
import torch
from PIL import Image

import evaluate_darkir_test
from common.files import write_csv, write_json, write_jsonl
from darkir.network import DarkIR
from data.fingerprint import fingerprint_pairs, set_digest
from data.manifest import read_pairs
from tests.helpers import evaluate_runs
from tests.helpers.exits import refusal

COLUMNS = ["src", "model", "psnr", "ssim", "l1"]
COLOUR = {"delta_e": 9.0, "delta_e_p95": 11.0, "clipped_percent": 0.0, "crushed_percent": 0.25}
SIDE = 16
SRC = 100
# The network adds nothing, so its L1 on each gray photo is this difference, in code values.
OURS = {f"{letter}_src.png": step for letter, step in zip("abcdef", (20, 25, 30) * 2, strict=True)}
THEIRS = {src: {20: (20.0, 0.7, 24), 25: (19.0, 0.8, 31), 30: (18.5, 0.6, 33)}[step] for src, step in OURS.items()}


@pytest.fixture(scope="session")
def gray_pairs(tmp_path_factory):
    """Six gray pairs, each of its own width (equal pictures would be one unit), and a model that leaves photos as they are."""
    folder = tmp_path_factory.mktemp("world")
    rows = []
    for width, (src, step) in enumerate(OURS.items(), start=SIDE):
        tar = src.replace("src", "tar")
        Image.new("RGB", (width, SIDE), (SRC,) * 3).save(folder / src)
        Image.new("RGB", (width, SIDE), (SRC + step,) * 3).save(folder / tar)
        rows.append({"src": src, "tar": tar})
    write_jsonl(folder / "test.jsonl", rows)
    save_model(folder / "best.pt", 0)
    return folder


@pytest.fixture
def other_results(gray_pairs, tmp_path):
    """A baseline's folder, as another network's evaluation leaves it: two folds, their ensemble, and no DarkIR anywhere."""
    return write_baseline(tmp_path / "other", gray_pairs)


def save_model(path, added):
    """A network that adds `added` code values to every pixel."""
    network = DarkIR(evaluate_runs.CONFIG).eval()
    with torch.no_grad():
        network.ending.weight.zero_()
        network.ending.bias.fill_(added / 255)
    data = {"own": ["some digest"], "earlier": [], "known": True, "sources": []}
    config = {"data": {"resolution": SIDE, "fit": "crop"}}
    evaluate_runs.save_weights(path, network, epoch=7, data=data, config=config)


def write_baseline(folder, world, values=THEIRS, settings=None, colour=COLOUR):
    """The results folder of another network on the photos of `world`, with the metrics in `values`.

    colour: those of every photo; without them it is as an earlier version wrote it.
    """
    columns = [*COLUMNS, *colour]
    ensemble = [
        {"src": src, "model": "ensemble", "psnr": psnr, "ssim": ssim, "l1": step / 255, **colour}
        for src, (psnr, ssim, step) in values.items()
    ]
    rows = [{**row, "model": model, "l1": 0.9} for row in ensemble for model in ("identity", "one", "two")]
    means = {name: math.fsum(row[name] for row in ensemble) / len(ensemble) for name in columns[2:]}
    summaries = {name: {"mean": mean, "std": 0.1, "ci95": [mean, mean]} for name, mean in means.items()}
    rows = [*rows, *ensemble]
    random.Random(3).shuffle(rows)
    write_csv(folder / "per_image.csv", columns, rows)
    results = {
        "schema_version": 1,
        "test_digest": set_digest([pair.row for pair in fingerprint_pairs(read_pairs(world / "test.jsonl"))]),
        "n": len(values),
        "models": [{"name": "one", "epoch": 12, "network": "Restormer"}, {"name": "two", "network": "Restormer"}],
        "ensemble": summaries,
        "folds": [{"model": "one", **summaries}, {"model": "two", **summaries}],
        "identity": summaries,
        "settings": settings or {"resolution": SIDE, "fit": "crop"},
    }
    write_json(folder / "test_results.json", results)
    return folder


def run(world, output, *flags):
    """The script's exit code, with best.pt on the photos of `world`."""
    return evaluate_runs.run(world, output, *flags, models=["--checkpoint", world / "best.pt"])


def refused(capsys, world, output, *flags):
    """The message of such a run that must end with exit code 2."""
    argv = evaluate_runs.argv(world, output, *flags, models=["--checkpoint", world / "best.pt"])
    return refusal(capsys, evaluate_darkir_test.main, *argv)
