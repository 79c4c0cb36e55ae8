"""Single operators for bench/bench_gpu.py: those that cost the network most, in the memory formats and dtypes it may have.

Bytes are those that an operator cannot avoid, each input read and each output written once; GB/s are these by the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from bench.measure import median_and_spread

HEADER = ("operator", "shape", "memory format", "dtype", "median ms", "IQR ms", "GB/s")
FORMATS = {"planes": torch.contiguous_format, "channels_last": torch.channels_last}
Case = tuple[str, str, str, str, Callable[[], object], int]


def operator_rows(
    device: torch.device, batch: int, side: int, timed: Callable[[Callable], float], warm_up: int, steps: int
) -> list[list[str]]:
    """Lines of the second table: depthwise convolutions, and the Fourier transforms of every level of DarkIR-m."""
    rows = []
    for *names, call, moved in [*_depthwise(device, batch, side), *_transforms(device, batch, side)]:
        for _ in range(warm_up):
            call()
        median, spread = median_and_spread([timed(call) for _ in range(steps)])
        rows.append([*names, f"{1000 * median:.3f}", f"{1000 * spread:.3f}", f"{moved / median / 1e9:.0f}"])
    return rows


def _depthwise(device: torch.device, batch: int, side: int) -> Iterator[Case]:
    channels = 64
    shape = f"{batch} x {channels} x {side} x {side}"
    for name, memory_format in FORMATS.items():
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
            x = x.contiguous(memory_format=memory_format).requires_grad_()
            weight = torch.randn(channels, 1, 3, 3, device=device, dtype=dtype, requires_grad=True)
            size = x.numel() * x.element_size()
            for dilation in (1, 4, 9):

                def forward(x=x, weight=weight, dilation=dilation) -> torch.Tensor:
                    return F.conv2d(x, weight, padding=dilation, dilation=dilation, groups=channels)

                y = forward()
                grad = torch.randn_like(y)

                def gradient(wanted, y=y, grad=grad) -> None:
                    torch.autograd.grad(y, wanted, grad, retain_graph=True)

                where = shape, name, str(dtype).removeprefix("torch.")
                yield f"depthwise 3x3, dilation {dilation}, forward", *where, forward, 2 * size
                yield f"dilation {dilation}, gradient of x", *where, lambda g=gradient, x=x: g(x), 2 * size
                yield f"dilation {dilation}, gradient of weight", *where, lambda g=gradient, w=weight: g(w), 2 * size


def _transforms(device: torch.device, batch: int, side: int) -> Iterator[Case]:
    for level in range(4):
        channels, pixels = 32 * 2**level, side // 2**level
        x = torch.randn(batch, channels, pixels, pixels, device=device)
        z = torch.fft.rfft2(x)
        moved = x.numel() * x.element_size() + z.numel() * z.element_size()
        where = f"{batch} x {channels} x {pixels} x {pixels}", "planes", "float32"
        yield "rfft2", *where, lambda x=x: torch.fft.rfft2(x), moved
        yield "irfft2", *where, lambda z=z, p=pixels: torch.fft.irfft2(z, s=(p, p)), moved
