"""DarkIR's blocks: EBlock (encoder, works on the spectrum) and DBlock (decoder, dilated branches).

Every module takes and returns (B, C, H, W) floats. The attribute names are the published checkpoint keys.
Source: DarkIR, "Robust Low-Light Image Restoration" (CVPR 2025), sections 3.1 and 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from darkir.spectral import FreMLP


class LayerNorm2d(nn.Module):
    """Normalises every pixel over its channels."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # For channels_last features both permutes are free.
        pixels = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return pixels.permute(0, 3, 1, 2)


class SimpleGate(nn.Module):
    """(B, 2C, H, W) -> (B, C, H, W): the two halves multiplied."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=1)
        return first * second


class Branch(nn.Module):
    """A depthwise 3x3 convolution with a dilation."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.dilation > 1 and x.device.type == "cpu":
            # torch's CPU library (oneDNN) returns garbage as the bfloat16 weight gradient of a dilated depthwise
            # convolution on channels_last features: seen with torch 2.15 on AVX-512 without AMX, errors up to NaN.
            with torch.autocast("cpu", enabled=False):
                return self.branch(x.to(self.branch[0].weight.dtype))
        return self.branch(x)


def _channel_attention(channels: int) -> nn.Sequential:
    """SCA: one factor a channel, from the mean over all pixels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))


class EBlock(nn.Module):
    """Encoder block: spatial mixing with a gate, then modulation by FreMLP. Starts as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.extra_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.branches = nn.ModuleList([Branch(2 * channels, dilation=1)])
        self.sca = _channel_attention(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.gate = SimpleGate()
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)
        self.freq = FreMLP(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.branches[0](self.conv1(self.extra_conv(self.norm1(x))))
        gated = self.gate(mixed)
        y = x + self.beta * self.conv3(self.sca(gated) * gated)
        return y + self.gamma * (y * self.freq(self.norm2(y)))


class DBlock(nn.Module):
    """Decoder block: dilated depthwise branches summed and gated, then a gated 1x1 pair. Starts as the identity."""

    def __init__(self, channels: int, dilations: tuple[int, ...]):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.extra_conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=channels)
        self.branches = nn.ModuleList([Branch(2 * channels, dilation) for dilation in dilations])
        self.sca = _channel_attention(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.gate = SimpleGate()
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.extra_conv(self.conv1(self.norm1(x)))
        gated = self.gate(sum(branch(wide) for branch in self.branches))
        y = x + self.beta * self.conv3(self.sca(gated) * gated)
        return y + self.gamma * self.conv5(self.gate(self.conv4(self.norm2(y))))
