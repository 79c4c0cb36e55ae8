"""DarkIR-m against the literal form of the published network, on the CPU: time, memory and error of each variant.

  python -m bench.bench_network [--compile] [--rounds 7]

Two workloads: inference of one 256 x 256 photo, and a full training step (forward, L1, backward, AdamW) on two 128 x 128
crops. All variants have the same weights and see the same photos of data/sample, four sets in rotation; they are called in
turn in one process. The reference is timed twice: by how much its two rows differ says how exact the table is. Errors are
distances to the reference in float64, for the output and for the worst parameter's gradient. The last tables repeat the
others with memory kept, as the scripts have it: `times the reference` is still against the reference without that.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from bench.measure import SAMPLE, Values, errors, machine, peaks, table, time_in_turn, values
from bench.reference_darkir import ReferenceDarkIR, make_reference
from darkir import DarkIR, NetworkConfig
from data.images import decode
from data.manifest import read_pairs
from engine.runtime import keep_freed_memory

SETS = 4
HEADER = ("variant", "wall ms", "IQR", "CPU ms", "times the reference", "peak MB", "error")


@dataclass(frozen=True)
class Variant:
    """A network and the memory format that it and its inputs have."""

    name: str
    network: nn.Module
    memory_format: torch.memory_format = torch.contiguous_format

    def restore(self, x: torch.Tensor) -> torch.Tensor:
        output = self.network(x.contiguous(memory_format=self.memory_format))
        return output[0] if isinstance(output, tuple) else output


@dataclass(frozen=True)
class Workload:
    """What is timed: `side` x `side` photos, `batch` at a time, restored or learned from."""

    name: str
    side: int
    batch: int
    training: bool


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="also measure the compiled network; takes minutes more")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls a variant")
    parser.add_argument("--width", type=int, default=32, help="32: DarkIR-m, 64: DarkIR-l")
    parser.add_argument("--side", type=int, default=256, help="side of the photo to restore; training crops have half")
    args = parser.parse_args(argv)
    print(machine())
    workloads = (Workload("Inference", args.side, 1, False), Workload("Training step", args.side // 2, 2, True))
    cpus, base = len(os.sched_getaffinity(0)), {}
    for threads, kept in [(threads, False) for threads in sorted({1, cpus})] + [(cpus, True)]:
        torch.set_num_threads(threads)
        if kept:
            keep_freed_memory(torch.device("cpu"))
        for workload in workloads:
            variants = make_variants(args.width, args.compile and not kept)
            text, seconds = compare(workload, variants, args.rounds, base.get((workload, threads)))
            base[workload, threads] = seconds
            title = f"{workload.name}, {workload.side} x {workload.side}, batch {workload.batch}, threads: {threads}"
            print(f"\n{title}{', memory kept' if kept else ''}\n\n{text}", flush=True)


def make_variants(width: int, compiled: bool) -> list[Variant]:
    """The reference, ours in both memory formats and, when requested, compiled; then the reference again."""
    reference = make_reference(width)
    ours = DarkIR(NetworkConfig(width=width))
    ours.load_state_dict(reference.state_dict())
    last = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    variants = [
        Variant("reference", reference),
        Variant("ours", ours),
        Variant("ours, channels_last", last, torch.channels_last),
    ]
    if compiled:
        network = torch.compile(copy.deepcopy(last), fullgraph=True)
        variants.append(Variant("ours, channels_last, --compile", network, torch.channels_last))
    return [*variants, Variant("reference, again", copy.deepcopy(reference))]


def compare(workload: Workload, variants: list[Variant], rounds: int, base: float | None = None) -> tuple[str, float]:
    """The table of one workload at the present number of threads, and the reference's median seconds.

    base: seconds that `times the reference` refers to, when not those of the table's own reference.
    """
    exact = first_values(Variant("float64", copy.deepcopy(variants[0].network).double()), workload, torch.float64)
    # Before any call changes the weights.
    texts = {variant.name: error_text(first_values(variant, workload), exact) for variant in variants}
    calls = {variant.name: make_call(variant, workload) for variant in variants}
    costs = time_in_turn(calls, rounds)
    memory = peaks(calls)
    base = base or costs["reference"].median
    rows = [
        [name, *cost.columns(0), f"{base / cost.median:.2f}", f"{memory[name] / 1e6:.0f}", texts[name]]
        for name, cost in costs.items()
    ]
    return table(HEADER, rows), costs["reference"].median


def first_values(variant: Variant, workload: Workload, dtype: torch.dtype = torch.float32) -> Values:
    """Output for the first set of photos and, in training, the gradient of each parameter by name."""
    src, tar = (photos.to(dtype) for photos in photo_sets(workload.side, workload.batch)[0])
    return values(variant.network, variant.restore, src, tar, workload.training)


def error_text(found: Values, exact: Values) -> str:
    output, gradient = errors(found, exact)
    return f"output {output:.1e}" + ("" if gradient is None else f", gradient {gradient:.1e}")


def make_call(variant: Variant, workload: Workload) -> Callable[[int], None]:
    """One inference or one training step on a set of photos, given by number."""
    sets = photo_sets(workload.side, workload.batch)
    # Ours as engine/training/updates/learner.py has it, the reference with torch's defaults.
    fused = not isinstance(variant.network, ReferenceDarkIR)
    optimizer = torch.optim.AdamW(variant.network.parameters(), lr=1e-6, fused=fused)

    def infer(number: int) -> None:
        with torch.inference_mode():
            variant.restore(sets[number % SETS][0])

    def learn(number: int) -> None:
        src, tar = sets[number % SETS]
        optimizer.zero_grad(set_to_none=True)
        F.l1_loss(variant.restore(src), tar).backward()
        optimizer.step()

    return learn if workload.training else infer


def photo_sets(side: int, batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """SETS pairs of source and target, (batch, 3, side, side) float32 in [0, 1], each of other photos of the sample."""

    def photos(paths: list[Path]) -> torch.Tensor:
        images = [Image.fromarray(decode(path)).resize((side, side), Image.Resampling.BICUBIC) for path in paths]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() / 255

    pairs, total = read_pairs(SAMPLE), SETS * batch
    chosen = [pairs[number * len(pairs) // total] for number in range(total)]
    parts = [chosen[start : start + batch] for start in range(0, total, batch)]
    return [(photos([pair.src_path for pair in part]), photos([pair.tar_path for pair in part])) for part in parts]


if __name__ == "__main__":
    main()
