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
    mixed = _depthwise(x, weights[0], torch.stack(list(biases)).sum(0), dilations[0])
    for weight, dilation in zip(weights[1:], dilations[1:], strict=True):
        mixed = mixed + _depthwise(x, weight, None, dilation)
    gated = gate(mixed)
    return gated, F.adaptive_avg_pool2d(gated, 1)


def _depthwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    if dilation > 1 and x.device.type == "cpu":
        # torch's CPU library (oneDNN) returned garbage as the bfloat16 weight gradient of a dilated depthwise convolution
        # on channels_last features: seen with torch 2.15 on AVX-512 without AMX, errors up to NaN.
        with torch.autocast("cpu", enabled=False):
            mixed = _dilated_as_dense(x.to(weight.dtype), weight, dilation)
            return mixed if bias is None else mixed + bias.view(-1, 1, 1)
    return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=len(weight))


def _dilated_as_dense(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
    """The dilated depthwise 3x3 convolution of x, as one without dilation of a view: oneDNN is several times as fast there.

    In (B, H, W, C) memory, `dilation` pixels of a row are seen as the channels of one, and `dilation` rows as a single long
    one: neighbours in that view are `dilation` pixels apart in x. Zeros at the end of every row part it from the next.
    """
    batch, channels, height, width = x.shape
    columns = -(-width // dilation) + 1
    rows = max(3, -(-height // dilation))  # with fewer, oneDNN's weight gradient takes ten times as long
    padding = (0, 0, 0, columns * dilation - width, 0, rows * dilation - height)
    folded = F.pad(x.permute(0, 2, 3, 1), padding).reshape(batch, rows, dilation * columns, dilation * channels)
    kernels = weight.repeat(dilation, 1, 1, 1)
    mixed = F.conv2d(folded.permute(0, 3, 1, 2), kernels, padding=1, groups=len(kernels)).permute(0, 2, 3, 1)
    unfolded = mixed.reshape(batch, rows * dilation, columns * dilation, channels)
    return unfolded[:, :height, :width].permute(0, 3, 1, 2)


def gate(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=1)
    return first * second


def scale_channels(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return x * factor


def add_scaled(x: torch.Tensor, scale: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(x, scale, change)


def add_modulated(x: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    if x.is_contiguous(memory_format=torch.channels_last):
        # The spectrum's result is not: converted once, or every step of the gradient would stride through memory.
        factor = factor.contiguous(memory_format=torch.channels_last)
    return torch.addcmul(x, x, scale * factor)


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
