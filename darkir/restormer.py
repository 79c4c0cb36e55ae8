"""Restormer, the network that DarkIR is compared with: a degraded photo in, a restored photo out.

Source: Zamir et al. (CVPR 2022); parameter names and outputs are equal to the published network's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from darkir.blocks import apply_blocks
from darkir.errors import ModelError
from darkir.restormer_blocks import Downsample, TransformerBlock, Upsample

LEVELS = 4
MULTIPLE = 2 ** (LEVELS - 1)


@dataclass(frozen=True)
class RestormerConfig:
    """The shape of a Restormer; the defaults are the published one. Lists are taken as tuples.

    num_blocks and heads have one entry a level, finest first; level k has dim * 2^k channels, but decoder level 1 and the
    refinement have 2 * dim. A block's hidden channels are int(channels * ffn_expansion).
    Raises ModelError for values that make no network.
    """

    dim: int = 48
    num_blocks: tuple[int, ...] = (4, 6, 6, 8)
    num_refinement_blocks: int = 4
    heads: tuple[int, ...] = (1, 2, 4, 8)
    ffn_expansion: float = 2.66
    layer_norm: Literal["WithBias", "BiasFree"] = "WithBias"

    def __post_init__(self):
        for name in ("num_blocks", "heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.num_blocks) != LEVELS or len(self.heads) != LEVELS:
            raise ModelError(f"{self}: num_blocks and heads must have {LEVELS} entries")
        if min(*self.num_blocks, *self.heads, self.num_refinement_blocks) < 1:
            raise ModelError(f"{self}: block counts and heads must be at least 1")
        if self.dim < 2 or self.dim % 2:
            raise ModelError(f"{self}: dim must be even, at least 2")
        if any(self.dim * 2**level % heads for level, heads in enumerate(self.heads)):
            raise ModelError(f"{self}: the channels of a level must be a multiple of its heads")
        if not 1 <= self.ffn_expansion < 100:
            raise ModelError(f"{self}: ffn_expansion must be at least 1 and below 100")
        if self.layer_norm not in ("WithBias", "BiasFree"):
            raise ModelError(f"{self}: layer_norm must be WithBias or BiasFree")

    def hidden(self, channels: int) -> int:
        """Hidden channels of the feed-forward part of a block with `channels`."""
        return int(channels * self.ffn_expansion)


class Level(nn.Sequential):
    """Blocks one after the other."""

    recompute = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return apply_blocks(self, x, self.recompute)


class PatchEmbedding(nn.Module):
    """The first convolution, under its published name."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


class Restormer(nn.Module):
    """The restoration network. The attribute names are the published checkpoint keys. It has no side output."""

    def __init__(self, config: RestormerConfig | None = None):
        super().__init__()
        self.config = config or RestormerConfig()
        dim, blocks = self.config.dim, self.config.num_blocks
        self.patch_embed = PatchEmbedding(dim)
        self.encoder_level1 = self._level(0, dim, blocks[0])
        self.down1_2 = Downsample(dim)
        self.encoder_level2 = self._level(1, 2 * dim, blocks[1])
        self.down2_3 = Downsample(2 * dim)
        self.encoder_level3 = self._level(2, 4 * dim, blocks[2])
        self.down3_4 = Downsample(4 * dim)
        self.latent = self._level(3, 8 * dim, blocks[3])
        self.up4_3 = Upsample(8 * dim)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=False)
        self.decoder_level3 = self._level(2, 4 * dim, blocks[2])
        self.up3_2 = Upsample(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=False)
        self.decoder_level2 = self._level(1, 2 * dim, blocks[1])
        self.up2_1 = Upsample(2 * dim)
        self.decoder_level1 = self._level(0, 2 * dim, blocks[0])
        self.refinement = self._level(0, 2 * dim, self.config.num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, 3, 3, padding=1, bias=False)

    def _level(self, level: int, channels: int, count: int) -> Level:
        heads, hidden = self.config.heads[level], self.config.hidden(channels)
        with_bias = self.config.layer_norm == "WithBias"
        return Level(*(TransformerBlock(channels, heads, hidden, with_bias) for _ in range(count)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float RGB in [0, 1], any H and W -> restored, the same shape, not clamped.

        Padded with zeros at the bottom and right to multiples of 8, as DarkIR does, and cropped again.
        """
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % MULTIPLE, 0, -height % MULTIPLE))

        level1 = self.encoder_level1(self.patch_embed(padded))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        features = self.latent(self.down3_4(level3))

        features = self.reduce_chan_level3(torch.cat([self.up4_3(features), level3], dim=1))
        features = self.decoder_level3(features)
        features = self.reduce_chan_level2(torch.cat([self.up3_2(features), level2], dim=1))
        features = self.decoder_level2(features)
        features = self.decoder_level1(torch.cat([self.up2_1(features), level1], dim=1))
        restored = self.output(self.refinement(features)) + padded
        return restored[..., :height, :width]
