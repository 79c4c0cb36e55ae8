"""Separable low-pass filter on image planes, in float32 on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def blur(planes: torch.Tensor, taps: Sequence[float]) -> torch.Tensor:
    """(B, C, H, W) float32 with the same taps down and across, no padding: n taps make a plane n - 1 smaller each way."""
    # Contiguous planes keep CUDA off cuDNN, whose TF32 would ruin differences of means; the CPU is faster channels_last.
    planes = planes.contiguous(memory_format=torch.contiguous_format if planes.is_cuda else torch.channels_last)
    channels = planes.shape[1]
    window = planes.new_tensor(taps).expand(channels, 1, 1, -1)
    planes = functional.conv2d(planes, window.transpose(2, 3), groups=channels)
    return functional.conv2d(planes, window, groups=channels)
