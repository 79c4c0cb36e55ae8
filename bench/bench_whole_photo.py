"""Whole photos through DarkIR-m on the CPU: time, peak memory and error of one pass and of strips.

  python -m bench.bench_whole_photo [--rounds 3] [--height 1000 --width 1504] [--kept] [--full_size]

Each run is a process of its own, so that its peak memory is its own; the variants take turns, and a table shows medians.
The peak is the process's resident memory, with the libraries, the weights and the photo; how much of it restoring takes is a
column of its own, in MiB and in residual streams (width x pixels, float32). The error is the largest difference to the
reference's output. --kept measures with the scripts' setting of the allocator (engine.runtime.keep_freed_memory), by
default it is Python's own. --full_size restores one photo of 6000 x 4000 pixels in strips instead.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.measure import ROOT, SAMPLE, machine, peak_memory, table
from bench.reference_darkir import make_reference
from darkir import DarkIR, NetworkConfig
from darkir.strips import restore_in_strips
from data.images import decode
from data.manifest import read_pairs
from engine.inference import stream_bytes
from engine.runtime import keep_freed_memory

REFERENCE, ONE_PASS, STRIPS = "reference, one pass", "ours, one pass", "ours, strips"
VARIANTS = (REFERENCE, ONE_PASS, STRIPS)
FULL_SIZE = (4000, 6000)
MIB = 2**20
HEADER = ("variant", "wall s", "CPU s", "of these system", "peak MiB", "restoring takes MiB", "streams", "max. error")


def photo(height: int, width: int) -> torch.Tensor:
    """A photo of the sample, enlarged, with fine noise: (1, 3, height, width) in [0, 1]."""
    image = Image.fromarray(decode(read_pairs(SAMPLE)[0].src_path))
    pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    return noise.add_(torch.from_numpy(pixels).permute(2, 0, 1) / 255).clamp_(0, 1)


def make_network(variant: str) -> torch.nn.Module:
    """DarkIR-m or the reference, with the same random weights in every process."""
    reference = make_reference(32)
    if variant == REFERENCE:
        return reference
    network = DarkIR(NetworkConfig())
    network.load_state_dict(reference.state_dict())
    return network.to(memory_format=torch.channels_last)  # as the scripts have it


def run_once(variant: str, height: int, width: int, output: Path) -> dict[str, float]:
    """Restore one photo, save the output, and tell what it cost in this process."""
    network, x = make_network(variant), photo(height, width)
    run: dict[str, float] = {}
    restored = []

    def restore(image: torch.Tensor) -> torch.Tensor:
        if variant == STRIPS:
            return restore_in_strips(network, image)
        return network(image)[0] if variant == REFERENCE else network(image)

    def timed() -> None:
        before, start = os.times(), time.perf_counter()
        restored.append(restore(x))
        run["wall"], after = time.perf_counter() - start, os.times()
        run["system"] = after.system - before.system
        run["cpu"] = run["system"] + after.user - before.user

    with torch.inference_mode():
        restore(x[..., :64, :64])  # what is made once: kernels, imports
        run["taken"] = peak_memory(timed)
    run["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    np.save(output, restored[0].numpy())
    return run


def run_in_process(variant: str, height: int, width: int, kept: bool, output: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.bench_whole_photo", "--worker", variant, "--output", str(output)]
    command += ["--height", str(height), "--width", str(width), *(["--kept"] if kept else [])]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def row_of(name: str, runs: list[dict[str, float]], height: int, width: int, error: str) -> list[str]:
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    stream = stream_bytes(DarkIR(NetworkConfig()), torch.empty(1, 3, height, width, device="meta"))
    times = [f"{median[key]:.1f}" for key in ("wall", "cpu", "system")]
    memory = [f"{median[key] / MIB:.0f}" for key in ("peak", "taken")]
    return [name, *times, *memory, f"{median['taken'] / stream:.1f}", error]


def compare(height: int, width: int, kept: bool, rounds: int) -> list[list[str]]:
    """One table row a variant: medians of `rounds` runs in turn."""
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        outputs = {variant: Path(folder) / f"{number}.npy" for number, variant in enumerate(VARIANTS)}
        for _ in range(rounds):
            for variant in VARIANTS:
                runs[variant].append(run_in_process(variant, height, width, kept, outputs[variant]))
        restored = {variant: np.load(path) for variant, path in outputs.items()}
    errors = {variant: np.abs(restored[variant] - restored[REFERENCE]).max() for variant in VARIANTS}
    return [row_of(name, runs[name], height, width, f"{errors[name]:.1e}") for name in VARIANTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant")
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--width", type=int, default=1504)
    parser.add_argument("--kept", action="store_true", help="with the scripts' setting of the allocator")
    parser.add_argument("--full_size", action="store_true", help="one photo of 6000 x 4000 pixels, strips only")
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        if args.kept:
            keep_freed_memory(torch.device("cpu"))
        print(json.dumps(run_once(args.worker, args.height, args.width, args.output)))
        return
    print(f"{machine()}; {torch.get_num_threads()} threads\n")
    height, width = FULL_SIZE if args.full_size else (args.height, args.width)
    print(f"DarkIR-m, float32, one photo of {width} x {height} pixels\n")
    if args.full_size:
        with tempfile.TemporaryDirectory() as folder:
            run = run_in_process(STRIPS, height, width, args.kept, Path(folder) / "restored.npy")
        print(table(HEADER, [row_of(STRIPS, [run], height, width, "not measured")]))
    else:
        print(table(HEADER, compare(height, width, args.kept, args.rounds)))


if __name__ == "__main__":
    main()
