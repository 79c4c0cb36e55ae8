"""The variants that bench/bench_gpu.py compares: what is computed, in which precision, how it is compiled."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from bench.reference_darkir import ReferenceDarkIR
from darkir import DarkIR, NetworkConfig

SETS = 4


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
        autocast = torch.autocast(src.device.type, self.variant.dtype, enabled=self.variant.dtype is not None)
        with autocast:
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
