"""DarkIR on a CUDA device against the literal form of the published network: time, memory and error of each variant.

  python -m bench.bench_gpu [--sizes m l] [--batch 8] [--side 384] [--warm_up 20] [--steps 50] [--cudnn_benchmark]

Two workloads, the forward pass and the full training step (forward, L1, backward, fused AdamW). All variants have the same
weights and see the same four sets of images in rotation, in one process, called in turn (A B C A B C); times are CUDA
events, median and distance of the quartiles. The reference is timed twice: by how much its two rows differ says how exact
the table is. Memory is what a variant adds at its peak, from its first step on. Errors are distances to the reference in
float64, for the output and for the worst parameter's gradient. Every variant runs with the TF32 flags that are printed.
A second table times single operators. Markdown on stdout, for bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import functools
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from bench.gpu_operators import HEADER as OPERATOR_HEADER
from bench.gpu_operators import operator_rows
from bench.measure import Values, errors, median_and_spread, table, values
from bench.reference_darkir import ReferenceDarkIR, make_reference
from darkir import DarkIR, NetworkConfig
from darkir.architectures import MODEL_SIZES

SETS = 4
HEADER = (
    "variant", "median ms", "IQR ms", "times the reference", "allocated GB", "reserved GB", "output error", "worst gradient error",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """What is computed (`reference` or `plain`), under which autocast, and how it is compiled."""

    name: str
    kind: str
    dtype: torch.dtype | None = None
    compile_mode: str | None = None


BF16 = torch.bfloat16
VARIANTS = (
    Variant("reference", "reference"),
    Variant("reference, autocast bfloat16", "reference", BF16),
    Variant("plain", "plain"),
    Variant("plain, compiled", "plain", None, "default"),
    Variant("plain, CUDA graphs", "plain", None, "reduce-overhead"),
    Variant("plain, bfloat16", "plain", BF16),
    Variant("plain, bfloat16, compiled", "plain", BF16, "default"),
    Variant("plain, bfloat16, CUDA graphs", "plain", BF16, "reduce-overhead"),
    Variant("reference, again", "reference"),
)


@dataclass(frozen=True)
class Workload:
    """`batch` images of `side` x `side` through a network of `width`, restored or learned from."""

    width: int
    batch: int
    side: int
    training: bool


@dataclass
class Runner:
    """A variant with its weights and inputs on the device, and what was measured of it."""

    variant: Variant
    workload: Workload
    forward: nn.Module
    network: nn.Module
    sets: list[tuple[torch.Tensor, torch.Tensor]]
    optimizer: torch.optim.Optimizer
    seconds: list[float] = field(default_factory=list)
    memory: tuple[int, int] | None = None
    errors: tuple[float, float | None] | None = None
    failure: str | None = None

    def restore(self, src: torch.Tensor) -> torch.Tensor:
        with torch.autocast(src.device.type, self.variant.dtype, enabled=self.variant.dtype is not None):
            output = self.forward(src)
        return output[0] if isinstance(output, tuple) else output

    def step(self, number: int) -> None:
        """One forward pass, or one update."""
        src, tar = self.sets[number % SETS]
        if self.variant.compile_mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        if not self.workload.training:
            with torch.no_grad():
                self.restore(src)
            return
        self.optimizer.zero_grad(set_to_none=True)
        F.l1_loss(self.restore(src).float(), tar).backward()
        self.optimizer.step()


def main(argv: list[str] | None = None) -> int:
    """Print the tables; 2 without a CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=["m", "l"], default=["m", "l"], help="networks")
    parser.add_argument("--batch", type=int, default=8, help="images at a time")
    parser.add_argument("--side", type=int, default=384, help="pixels of an image's side")
    parser.add_argument("--warm_up", type=int, default=20, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=50, help="timed steps a variant")
    parser.add_argument("--cudnn_benchmark", action="store_true", help="let cuDNN choose its kernels by timing them")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.stderr.write(
            "error: bench_gpu measures a CUDA device, and this machine has none; make bench is for the CPU\n"
        )
        return 2
    device = torch.device("cuda")
    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    print(conditions(device))
    for size in args.sizes:
        for training in (False, True):
            workload = Workload(MODEL_SIZES["darkir"][size].width, args.batch, args.side, training)
            name = "full step" if training else "forward"
            text = compare(workload, VARIANTS, device, args.warm_up, args.steps)
            print(f"\nDarkIR-{size}, {name}, batch {args.batch}, {args.side} x {args.side}:\n\n{text}", flush=True)
            torch.compiler.reset()
    rows = operator_rows(device, args.batch, args.side, lambda call: timed(call, device), args.warm_up, args.steps)
    print(f"\nOperators, batch {args.batch}:\n\n{table(OPERATOR_HEADER, rows)}")
    return 0


