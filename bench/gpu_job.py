"""One variant of bench/bench_gpu.py, in a process of its own: it gets ready (compiles), waits for its turn, measures, says what.

  python -m bench.gpu_job '{"name": "..."}'      the fields of Job as JSON; on stdout a line `ready`, later the result as JSON

A toolkit's step is the script's own (engine/training/updates), with its optimizer, clipping, average and checks. The reference's is
the loop that a user would write around the published network: forward, L1, backward, fused AdamW.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.measure import errors, values
from bench.reference_darkir import make_reference
from darkir import DarkIR, NetworkConfig
from darkir.architectures import MODEL_SIZES
from engine.distributed import World
from engine.inference import restorer
from engine.runtime import Precision, tf32
from engine.training.config import TrainConfig
from engine.training.updates.execution import Stepper, compiled_forward, train_step
from engine.training.updates.learner import make_learner
from engine.training.updates.update import Started
from losses.config import LossConfig
from losses.objective import Objective

SETS = 4
PROFILED_STEPS, KERNELS = 3, 20

Call = Callable[[int], object]


@dataclass(frozen=True)
class Job:
    """What is measured. network: reference or toolkit; precision: float32 or bf16; work: forward or step; vgg: file of weights
    for the full objective (L1, VGG19, SSIM), None for L1 alone; backend: of torch.compile, None for none."""

    name: str
    network: str = "toolkit"
    size: str = "m"
    side: int = 384
    batch: int = 8
    precision: str = "float32"
    work: str = "step"
    vgg: str | None = None
    backend: str | None = None
    device: str = "cuda"
    warm_up: int = 10
    steps: int = 30
    profile: bool = False


def main() -> None:
    """Do the job that the first argument names."""
    job, started = Job(**json.loads(sys.argv[1])), time.monotonic()
    device = torch.device(job.device)
    precision = Precision(device.type, torch.bfloat16 if job.precision == "bf16" else None)
    sets = image_sets(job, device)
    network = make_network(job).to(device)
    result: dict[str, Any] = {"job": dataclasses.asdict(job), "execution": "eager"}
    with tf32(True):
        result["output_error"], result["gradient_error"] = distance_to_float64(job, network, precision, sets[0])
        if job.work == "forward":
            call = forward_pass(job, network, precision, sets)
        elif job.network == "reference":
            call = plain_step(network, precision, sets)
        else:
            call, result["execution"] = toolkit_step(job, network, precision, sets)
        for number in range(job.warm_up):
            call(number)
        wait_for(device)
        result["ready_seconds"] = time.monotonic() - started
        print("ready", flush=True)
        sys.stdin.readline()
        result |= measure(job, call, device)
    print(json.dumps(result), flush=True)


def make_network(job: Job) -> nn.Module:
    """The network with the reference's random weights, in the memory format that it is used in."""
    width = MODEL_SIZES["darkir"][job.size].width  # type: ignore[union-attr]
    reference = make_reference(width)
    if job.network == "reference":
        return reference
    network = DarkIR(NetworkConfig(width=width))
    network.load_state_dict(reference.state_dict())
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def image_sets(job: Job, device: torch.device) -> list[dict[str, torch.Tensor]]:
    """Smooth images with noise, darker and not: {"src", "tar": uint8 (batch, 3, side, side)}."""
    torch.manual_seed(1)
    shape = (job.batch, 3, job.side, job.side)
    sets = []
    for _ in range(SETS):
        tar = F.interpolate(torch.rand(job.batch, 3, 12, 12), size=shape[-2:], mode="bicubic").clamp(0, 1)
        src = (0.5 * tar + 0.02 * torch.randn(shape)).clamp(0, 1)
        sets.append({name: (255 * image).to(device, torch.uint8) for name, image in (("src", src), ("tar", tar))})
    return sets


