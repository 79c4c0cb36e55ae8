"""DarkIR beside Restormer, its baseline: parameters, operations, time and memory. Prints Markdown tables.

  python -m bench.bench_architectures [--rounds 5]

GMACs: multiply-adds of convolutions and matrix products for one 256 x 256 photo, as torch's FLOP counter sees them in the
published form; DarkIR's Fourier transforms and everything elementwise are not in it. Times on the CPU: one 128 x 128 photo,
float32; medians, the networks in turn in one process. A training step is forward, L1, backward and AdamW. Memory: the peak
of a step on top of weights and moments. `recomputed`: with --checkpoint_activations. The GPU table needs CUDA: steps in
bfloat16, batch 1.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import machine, peaks, table, time_in_turn
from bench.reference_darkir import ReferenceDarkIR
from darkir import DarkIR
from darkir.architectures import MODEL_SIZES, title
from darkir.blocks import recompute_activations
from darkir.weights import Network, make_network

SIDE, COUNTED_SIDE = 128, 256
GPU_SIDES, GPU_ROUNDS = (384, 896), 20
HEADER = ("network", "parameters", "GMACs", "inference", "step", "memory", "step, recomputed", "memory, recomputed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each")
    args = parser.parse_args()
    print(machine(), f"{torch.get_num_threads()} threads\n", sep="; ", flush=True)
    torch.manual_seed(0)
    configs = [MODEL_SIZES[arch][size] for arch in MODEL_SIZES for size in ("m", "l")]
    networks = {title(config): make_network(config).to(memory_format=torch.channels_last) for config in configs}
    print(on_cpu(networks, args.rounds), flush=True)
    print("\n" + (on_gpu(networks) if torch.cuda.is_available() else "On the GPU, at 384 and 896: not measured"))


def on_cpu(networks: dict[str, Network], rounds: int) -> str:
    """The first table, a row for each network."""
    operations = {name: gmacs(network) for name, network in networks.items()}
    infer = {name: partial(restore, network, photo(SIDE)) for name, network in networks.items()}
    inference = time_in_turn(infer, rounds, warm_up=1)
    both = {(name, lean): step_of(network, SIDE, lean) for name, network in networks.items() for lean in (False, True)}
    steps = time_in_turn(both, rounds, warm_up=1)
    memory = peaks(both)
    rows = []
    for name, network in networks.items():
        parameters = sum(parameter.numel() for parameter in network.parameters())
        row = [name, f"{parameters:,}", f"{operations[name]:.1f}", f"{1000 * inference[name].median:.0f} ms"]
        for lean in (False, True):
            row += [f"{1000 * steps[name, lean].median:.0f} ms", f"{memory[name, lean] / 1e6:.0f} MB"]
        rows.append(row)
    return table(HEADER, rows)


def on_gpu(networks: dict[str, Network]) -> str:
    """Milliseconds and peak memory of a training step on the GPU, a row for each network and size of photo."""
    rows = []
    for name, network in networks.items():
        for side in GPU_SIDES:
            cells = [gpu_cell(network, side, lean) for lean in (False, True)]
            rows.append([name, f"{side} x {side}", *cells])
    return table((torch.cuda.get_device_name(), "photo", "step, peak memory", "recomputed"), rows)


def gpu_cell(network: Network, side: int, lean: bool) -> str:
    """`31 ms, 4.2 GB`; `out of memory` where a step does not fit."""
    torch.cuda.empty_cache()
    step = step_of(network, side, lean, torch.device("cuda"))
    times = []
    try:
        for number in range(GPU_ROUNDS + 3):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            step(number)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    except torch.OutOfMemoryError:
        return "out of memory"
    return f"{1000 * statistics.median(times[3:]):.0f} ms, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"


def gmacs(network: Network) -> float:
    """Billions of multiply-adds for one photo of COUNTED_SIDE."""
    published = ReferenceDarkIR(network.config.width) if isinstance(network, DarkIR) else network
    with FlopCounterMode(display=False) as counter:
        restore(published, photo(COUNTED_SIDE), 0)
    return counter.get_total_flops() / 2e9


def photo(side: int, device: torch.device | None = None) -> torch.Tensor:
    """(1, 3, side, side) in [0, 1], channels_last."""
    return torch.rand(1, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)


def restore(network: nn.Module, x: torch.Tensor, _: int) -> None:
    with torch.no_grad():
        network(x)


def step_of(network: Network, side: int, lean: bool, device: torch.device | None = None) -> Callable[[int], None]:
    """A training step on a copy of the network, as a function of the round; 16-bit on the GPU."""
    network = copy.deepcopy(network).to(device)
    if lean:
        recompute_activations(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    src, tar = photo(side, device), photo(side, device)

    def step(_: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=src.is_cuda):
            restored = network(src)
        F.l1_loss(restored.float(), tar).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
