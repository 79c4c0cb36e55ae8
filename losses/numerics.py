"""What loss terms share: float32 whatever the caller's autocast, and a separable low-pass filter on image planes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

Term = Callable[..., torch.Tensor]


def in_float32(term: Term) -> Term:
    """Wrap a function of tensors: autocast is off inside, arguments arrive as float32.

    Sums of small squares do not survive 16 bits.
    """

    @functools.wraps(term)
    def wrapper(*tensors: torch.Tensor) -> torch.Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return term(*(tensor.float() for tensor in tensors))

    return wrapper


def blur(planes: torch.Tensor, taps: Sequence[float]) -> torch.Tensor:
    """(B, C, H, W) float32 with the same taps down and across, no padding: n taps make a plane n - 1 smaller each way."""
    # Contiguous planes keep CUDA off cuDNN, whose TF32 would ruin differences of means; the CPU is faster channels_last.
    planes = planes.contiguous(memory_format=torch.contiguous_format if planes.is_cuda else torch.channels_last)
    channels = planes.shape[1]
    # Made on the device: a tensor of Python's numbers would be copied there, and the host wait for all that the device has to do.
    window = torch.stack([planes.new_full((), tap) for tap in taps]).expand(channels, 1, 1, -1)
    planes = functional.conv2d(planes, window.transpose(2, 3), groups=channels)
    return functional.conv2d(planes, window, groups=channels)
