"""DarkIR: a degraded photo in, a restored photo out (and, for training, a small side output of the encoder).

The design is that of DarkIR: Feijoo, Benito, Garcia, Conde, "DarkIR: Robust Low-Light Image Restoration", CVPR 2025, published
under the MIT license. The code here is written anew; parameter names and outputs are equal to the published network's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from darkir.architectures import NetworkConfig
from darkir.blocks import DBlock, EBlock, apply_blocks


class Stage(nn.Module):
    """Blocks one after the other."""

    recompute = False

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.modules_list = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return apply_blocks(self.modules_list, x, self.recompute)


class DarkIR(nn.Module):
    """The restoration network. The attribute names are the published checkpoint keys."""

    def __init__(self, config: NetworkConfig | None = None):
        super().__init__()
        self.config = config or NetworkConfig()
        dilations, levels = self.config.dilations, len(self.config.enc_blocks)
        widths = [self.config.width * 2**level for level in range(levels + 1)]
        bottom = widths[-1]
        self.multiple = 2**levels

        self.intro = nn.Conv2d(3, widths[0], 3, padding=1)
        self.ending = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.encoders = nn.ModuleList(
            Stage(*(EBlock(width) for _ in range(count)))
            for width, count in zip(widths[:-1], self.config.enc_blocks, strict=True)
        )
        self.decoders = nn.ModuleList(
            Stage(*(DBlock(width, dilations) for _ in range(count)))
            for width, count in zip(widths[-2::-1], self.config.dec_blocks, strict=True)
        )
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2)) for width in widths[:0:-1]
        )
        self.downs = nn.ModuleList(nn.Conv2d(width, 2 * width, 2, stride=2) for width in widths[:-1])
        self.middle_blks_enc = Stage(*(EBlock(bottom) for _ in range(self.config.middle_enc_blocks)))
        self.middle_blks_dec = Stage(*(DBlock(bottom, dilations) for _ in range(self.config.middle_dec_blocks)))
        self.side_out = nn.Conv2d(bottom, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, with_side: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) float RGB in [0, 1], any H and W -> restored, the same shape, not clamped.

        With with_side also the side output (B, 3, h / 8, w / 8), h and w rounded up to multiples of 8 (three stages).
        """
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))

        features = self.intro(padded)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            features = encoder(features)
            skips.append(features)
            features = down(features)

        encoded = self.middle_blks_enc(features)
        features = self.middle_blks_dec(encoded) + encoded
        for decoder, up, skip in zip(self.decoders, self.ups, reversed(skips), strict=True):
            features = decoder(up(features) + skip)

        restored = (self.ending(features) + padded)[..., :height, :width]
        return (restored, self.side_out(encoded)) if with_side else restored
