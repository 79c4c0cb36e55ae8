"""DarkIR's blocks: EBlock (encoder, works on the spectrum) and DBlock (decoder, dilated branches).

Every module takes and returns (B, C, H, W) floats. The attribute names are the published checkpoint keys. What is computed
a pixel or a channel at a time is done by `ops`, a set of operations that DarkIR.use can exchange.
Source: DarkIR, "Robust Low-Light Image Restoration" (CVPR 2025), sections 3.1 and 3.2.
"""

from __future__ import annotations

import torch
from torch import nn

from darkir.operations import Operations
from darkir.plain import PLAIN


class LayerNorm2d(nn.Module):
    """Normalises every pixel over its channels."""

    ops: Operations = PLAIN

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.layer_norm(x, self.weight, self.bias, self.eps)


class FreMLP(nn.Module):
    """A small network on the Fourier magnitudes of a feature map, the phase kept: (B, C, H, W) of any size -> the same shape.

    float32 (float64 for float64 input), whatever the autocast: at 256 x 256 the magnitudes pass 65,504, the largest float16
    number. darkir/spectral.py says how it relates to the published form.
    """

    ops: Operations = PLAIN

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
            magnitude, phasor = self.ops.spectrum(x)
            return self.ops.synthesis(self.process1(magnitude), phasor, x.shape[-1])


class Branch(nn.Module):
    """The parameters of a depthwise 3x3 convolution, under their published names; `gated_branches` computes it."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(channels, channels, 3, groups=channels))


def _channel_attention(channels: int) -> nn.Sequential:
    """SCA: one factor a channel, from the mean over all pixels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))


class Block(nn.Module):
    """What both kinds of block begin with: branches, gate and channel attention, added to the input."""

    ops: Operations = PLAIN

    def __init__(self, dilations: tuple[int, ...]):
        super().__init__()
        self.dilations = dilations

    def add_branches(self, x: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        """x (B, C, H, W) and its widened features (B, 2C, H, W) -> x + beta * conv3(SCA of the gated branches)."""
        convolutions = [branch.branch[0] for branch in self.branches]
        weights, biases = [each.weight for each in convolutions], [each.bias for each in convolutions]
        return self.add_attended(x, *self.ops.gated_branches(wide, weights, biases, self.dilations))

    def add_attended(self, x: torch.Tensor, gated: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """x and gated (B, C, H, W), pooled (B, C, 1, 1) -> x + beta * conv3(gated, each channel times its attention)."""
        attended = self.ops.scale_channels(gated, self.sca[1](pooled))
        return self.ops.add_scaled(x, self.beta, self.conv3(attended))


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
        return self.ops.add_modulated(y, self.gamma, self.freq(self.norm2(y)))


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
        return self.ops.add_scaled(y, self.gamma, self.conv5(self.ops.gate(self.conv4(self.norm2(y)))))
