"""DarkIR written down literally, for parity tests and measurements: nothing fused or rearranged, ordinary autograd.

It shares no code with the package. Parameter names are the published ones, so that one state_dict fits both. Its
gradients are NaN or inaccurate where the published form's are: on channels that nearly vanish, and on flat images.
"""

import torch
from torch import nn


class LayerNorm2d(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        variance = centred.pow(2).mean(1, keepdim=True)
        return self.weight.view(1, -1, 1, 1) * (centred / (variance + 1e-6).sqrt()) + self.bias.view(1, -1, 1, 1)


class FreMLP(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.process1 = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1), nn.LeakyReLU(0.1), nn.Conv2d(2 * channels, channels, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        frequencies = torch.fft.rfft2(x, norm="backward")
        phase = torch.angle(frequencies)
        magnitude = self.process1(torch.abs(frequencies))
        changed = torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase))
        return torch.fft.irfft2(changed, s=(height, width), norm="backward")


class Branch(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels)
        self.branch = nn.Sequential(conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x)


def gate(x: torch.Tensor) -> torch.Tensor:
    channels = x.shape[1] // 2
    return x[:, :channels] * x[:, channels:]


class Block(nn.Module):
    """The first half of both kinds of block: everything up to y."""

    def __init__(self, channels: int, dilations: tuple[int, ...]):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.branches = nn.ModuleList(Branch(2 * channels, dilation) for dilation in dilations)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)

    def attend(self, x: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        mixed = torch.zeros_like(wide)
        for branch in self.branches:
            mixed = mixed + branch(wide)
        gated = gate(mixed)
        return x + self.beta * self.conv3(self.sca(gated) * gated)


class EBlock(Block):
    def __init__(self, channels: int):
        super().__init__(channels, (1,))
        self.extra_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.freq = FreMLP(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attend(x, self.conv1(self.extra_conv(self.norm1(x))))
        return y + self.gamma * (y * self.freq(self.norm2(y)))


class DBlock(Block):
    def __init__(self, channels: int):
        super().__init__(channels, (1, 4, 9))
        self.extra_conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=channels)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attend(x, self.extra_conv(self.conv1(self.norm1(x))))
        return y + self.gamma * self.conv5(gate(self.conv4(self.norm2(y))))


class BlockList(nn.Module):
    def __init__(self, block: type[nn.Module], channels: int, count: int):
        super().__init__()
        self.modules_list = nn.ModuleList(block(channels) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.modules_list:
            x = block(x)
        return x


class ReferenceDarkIR(nn.Module):
    """The published default layout at any `width`; forward gives (restored, side), both unclamped."""

    def __init__(self, width: int = 32):
        super().__init__()
        w = width
        self.intro = nn.Conv2d(3, w, 3, padding=1)
        self.ending = nn.Conv2d(w, 3, 3, padding=1)
        self.encoders = nn.ModuleList(
            [BlockList(EBlock, w, 1), BlockList(EBlock, 2 * w, 2), BlockList(EBlock, 4 * w, 3)]
        )
        self.decoders = nn.ModuleList(
            [BlockList(DBlock, 4 * w, 3), BlockList(DBlock, 2 * w, 1), BlockList(DBlock, w, 1)]
        )
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)) for c in (8 * w, 4 * w, 2 * w)
        )
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in (w, 2 * w, 4 * w))
        self.middle_blks_enc = BlockList(EBlock, 8 * w, 2)
        self.middle_blks_dec = BlockList(DBlock, 8 * w, 2)
        self.side_out = nn.Conv2d(8 * w, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch, _, height, width = x.shape
        padded = x.new_zeros(batch, 3, (height + 7) // 8 * 8, (width + 7) // 8 * 8)
        padded[:, :, :height, :width] = x

        level0 = self.encoders[0](self.intro(padded))
        level1 = self.encoders[1](self.downs[0](level0))
        level2 = self.encoders[2](self.downs[1](level1))
        bottom = self.middle_blks_enc(self.downs[2](level2))
        y = self.middle_blks_dec(bottom) + bottom
        y = self.decoders[0](self.ups[0](y) + level2)
        y = self.decoders[1](self.ups[1](y) + level1)
        y = self.decoders[2](self.ups[2](y) + level0)
        return (self.ending(y) + padded)[:, :, :height, :width], self.side_out(bottom)


def make_reference(width: int) -> ReferenceDarkIR:
    """With the same random weights in every process; beta and gamma are not at their initial 0, where blocks are identities."""
    torch.manual_seed(0)
    reference = ReferenceDarkIR(width)
    for name, parameter in reference.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.normal_(parameter, std=0.1)
    return reference
