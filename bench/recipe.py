"""Which recipe reaches the better photo in the same time? The same fold and photos, a grid of recipes, several seeds; Markdown.

  python -m bench.recipe --pairs pairs.jsonl [--epochs 10] [--resolution 64] [--model_size m] [--seeds 1 2 3] [--only lr]

Every run is train_darkir_cv.py on fold 1 of three; `plain loop` is what a user would write around the published network with the
guide's rate: random crops, L1, AdamW with a cosine, no average, no clipping. A run's score is its best validation PSNR. The
difference to the guide's recipe is paired, photo by photo over the mean of the seeds, with an interval over units.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

import create_data_splits
from bench.measure import ROOT, machine, table
from bench.reference_darkir import make_reference
from common.files import write_json
from darkir import DarkIR
from darkir.architectures import MODEL_SIZES
from darkir.checkpoint_file import read_checkpoint
from data.dataset import EvaluationPairs, SampleKey, TrainingPairs, decoded_pair
from data.manifest import read_pairs
from data.units import unit_names
from engine.intervals import paired_difference
from engine.metrics import photo_records

GUIDE, PLAIN = "the guide's (lr 1e-4)", "plain loop, published network, lr 1e-4"
HALF_FIRST = "half first"  # no flag of the script: see toolkit_run
GRID: dict[str, tuple[str, ...]] = {
    GUIDE: (),
    "lr 3e-4": ("--lr", "3e-4"),
    "lr 1e-3": ("--lr", "1e-3"),
    "lr 2e-3": ("--lr", "2e-3"),
    "lr 1e-3, average decay 0.99": ("--lr", "1e-3", "--ema_decay", "0.99"),
    "lr 1e-3, no average": ("--lr", "1e-3", "--ema_decay", "0"),
    "lr 1e-3, half the batch": ("--lr", "1e-3", "--batch_size", "4"),
    "lr 1e-3, weight decay 1e-2": ("--lr", "1e-3", "--weight_decay", "1e-2"),
    "lr 1e-3, first half of the epochs at half the resolution": ("--lr", "1e-3", HALF_FIRST),
    PLAIN: (),
}
HEADER = ("recipe", "best PSNR, dB", "over seeds", "to the guide's, dB", "seconds to the guide's best", "seconds")


@dataclass(frozen=True)
class Outcome:
    """One run: PSNR (dB) and seconds from the start after each epoch, and the PSNR of each photo at its best epoch, by source."""

    psnr: list[float]
    seconds: list[float]
    photos: dict[str, float]

    def seconds_to(self, target: float) -> float | None:
        """Seconds until an epoch reached `target` dB; None when none did."""
        reached = (seconds for psnr, seconds in zip(self.psnr, self.seconds, strict=True) if psnr >= target)
        return next(reached, None)


@dataclass(frozen=True)
class Task:
    """The fold that all runs train, and how long."""

    splits: Path
    base_dir: Path
    model_size: str
    resolution: int
    epochs: int
    batch_size: int
    device: str

    def rows(self, name: str) -> Path:
        return self.splits / "fold_1" / f"{name}.jsonl"


def main(argv: list[str] | None = None) -> None:
    """Train the grid and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="pairs JSONL, with groups where photos share a scene")
    parser.add_argument("--model_size", default="m", choices=["m", "l", "tiny"], help="the network")
    parser.add_argument("--resolution", type=int, default=384, help="as of train_darkir_cv.py")
    parser.add_argument("--epochs", type=int, default=100, help="the budget of every run")
    parser.add_argument("--batch_size", type=int, default=8, help="pairs in a batch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one run each")
    parser.add_argument("--only", nargs="+", help="recipes whose name holds one of these; the guide's always runs")
    parser.add_argument("--side_by_side", type=int, default=1, help="runs at a time; with several, seconds say little")
    parser.add_argument("--device", default="auto", help="as of train_darkir_cv.py")
    parser.add_argument("--output", type=Path, help="JSON of every run, written anew after each")
    args = parser.parse_args(argv)
    names = [name for name in GRID if name == GUIDE or not args.only or any(word in name for word in args.only)]
    with tempfile.TemporaryDirectory() as folder:
        splits = Path(folder) / "splits"
        flags = ["--input_jsonl", str(args.pairs), "--output_dir", str(splits), "--n_folds", "3"]
        if create_data_splits.main(flags):
            raise SystemExit(2)
        task = Task(
            splits, args.pairs.parent, args.model_size, args.resolution, args.epochs, args.batch_size, args.device
        )
        outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in names}

        def run(name: str, seed: int) -> None:
            output = Path(folder) / f"{names.index(name)}_{seed}"
            train = plain_loop if name == PLAIN else toolkit_run
            outcomes[name][seed] = train(task, GRID[name], seed, output)
            if args.output is not None:
                write_json(
                    args.output,
                    {name: {str(seed): vars(one) for seed, one in by.items()} for name, by in outcomes.items()},
                )

        with ThreadPoolExecutor(args.side_by_side) as pool:
            # By seeds, so that a table that is cut short has a bit of everything.
            for done in [pool.submit(run, name, seed) for seed in args.seeds for name in names]:
                done.result()
        pairs = read_pairs(task.rows("val"), task.base_dir)
    size = f"DarkIR-{args.model_size}, {args.epochs} epochs, {args.resolution} x {args.resolution}, batch {args.batch_size}"
    print(f"{args.pairs.parent.name}: {size}, seeds {args.seeds}; {machine()}\n")
    units = dict(zip([pair.src for pair in pairs], unit_names(pairs), strict=True))
    print(table(HEADER, [row(name, outcomes, units) for name in names]))


