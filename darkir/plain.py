"""The operations of a block in plain PyTorch: the readable form, for every device. See darkir/operations.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from darkir.operations import Operations
from darkir.spectral import spectrum, synthesis


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    # For channels_last features both permutes are free.
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps).permute(0, 3, 1, 2)


def gated_branches(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], dilations: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    mixed = sum(map(_depthwise, [x] * len(dilations), weights, biases, dilations))
    gated = gate(mixed)
    return gated, F.adaptive_avg_pool2d(gated, 1)


def _depthwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int) -> torch.Tensor:
    if dilation > 1 and x.device.type == "cpu":
        # torch's CPU library (oneDNN) returns garbage as the bfloat16 weight gradient of a dilated depthwise
        # convolution on channels_last features: seen with torch 2.15 on AVX-512 without AMX, errors up to NaN.
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x.to(weight.dtype), weight, bias, padding=dilation, dilation=dilation, groups=len(weight))
    return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=len(weight))


def gate(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=1)
    return first * second


def scale_channels(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return x * factor


def add_scaled(x: torch.Tensor, scale: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return x + scale * change


def add_modulated(x: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return x + scale * (x * factor)


PLAIN = Operations(
    name="plain",
    layer_norm=layer_norm,
    gated_branches=gated_branches,
    gate=gate,
    scale_channels=scale_channels,
    add_scaled=add_scaled,
    add_modulated=add_modulated,
    spectrum=spectrum,
    synthesis=synthesis,
)