def compare(workload: Workload, variants: Sequence[Variant], device: torch.device, warm_up: int, steps: int) -> str:
    """The table of one workload; the first variant must be the reference. What fails gets a row that says so."""
    weights, runners, exact = make_reference(workload.width).state_dict(), [], None
    for variant in variants:
        runner = make_runner(variant, workload, weights, device)
        try:
            exact = exact or exact_values(runner)
            prepare(runner, exact, warm_up)
        except (torch.OutOfMemoryError, torch._dynamo.exc.TorchDynamoException) as error:
            runner.failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
        runners.append(runner)
    working = [runner for runner in runners if runner.failure is None]
    for number in range(steps):
        for runner in working:
            runner.seconds.append(timed(functools.partial(runner.step, number), device))
    reference = statistics.median(runners[0].seconds) if runners[0].seconds else None
    return table(HEADER, [row(runner, reference) for runner in runners])


def make_runner(variant: Variant, workload: Workload, weights: dict, device: torch.device) -> Runner:
    """The variant on its device."""
    sets = image_sets(workload, device)
    if variant.kind == "reference":
        network: nn.Module = ReferenceDarkIR(workload.width)
    else:
        network = DarkIR(NetworkConfig(width=workload.width)).to(memory_format=torch.channels_last)
        sets = [tuple(image.contiguous(memory_format=torch.channels_last) for image in pair) for pair in sets]
    network.load_state_dict(weights)
    network = network.to(device)
    compiled = variant.compile_mode is not None
    forward = torch.compile(network, fullgraph=True, dynamic=False, mode=variant.compile_mode) if compiled else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
    return Runner(variant, workload, forward, network, sets, optimizer)


def image_sets(workload: Workload, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Smooth images with noise, darker and not, (batch, 3, side, side) float32 in [0, 1]."""
    torch.manual_seed(1)
    shape = (workload.batch, 3, workload.side, workload.side)
    sets = []
    for _ in range(SETS):
        tar = F.interpolate(torch.rand(workload.batch, 3, 12, 12), size=shape[-2:], mode="bicubic").clamp(0, 1)
        src = (0.5 * tar + 0.02 * torch.randn(shape)).clamp(0, 1)
        sets.append((src.to(device), tar.to(device)))
    return sets


def exact_values(runner: Runner) -> Values:
    """The reference's in float64, image by image: a whole batch would not fit."""
    exact = copy.deepcopy(runner)
    exact.forward = exact.network = exact.network.double()
    src, tar = (image.double() for image in runner.sets[0])
    parts = [
        values(exact.network, exact.restore, one, other, runner.workload.training)
        for one, other in zip(src.split(1), tar.split(1), strict=True)
    ]
    gradients = {name: sum(part[name] for _, part in parts) / len(parts) for name in parts[0][1]}
    return torch.cat([output for output, _ in parts]), gradients


def prepare(runner: Runner, exact: Values, warm_up: int) -> None:
    """Errors first, before the weights change; then warm up (FFT plans, graphs). Notes the memory that all of it adds."""
    device = runner.sets[0][0].device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    found = values(runner.network, runner.restore, *runner.sets[0], runner.workload.training)
    runner.errors = errors(found, exact)
    del found
    for number in range(warm_up):
        runner.step(number)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        runner.memory = peak[0] - before[0], peak[1] - before[1]


def timed(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call: between CUDA events, or on the wall."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def row(runner: Runner, reference: float | None) -> list[str]:
    """A line of the table; reference: its seconds, None when it failed."""
    if runner.failure:
        return [runner.variant.name, f"failed: {runner.failure}", *[""] * (len(HEADER) - 2)]
    median, spread = median_and_spread(runner.seconds)
    times = [f"{1000 * median:.2f}", f"{1000 * spread:.2f}", "" if reference is None else f"{reference / median:.2f}"]
    memory = ["not measured"] * 2 if runner.memory is None else [f"{size / 1e9:.2f}" for size in runner.memory]
    return [runner.variant.name, *times, *memory, *("" if error is None else f"{error:.1e}" for error in runner.errors)]


def conditions(device: torch.device) -> str:
    """Device, versions, date and the flags that decide what a float32 convolution is."""
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    flags = f"cudnn.allow_tf32 {cudnn}, matmul.allow_tf32 {matmul}"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        flags += f", Triton {importlib.metadata.version('triton')}"
    return (
        f"{torch.cuda.get_device_name(device)}; torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}, cudnn.benchmark {torch.backends.cudnn.benchmark}, {flags}; "
        f"{datetime.date.today()}"
    )


if __name__ == "__main__":
    sys.exit(main())
