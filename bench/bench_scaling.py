"""How time and memory grow with pixels, batch and number of pairs, on the CPU: tables, fitted exponents and a plot.

  python -m bench.bench_scaling [--plot docs/scaling.png]

Inference and a full training step (forward, L1, backward, AdamW) of DarkIR-m for growing photos and growing batches, and
whole epochs of a small network through the loader for growing numbers of pairs. An exponent of 1 is linear growth; it is
fitted over the larger half of the sizes, because a call's fixed cost hides the growth at small ones.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

from bench.bench_network import Variant, Workload, make_call
from bench.measure import ROOT, SAMPLE, machine, peaks, table, time_in_turn
from darkir import DarkIR, NetworkConfig
from data.dataset import TrainingPairs
from data.fingerprint import fingerprint_pairs
from data.loader import BatchKeys, EpochPlan, training_batches
from data.manifest import Pair, read_pairs
from engine.distributed import World
from engine.runtime import choose_precision, keep_freed_memory
from engine.training.config import TrainConfig
from engine.training.updates.execution import Stepper, train_step
from engine.training.updates.learner import make_learner
from losses.config import LossConfig
from losses.objective import Objective

SMALL = NetworkConfig(width=4, enc_blocks=(1, 1), middle_enc_blocks=1, middle_dec_blocks=1, dec_blocks=(1, 1))
CPU = torch.device("cpu")
KINDS = {True: "training step", False: "inference"}


@dataclass(frozen=True)
class Series:
    """One curve: seconds and, unless it was not measured, bytes at the peak for each of the sizes."""

    name: str
    size_name: str
    sizes: list[float]
    seconds: list[float]
    peak: list[int] | None = None

    def exponents(self) -> str:
        """The slopes of time and memory over the larger half of the sizes, both axes logarithmic."""
        texts = [f"time grows as {self.size_name}^{_slope(self.sizes, self.seconds):.2f}"]
        if self.peak is not None:
            texts.append(f"memory as {self.size_name}^{_slope(self.sizes, self.peak):.2f}")
        return f"{self.name}: {', '.join(texts)}"

    def rows(self) -> list[list[str]]:
        """A line for each size: time, time a unit of size, peak."""
        peaks = [f"{bytes_ / 1e6:.0f}" for bytes_ in self.peak] if self.peak is not None else ["-"] * len(self.sizes)
        return [
            [self.name, f"{size:.4g}", f"{1000 * seconds:.0f}", f"{1000 * seconds / size:.0f}", peak]
            for size, seconds, peak in zip(self.sizes, self.seconds, peaks, strict=True)
        ]


def _slope(sizes: list[float], values: list[float]) -> float:
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(values[half:]), 1)[0])


def over_pixels(network: DarkIR, sides: list[int], training: bool, rounds: int) -> Series:
    """One photo of side x side at a time, for each of the sides."""
    workloads = [Workload(f"{side} x {side}", side, 1, training) for side in sides]
    megapixels = [side * side / 1e6 for side in sides]
    return Series(f"{KINDS[training]}, batch 1", "megapixels", megapixels, *_costs(network, workloads, rounds))


def over_batch(network: DarkIR, side: int, batches: list[int], training: bool, rounds: int) -> Series:
    """Photos of side x side, for each of the batch sizes."""
    workloads = [Workload(f"batch {batch}", side, batch, training) for batch in batches]
    name = f"{KINDS[training]}, {side} x {side}"
    return Series(name, "batch", [float(batch) for batch in batches], *_costs(network, workloads, rounds))


def _costs(network: DarkIR, workloads: list[Workload], rounds: int) -> tuple[list[float], list[int]]:
    """Median seconds and peak bytes of each workload."""
    variant = Variant("ours", network.to(memory_format=torch.channels_last), torch.channels_last)
    calls = {workload.name: make_call(variant, workload) for workload in workloads}
    costs = time_in_turn(calls, rounds, warm_up=1)
    network.zero_grad(set_to_none=True)
    return [cost.median for cost in costs.values()], [*peaks(calls).values()]


def over_pairs(counts: list[int], resolution: int, batch_size: int, rounds: int) -> Series:
    """Epochs of the small network over that many pairs, decoded anew each time: loader and updates as in a training run."""
    sample = fingerprint_pairs(read_pairs(SAMPLE))
    calls = {count: _epoch((sample * -(-count // len(sample)))[:count], resolution, batch_size) for count in counts}
    seconds = [cost.median for cost in time_in_turn(calls, rounds, warm_up=1).values()]
    return Series(f"epoch, small network, {resolution} x {resolution}", "pairs", [float(n) for n in counts], seconds)


def _epoch(pairs: list[Pair], resolution: int, batch_size: int) -> Callable[[int], None]:
    config, precision = TrainConfig(epochs=1, batch_size=batch_size), choose_precision(CPU, False, "auto")
    learner = make_learner(DarkIR(SMALL).to(memory_format=torch.channels_last), precision, config)
    objective = Objective(LossConfig(lambda_vgg=0, lambda_ssim=0), CPU)
    dataset = TrainingPairs(pairs, resolution, "crop", "light_aug", config.seed)
    keys = BatchKeys(EpochPlan(len(pairs), batch_size, 1), config.seed, 1, 0, 0, 1)
    stepper = Stepper(learner, objective, precision, World(), config.grad_clip)

    def run(_: int) -> None:
        for batch in training_batches(dataset, keys, num_workers=0, pin=False):
            train_step(stepper, [batch], 0, config.lr).result()

    return run


def advice(step: Series) -> str:
    """One line for choosing batch and resolution, from the largest training step."""
    megapixels, peak = step.sizes[-1], step.peak[-1]
    return (
        f"Cost follows batch_size x resolution^2 alone: a step takes {step.seconds[-1] / megapixels:.1f} s and "
        f"{peak / megapixels / 1e9:.1f} GB a megapixel here. Take the resolution that the photos need, then the largest "
        "batch that fits; --accumulate_steps stands in for the rest."
    )


def plot(panels: list[list[Series]], path: Path) -> None:
    """One panel a kind of size, logarithmic axes; dotted lines grow linearly. Writes a PNG."""
    figure = Figure(figsize=(3 * len(panels), 2.8), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for series in panel:
            (line,) = axes.loglog(series.sizes, series.seconds, marker="o", markersize=3, label=series.name)
            linear = [series.seconds[-1] * size / series.sizes[-1] for size in series.sizes]
            axes.loglog(series.sizes, linear, ":", linewidth=1, color=line.get_color())
        sizes = panel[0].sizes
        axes.set_xticks(sizes, labels=[f"{size:.2g}" if size < 1 else f"{size:g}" for size in sizes], fontsize=6)
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.tick_params(which="both", labelsize=6)
        axes.minorticks_off()
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.set_xlabel(panel[0].size_name)
        axes.set_ylabel("seconds")
        axes.legend(fontsize=6)
    figure.savefig(path, dpi=90)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "scaling.png", help="where the plot goes")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls a size")
    parser.add_argument("--width", type=int, default=32, help="of the network; 32: DarkIR-m")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 96, 128, 192, 256, 320])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batch_side", type=int, default=96, help="side of the photos in batches")
    parser.add_argument("--pairs", type=int, nargs="+", default=[16, 32, 64, 128])
    args = parser.parse_args(argv)
    keep_freed_memory(CPU)  # as the scripts do
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    print(machine())
    network = DarkIR(NetworkConfig(width=args.width))
    panels = [
        [over_pixels(network, args.sides, training, args.rounds) for training in KINDS],
        [over_batch(network, args.batch_side, args.batches, training, args.rounds) for training in KINDS],
        [over_pairs(args.pairs, resolution=64, batch_size=8, rounds=args.rounds)],
    ]
    for panel in panels:
        header = ("", panel[0].size_name, "ms", f"ms / {panel[0].size_name}", "peak MB")
        print(f"\n{table(header, [row for series in panel for row in series.rows()])}\n")
        print("\n".join(series.exponents() for series in panel))
    print(f"\n{advice(panels[0][0])}")
    plot(panels, args.plot)


if __name__ == "__main__":
    main()