def toolkit_run(task: Task, flags: tuple[str, ...], seed: int, output: Path) -> Outcome:
    """One run of train_darkir_cv.py; `flags` come last, so that they win. With HALF_FIRST two, of which the second is scored."""
    if HALF_FIRST in flags:
        small = dataclasses.replace(task, resolution=task.resolution // 2, epochs=task.epochs // 2)
        rest = tuple(flag for flag in flags if flag != HALF_FIRST)
        first = toolkit_run(small, rest, seed, output / "half")
        # Both have the same validation photos, of which neither learns.
        start = ("--pretrained_path", str(output / "half" / "checkpoint_best.pt"), "--allow_seen_validation")
        large = dataclasses.replace(task, epochs=task.epochs - small.epochs)
        second = toolkit_run(large, (*rest, *start), seed, output / "whole")
        return Outcome(second.psnr, [first.seconds[-1] + seconds for seconds in second.seconds], second.photos)
    words = [
        "--train_jsonl",
        task.rows("train"),
        "--val_jsonl",
        task.rows("val"),
        "--output_dir",
        output,
        "--seed",
        seed,
    ]
    words += [
        "--model_size",
        task.model_size,
        "--resolution",
        task.resolution,
        "--epochs",
        task.epochs,
        "--lambda_vgg",
        0,
    ]
    words += [
        "--batch_size",
        task.batch_size,
        "--early_stopping_patience",
        0,
        "--save_every",
        0,
        "--device",
        task.device,
    ]
    words += ["--base_dir", task.base_dir, "--num_workers", 0]
    ended = subprocess.run(
        [sys.executable, "train_darkir_cv.py", *(str(word) for word in [*words, *flags])],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ended.returncode:
        raise RuntimeError(f"{' '.join(flags)}: exit {ended.returncode}: {ended.stderr[-400:]}")
    history = [
        record for record in json.loads((output / "history.json").read_text(encoding="utf-8")) if record["epoch"]
    ]
    final = read_checkpoint(output / "checkpoint_final.pt")
    seconds = [sum(record["seconds"] for record in history[: number + 1]) for number in range(len(history))]
    return Outcome(
        [record["val_psnr"] for record in history], seconds, {score["src"]: score["psnr"] for score in final["scores"]}
    )


def plain_loop(task: Task, _: tuple[str, ...], seed: int, output: Path) -> Outcome:
    """The published network in a loop of its own, on the same crops."""
    torch.manual_seed(seed)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if task.device == "auto" else task.device)
    network = make_reference(MODEL_SIZES["darkir"][task.model_size].width)  # type: ignore[union-attr]
    network.load_state_dict(DarkIR(MODEL_SIZES["darkir"][task.model_size]).state_dict())  # type: ignore[arg-type]
    network = network.to(device)
    train, val = (read_pairs(task.rows(name), task.base_dir) for name in ("train", "val"))
    samples = TrainingPairs(train, task.resolution, "crop", "none", seed, decoded_pair)
    frames = EvaluationPairs(val, task.resolution, "crop", decoded_pair)
    updates = len(train) // task.batch_size
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.epochs * updates)
    psnr, seconds, best, spent = list[float](), list[float](), dict[str, float](), 0.0
    for epoch in range(task.epochs):
        started, order = time.monotonic(), torch.randperm(len(train)).tolist()
        for update in range(updates):
            chosen = order[update * task.batch_size : (update + 1) * task.batch_size]
            batch = [samples[SampleKey(epoch, number, index)] for number, index in enumerate(chosen)]
            src, tar = (
                torch.stack([sample[name] for sample in batch]).to(device).float() / 255 for name in ("src", "tar")
            )
            optimizer.zero_grad()
            F.l1_loss(network(src)[0], tar).backward()
            optimizer.step()
            schedule.step()
        spent += time.monotonic() - started
        scores = {}
        with torch.inference_mode():
            for pair, frame in zip(val, (frames[index] for index in range(len(val))), strict=True):
                src, tar = (frame[name][None].to(device).float() / 255 for name in ("src", "tar"))
                scores[pair.src] = photo_records(network(src)[0], tar, [pair], PLAIN)[0]["psnr"]
        psnr.append(statistics.mean(scores.values()))
        seconds.append(spent)
        best = scores if psnr[-1] == max(psnr) else best
    return Outcome(psnr, seconds, best)


def row(name: str, outcomes: dict[str, dict[int, Outcome]], units: dict[str, str]) -> list[str]:
    """A line of the table."""
    runs, guide = list(outcomes[name].values()), list(outcomes[GUIDE].values())
    best, target = [max(run.psnr) for run in runs], statistics.mean(max(run.psnr) for run in guide)
    reached = [run.seconds_to(target) for run in runs]
    known = [seconds for seconds in reached if seconds is not None]
    when = (
        f"{statistics.mean(known):.0f}" if len(known) == len(reached) else f"{len(known)} of {len(reached)} reached it"
    )
    mine, theirs = ([statistics.mean(run.photos[src] for run in each) for src in units] for each in (runs, guide))
    difference = paired_difference(theirs, mine, list(units.values()))
    interval = difference["ci95"]
    text = (
        ""
        if name == GUIDE
        else f"{difference['mean']:+.2f}" + ("" if interval is None else " [{:+.2f}, {:+.2f}]".format(*interval))
    )
    spread = f"{min(best):.2f} to {max(best):.2f}" if len(best) > 1 else ""
    total = statistics.mean(run.seconds[-1] for run in runs)
    assert math.isfinite(total)
    return [name, f"{statistics.mean(best):.2f}", spread, text, when, f"{total:.0f}"]


if __name__ == "__main__":
    main()