def floats(images: torch.Tensor) -> torch.Tensor:
    """In [0, 1], in the memory format of the scripts."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def distance_to_float64(
    job: Job, network: nn.Module, precision: Precision, images: dict[str, torch.Tensor]
) -> tuple[float, float | None]:
    """Relative error of the output and of the worst gradient of L1, on one image, to the reference in float64."""
    src, tar = floats(images["src"][:1]), floats(images["tar"][:1])
    exact = make_network(dataclasses.replace(job, network="reference")).to(src.device).double()

    def restore(of: nn.Module, images: torch.Tensor) -> torch.Tensor:
        output = of(images)
        return output[0] if isinstance(output, tuple) else output

    judged = values(exact, lambda images: restore(exact, images), src.double(), tar.double(), training=True)

    def restore_as_measured(images: torch.Tensor) -> torch.Tensor:
        with precision.autocast():
            return restore(network, images).float()

    return errors(values(network, restore_as_measured, src, tar, training=True), judged)


def forward_pass(job: Job, network: nn.Module, precision: Precision, sets: list[dict[str, torch.Tensor]]) -> Call:
    """As validation and evaluation restore; the reference in one pass."""
    sources = [floats(images["src"]) for images in sets]
    if job.network == "toolkit":
        restore = restorer(network, precision)
        return lambda number: restore(sources[number % SETS])

    def call(number: int) -> None:
        with torch.inference_mode(), precision.autocast():
            network(sources[number % SETS])

    return call


def plain_step(network: nn.Module, precision: Precision, sets: list[dict[str, torch.Tensor]]) -> Call:
    """The published network in the loop that a user would write."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def call(number: int) -> None:
        src, tar = (images.float() / 255 for images in sets[number % SETS].values())
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            output = network(src)
        F.l1_loss((output[0] if isinstance(output, tuple) else output).float(), tar).backward()
        optimizer.step()

    return call


def toolkit_step(
    job: Job, network: nn.Module, precision: Precision, sets: list[dict[str, torch.Tensor]]
) -> tuple[Call, str]:
    """An update of train_darkir_cv.py, its numbers read one update later; and how it is run."""
    full = job.vgg is not None
    weights = LossConfig(lambda_vgg=0.1 if full else 0.0, lambda_ssim=0.1 if full else 0.0, vgg_weights=job.vgg)
    device = sets[0]["src"].device
    objective = Objective(weights, device)
    parts = (make_learner(network, precision, TrainConfig()), objective, precision, World(), 1.0, True)  # type: ignore[arg-type]
    stepper = Stepper(*parts)
    if job.backend is not None:
        stepper = Stepper(*parts, compiled_forward(stepper, objective, precision, sets[0], job.backend)[0])
    unread: list[Started] = []

    def call(number: int) -> None:
        unread.append(train_step(stepper, [sets[number % SETS]], number, 1e-6))
        if len(unread) > 1:
            unread.pop(0).result()

    call(0)
    return call, stepper.mode


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(job: Job, call: Call, device: torch.device) -> dict[str, Any]:
    """Milliseconds of a call over `steps` calls in a row, memory at the peak and, when wanted, the most expensive kernels."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    wait_for(device)
    started = time.perf_counter()
    for number in range(job.steps):
        call(number)
    wait_for(device)
    result: dict[str, Any] = {"ms": 1000 * (time.perf_counter() - started) / job.steps}
    if device.type == "cuda":
        result["allocated_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        result["reserved_gb"] = torch.cuda.max_memory_reserved(device) / 1e9
    if job.profile:
        result["kernels"] = expensive_kernels(call, device)
    return result


def expensive_kernels(call: Call, device: torch.device) -> list[list[str]]:
    """[name, ms a call, how often a call] of the kernels (without a GPU: of torch's operators) that take longest."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        for number in range(PROFILED_STEPS):
            call(number)
        wait_for(device)
    own_time = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    found = sorted(profile.key_averages(), key=lambda kernel: -getattr(kernel, own_time))[:KERNELS]
    return [
        [
            kernel.key[:90],
            f"{getattr(kernel, own_time) / 1000 / PROFILED_STEPS:.3f}",
            f"{kernel.count / PROFILED_STEPS:.0f}",
        ]
        for kernel in found
    ]


if __name__ == "__main__":
    main()
