"""DarkIR's blocks: EBlock (encoder, works on the spectrum) and DBlock (decoder, dilated branches).

Every module takes and returns (B, C, H, W) floats, fastest in channels_last memory. The attribute names are the published
checkpoint keys. Source: DarkIR, "Robust Low-Light Image Restoration" (CVPR 2025), sections 3.1 and 3.2.

Under autocast what goes from block to block, LayerNorm's output included, stays in the 16-bit format in which it arrives;
LayerNorm's statistics, the channel attention's mean and the spectrum are float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from darkir.spectral import spectrum, synthesis


class LayerNorm2d(nn.Module):
    """Normalises every pixel over its channels."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # For channels_last features both permutes are free.
        x = x.permute(0, 2, 3, 1)
        # Autocast would make it float32: twice the memory, for statistics that the kernel keeps in float32 by itself.
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.layer_norm(x, weight.shape, weight, bias, self.eps).permute(0, 3, 1, 2)


class FreMLP(nn.Module):
    """A small network on the Fourier magnitudes of a feature map, the phase kept: (B, C, H, W) of any size -> the same shape.

    float32 (float64 for float64 input), whatever the autocast: at 256 x 256 the magnitudes pass 65,504, the largest float16
    number. darkir/spectral.py says how it relates to the published form.
    """

    def __init__(self, channels: int, expand: int = 2):
        super().__init__()
        self.process1 = nn.Sequential(
            nn.Conv2d(channels, expand * channels, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(expand * channels, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            if x.dtype != torch.float64:
                x = x.float()
            magnitude, phasor = spectrum(x)
            return synthesis(self.process1(magnitude), phasor, x.shape[-1])


class Branch(nn.Module):
    """The parameters of a depthwise 3x3 convolution, under their published names; `Block.mix` computes it."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(channels, channels, 3, groups=channels))


def _channel_attention(channels: int) -> nn.Sequential:
    """SCA: one factor a channel, from the mean over all pixels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))


class Block(nn.Module):
    """What both kinds of block begin with: branches, gate and channel attention, added to the input.

    folds: whether dilated and paired convolutions run as plain depthwise ones (`_dilated_as_dense`, `DBlock.widen`): several times
    as fast, and of the same values; an exporter, which traces sizes, does without.
    """

    folds = True
    # Made by each kind in its own order, in which fresh weights are drawn.
    beta: nn.Parameter
    gamma: nn.Parameter
    norm1: LayerNorm2d
    conv1: nn.Conv2d
    extra_conv: nn.Conv2d
    branches: Iterable[Any]  # an nn.ModuleList of Branch
    sca: nn.Sequential
    conv3: nn.Conv2d

    def __init__(self, dilations: tuple[int, ...]):
        super().__init__()
        self.dilations = dilations

    def add_branches(self, x: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        """x (B, C, H, W) and its widened features (B, 2C, H, W) -> x + beta * conv3(SCA of the gated branches)."""
        gated = gate(self.mix(wide))
        return self.add_attended(x, gated, F.adaptive_avg_pool2d(gated, 1))

    def mix(self, wide: torch.Tensor, halo: int = 0) -> torch.Tensor:
        """The sum of the depthwise convolutions of (B, 2C, H, W), one a dilation: (B, 2C, H - 2 halo, W).

        halo: rows above and below that are seen only, at least the largest dilation; 0: zeros are seen there.
        """
        convolutions = [branch.branch[0] for branch in self.branches]
        bias = torch.stack([convolution.bias for convolution in convolutions]).sum(0)
        mixed = None
        for convolution, dilation in zip(convolutions, self.dilations, strict=True):
            seen = wide[:, :, halo - dilation : wide.shape[-2] - halo + dilation] if halo else wide
            part = self._depthwise(seen, convolution.weight, bias if mixed is None else None, dilation)
            part = part[:, :, dilation:-dilation] if halo else part
            mixed = part if mixed is None else mixed + part
        assert mixed is not None  # there is a branch
        return mixed

    def _depthwise(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int
    ) -> torch.Tensor:
        if not self.folds or dilation == 1:
            return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=len(weight))
        if x.device.type == "cpu":
            # torch's CPU library (oneDNN) returned garbage as the bfloat16 weight gradient of a dilated depthwise
            # convolution on channels_last features: seen with torch 2.15 on AVX-512 without AMX, errors up to NaN.
            with torch.autocast("cpu", enabled=False):
                return _dilated_as_dense(x.to(weight.dtype), weight, bias, dilation)
        return _dilated_as_dense(x, weight, bias, dilation)

    def add_attended(self, x: torch.Tensor, gated: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """x and gated (B, C, H, W), pooled (B, C, 1, 1) -> x + beta * conv3(gated, each channel times its attention)."""
        return _add_scaled(x, self.beta, pointwise(self.conv3, gated * pointwise(cast(nn.Conv2d, self.sca[1]), pooled)))


class EBlock(Block):
    """Encoder block: spatial mixing with a gate, then modulation by FreMLP. Starts as the identity."""

    def __init__(self, channels: int):
        super().__init__(dilations=(1,))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.extra_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.branches = nn.ModuleList([Branch(2 * channels)])
        self.sca = _channel_attention(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)
        self.freq = FreMLP(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.add_branches(x, self.widen(self.norm1(x)))
        return self.add_modulated(y, self.freq(self.norm2(y)))

    def widen(self, normed: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, 2C, H, W): extra_conv, a channel by itself, then conv1."""
        return pointwise(self.conv1, self.extra_conv(normed))

    def add_modulated(self, y: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """y + gamma * (y * factor), both (B, C, H, W), in the number and memory format of y."""
        if y.is_contiguous(memory_format=torch.channels_last):
            # The spectrum's result is not: converted once, or every step of the gradient would stride through memory.
            factor = factor.to(y.dtype, memory_format=torch.channels_last)
        return _add_scaled(y, self.gamma, y * factor)


class DBlock(Block):
    """Decoder block: dilated depthwise branches summed and gated, then a gated 1x1 pair. Starts as the identity."""

    def __init__(self, channels: int, dilations: tuple[int, ...]):
        super().__init__(dilations)
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.extra_conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=channels)
        self.branches = nn.ModuleList([Branch(2 * channels) for _ in dilations])
        self.sca = _channel_attention(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.add_gated_pair(self.add_branches(x, self.widen(self.norm1(x))))

    def widen(self, normed: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, 2C, H, W): conv1, then extra_conv, whose groups are pairs of channels."""
        if self.folds and splits_pairs(normed.device):
            return _widened_in_pairs(normed, self.conv1, self.extra_conv)
        return self.extra_conv(pointwise(self.conv1, normed))

    def add_gated_pair(self, y: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape; every pixel by itself."""
        return _add_scaled(y, self.gamma, pointwise(self.conv5, gate(pointwise(self.conv4, self.norm2(y)))))


def pointwise(convolution: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution of (B, C, H, W), as a matrix product over its (B, H, W, C) view: faster, but for the CPU's forward pass,
    whose product writes the bias to memory before it begins.
    """
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        return cast(torch.Tensor, convolution(x))
    return F.linear(x.permute(0, 2, 3, 1), convolution.weight.flatten(1), convolution.bias).permute(0, 3, 1, 2)


def _widened_in_pairs(x: torch.Tensor, product: nn.Conv2d, paired: nn.Conv2d) -> torch.Tensor:
    """`paired(product(x))`, a 1x1 and then a 3x3 convolution in groups of two channels, without such groups: cuDNN has no good
    kernel for them, but one for groups of one. With q the other channel of p's pair, y[p] = same[p] * x[p] + other[p] * x[q].
    """
    # One product with the rows in both orders gives the channels, and those of every pair swapped, side by side.
    rows, bias = product.weight.flatten(1), cast(torch.Tensor, product.bias)
    both = F.linear(x.permute(0, 2, 3, 1), *(torch.cat((part, _swap_pairs(part))) for part in (rows, bias)))
    kernels = paired.weight.unflatten(0, (-1, 2))  # (pairs, 2 out, 2 in, 3, 3)
    same, other = (part.diagonal(dim1=1, dim2=2).movedim(-1, 1).flatten(0, 1) for part in (kernels, kernels.flip(2)))
    depthwise = torch.cat((same, other)).unsqueeze(1)
    of_same, of_other = F.conv2d(both.permute(0, 3, 1, 2), depthwise, padding=1, groups=len(depthwise)).chunk(2, dim=1)
    return of_same + of_other + cast(torch.Tensor, paired.bias).to(of_same.dtype).view(-1, 1, 1)


def _swap_pairs(rows: torch.Tensor) -> torch.Tensor:
    """Rows 0, 1, 2, 3, ... -> 1, 0, 3, 2, ..."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def splits_pairs(device: torch.device) -> bool:
    """Whether convolutions in groups of two channels run as depthwise ones. The CPU's library is as quick with the groups."""
    return device.type != "cpu"


def _add_scaled(x: torch.Tensor, scale: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """x + scale * change, (B, C, H, W), in the number format of x; scale (1, C, 1, 1)."""
    # As a (C,) view: torch's compiler gave gradients of (1, C, 1, 1) parameters the shape (C,), which torch then refused (issue
    # 178080 of pytorch).
    scale = scale.flatten().to(x.dtype)
    return torch.addcmul(x.permute(0, 2, 3, 1), scale, change.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def gate(x: torch.Tensor) -> torch.Tensor:
    """SimpleGate: (B, 2C, H, W) -> (B, C, H, W), the two halves multiplied."""
    first, second = x.chunk(2, dim=1)
    return first * second


def _dilated_as_dense(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """The dilated depthwise 3x3 convolution of x, as one without dilation of a view, for which libraries have better kernels:
    oneDNN's are several times as fast, cuDNN's 27 times on channels_last features.

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
    unfolded = mixed.reshape(batch, rows * dilation, columns * dilation, channels)[:, :height, :width].permute(
        0, 3, 1, 2
    )
    return unfolded if bias is None else unfolded + bias.to(unfolded.dtype).view(-1, 1, 1)


def apply_blocks(blocks: Iterable[nn.Module], x: torch.Tensor, recompute: bool) -> torch.Tensor:
    """x through one block after the other. `recompute`: activation checkpointing, only what goes from block to block is kept.

    Less memory for up to two fifths more time (bench/bench_architectures.py); outputs and gradients stay bit-identical, as the
    blocks draw no random numbers. Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).
    """
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
        else:
            x = block(x)
    return x


def recompute_activations(network: nn.Module) -> None:
    """Let all stages of `network` (DarkIR or Restormer) compute that way from now on."""
    for module in network.modules():
        if hasattr(module, "recompute"):
            module.recompute = True  # type: ignore[assignment]
