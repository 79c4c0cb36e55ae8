"""DarkIR's blocks: EBlock (encoder, works on the spectrum) and DBlock (decoder, dilated branches).

Every module takes and returns (B, C, H, W) floats. The attribute names are the published checkpoint keys.
Source: DarkIR, "Robust Low-Light Image Restoration" (CVPR 2025), sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


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

    folds_dilations: whether dilated convolutions on the CPU run as undilated ones of a folded view (`_dilated_as_dense`):
    several times as fast there, and of the same values; an exporter, which traces sizes, does without.
    """

    folds_dilations = True
    # Made by each kind in its own order, in which fresh weights are drawn.
    beta: nn.Parameter
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

    def mix(self, wide: torch.Tensor) -> torch.Tensor:
        """The sum of the depthwise convolutions of (B, 2C, H, W), one a dilation."""
        convolutions = [branch.branch[0] for branch in self.branches]
        bias = torch.stack([convolution.bias for convolution in convolutions]).sum(0)
        mixed = self._depthwise(wide, convolutions[0].weight, bias, self.dilations[0])
        for convolution, dilation in zip(convolutions[1:], self.dilations[1:], strict=True):
            mixed = mixed + self._depthwise(wide, convolution.weight, None, dilation)
        return mixed

    def _depthwise(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int
    ) -> torch.Tensor:
        if self.folds_dilations and dilation > 1 and x.device.type == "cpu":
            # torch's CPU library (oneDNN) returned garbage as the bfloat16 weight gradient of a dilated depthwise
            # convolution on channels_last features: seen with torch 2.15 on AVX-512 without AMX, errors up to NaN.
            with torch.autocast("cpu", enabled=False):
                mixed = _dilated_as_dense(x.to(weight.dtype), weight, dilation)
                return mixed if bias is None else mixed + bias.view(-1, 1, 1)
        return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=len(weight))

    def add_attended(self, x: torch.Tensor, gated: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """x and gated (B, C, H, W), pooled (B, C, 1, 1) -> x + beta * conv3(gated, each channel times its attention)."""
        return torch.addcmul(x, self.beta, self.conv3(gated * self.sca[1](pooled)))


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
        y = self.add_branches(x, self.conv1(self.extra_conv(self.norm1(x))))
        return self.add_modulated(y, self.freq(self.norm2(y)))

    def add_modulated(self, y: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """y + gamma * (y * factor), both (B, C, H, W), in the memory format of y."""
        if y.is_contiguous(memory_format=torch.channels_last):
            # The spectrum's result is not: converted once, or every step of the gradient would stride through memory.
            factor = factor.contiguous(memory_format=torch.channels_last)
        return torch.addcmul(y, y, self.gamma * factor)


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
        return self.add_gated_pair(self.add_branches(x, self.extra_conv(self.conv1(self.norm1(x)))))

    def add_gated_pair(self, y: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape; every pixel by itself."""
        return torch.addcmul(y, self.gamma, self.conv5(gate(self.conv4(self.norm2(y)))))


def gate(x: torch.Tensor) -> torch.Tensor:
    """SimpleGate: (B, 2C, H, W) -> (B, C, H, W), the two halves multiplied."""
    first, second = x.chunk(2, dim=1)
    return first * second


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
