"""Run in a process of its own by tests/test_kernels.py: compiles every kernel for an H100, which takes no GPU, and runs none.

Prints a line for each kernel: its name, and how many pointers of it are computed with 32-bit offsets by the element.
"""

import re

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from darkir.kernels import TRITON


class AbsentH100:
    """As much of Triton's driver as a compilation asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


run = JITFunction.run


def only_compile(kernel, *args, grid, warmup, **options):
    compiled = run(kernel, *args, grid=grid, warmup=True, **options)
    assert compiled.asm["cubin"]
    narrow = re.findall(r"tt\.addptr .*, tensor<\S*xi32>", compiled.asm["ttir"])
    print(f"{kernel.__module__.removeprefix('darkir.kernels.')}.{kernel.__name__} {len(narrow)}", flush=True)
    return compiled


def features(channels: int) -> torch.Tensor:
    x = torch.zeros(1, channels, 16, 16, dtype=torch.bfloat16)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def parameter(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, requires_grad=True)


def main() -> None:
    triton.runtime.driver.set_active(AbsentH100())
    JITFunction.run = only_compile
    channels = 16
    gated, pooled = TRITON.gated_branches(
        features(2 * channels), [parameter(2 * channels, 1, 3, 3)], [parameter(2 * channels)], (4,)
    )
    planes = torch.zeros(1, channels, 16, 16, requires_grad=True)
    for result in (
        TRITON.layer_norm(features(channels), parameter(channels), parameter(channels), 1e-6),
        gated,
        TRITON.gate(features(2 * channels)),
        TRITON.scale_channels(features(channels), pooled),
        TRITON.add_scaled(features(channels), parameter(1, channels, 1, 1), features(channels)),
        TRITON.add_modulated(features(channels), parameter(1, channels, 1, 1), planes),
        TRITON.synthesis(*TRITON.spectrum(features(channels).float()), 16),
    ):
        result.backward(torch.zeros_like(result), retain_graph=True)


main()
