"""Restormer, the network that DarkIR is compared with: a degraded photo in, a restored photo out.

The design is that of Zamir, Arora, Khan, Hayat, Khan, Yang, "Restormer: Efficient Transformer for High-Resolution Image
Restoration", CVPR 2022, section 3; the code here is written anew. Its blocks are attention over channels (MDTA) and a gated
feed-forward network (GDFN), each after a LayerNorm. Every module takes and returns (B, C, H, W) floats; the attribute names are
the published checkpoint keys, outputs are equal to the published network's, and no convolution has a bias.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from darkir.architectures import LEVELS, RestormerConfig
from darkir.blocks import apply_blocks

MULTIPLE = 2 ** (LEVELS - 1)
NORM_EPS = 1e-5
SMALLEST_NORM = 1e-12  # the published normalisation's guard against a division by zero


class ScaledNorm(nn.Module):
    """Normalises every pixel over its channels; the published name of its parameters is `body`.

    Without a bias (`BiasFree`) the mean is not subtracted, but the variance is still that around the mean.
    """

    body: Any  # nn.Module does not know the types of what it holds

    def __init__(self, channels: int, with_bias: bool):
        super().__init__()
        self.body = nn.Module()
        self.body.weight = nn.Parameter(torch.ones(channels))
        self.body.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if with_bias else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.body.weight, self.body.bias
        # For channels_last features both permutes are free.
        pixels = x.permute(0, 2, 3, 1)
        if bias is not None:
            return F.layer_norm(pixels, weight.shape, weight, bias, NORM_EPS).permute(0, 3, 1, 2)
        pixels = _at_least_float32(pixels)
        variance = pixels.var(dim=-1, keepdim=True, correction=0)
        return (pixels * torch.rsqrt(variance + NORM_EPS) * weight).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """MDTA: every channel attends to the channels of its head; the cost is linear in the pixels.

    The maps are (c, c) a head and a pixel is one of H * W features, far more than the fused attention kernels take
    (F.scaled_dot_product_attention falls back to plain products and keeps normalised copies of q and k). So the products are
    written out, and the norms divide the small (c, c) product instead of q and k: equal up to rounding, two tensors of
    the size of q less to keep for the gradient.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        parts = self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        q, k, v = (part.reshape(batch * self.heads, channels // self.heads, height * width) for part in parts)
        cosines = cosine_similarity(q, k).unflatten(0, (batch, self.heads))
        weights = (cosines * self.temperature).softmax(dim=-1).flatten(0, 1)
        return self.project_out(torch.bmm(weights.to(v.dtype), v).view(batch, channels, height, width))


def cosine_similarity(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """q, k (N, c, pixels) -> (N, c, c) in float32 or wider: the cosine between each channel of q and each of k."""
    with torch.autocast(q.device.type, enabled=False):
        if q.dtype == torch.float16:  # a sum over all pixels passes 65,504, the largest float16 number
            q, k = q.float(), k.float()
        products = _at_least_float32(torch.bmm(q, k.transpose(1, 2)))
        norms = [
            torch.linalg.vector_norm(each, dim=2, dtype=products.dtype).clamp_min(SMALLEST_NORM) for each in (q, k)
        ]
        return products / (norms[0][:, :, None] * norms[1][:, None, :])


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class GatedFeedForward(nn.Module):
    """GDFN: widened features through a depthwise convolution, one half gating the other."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(first) * second)


class TransformerBlock(nn.Module):
    """x + MDTA(LN(x)), then the same with GDFN."""

    def __init__(self, channels: int, heads: int, hidden: int, with_bias: bool):
        super().__init__()
        self.norm1 = ScaledNorm(channels, with_bias)
        self.attn = ChannelAttention(channels, heads)
        self.norm2 = ScaledNorm(channels, with_bias)
        self.ffn = GatedFeedForward(channels, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


def _downsample(channels: int) -> nn.Sequential:
    """Half the height and width, twice the channels; the published name of the layers is `body`."""
    convolution = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
    return nn.Sequential(OrderedDict(body=nn.Sequential(convolution, nn.PixelUnshuffle(2))))


def _upsample(channels: int) -> nn.Sequential:
    """Twice the height and width, half the channels."""
    convolution = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
    return nn.Sequential(OrderedDict(body=nn.Sequential(convolution, nn.PixelShuffle(2))))


class Level(nn.Sequential):
    """Blocks one after the other."""

    recompute = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return apply_blocks(self, x, self.recompute)


class Restormer(nn.Module):
    """The restoration network. The attribute names are the published checkpoint keys. It has no side output."""

    def __init__(self, config: RestormerConfig | None = None):
        super().__init__()
        self.config = config or RestormerConfig()
        dim, blocks = self.config.dim, self.config.num_blocks
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, dim, 3, padding=1, bias=False)))
        self.encoder_level1 = self._level(0, dim, blocks[0])
        self.down1_2 = _downsample(dim)
        self.encoder_level2 = self._level(1, 2 * dim, blocks[1])
        self.down2_3 = _downsample(2 * dim)
        self.encoder_level3 = self._level(2, 4 * dim, blocks[2])
        self.down3_4 = _downsample(4 * dim)
        self.latent = self._level(3, 8 * dim, blocks[3])
        self.up4_3 = _upsample(8 * dim)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=False)
        self.decoder_level3 = self._level(2, 4 * dim, blocks[2])
        self.up3_2 = _upsample(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=False)
        self.decoder_level2 = self._level(1, 2 * dim, blocks[1])
        self.up2_1 = _upsample(2 * dim)
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
