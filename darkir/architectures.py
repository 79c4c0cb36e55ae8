"""The networks that can be trained and compared: their shapes, sizes and names, and the stages that fine-tuning counts.

Needs no torch: `darkir.weights.make_network` builds the network of a shape.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from darkir.errors import ModelError

LEVELS = 4  # of Restormer
LARGEST_DILATION = 128  # the published ones are 1, 4, 9; each adds twice its size to the photo's borders in memory
# Its parts, a stage a line: the levels downwards with the downsampling behind them, the latent, the levels upwards with the
# upsampling before them.
RESTORMER_STAGES = (
    ("patch_embed", "encoder_level1", "down1_2"),
    ("encoder_level2", "down2_3"),
    ("encoder_level3", "down3_4"),
    ("latent",),
    ("up4_3", "reduce_chan_level3", "decoder_level3"),
    ("up3_2", "reduce_chan_level2", "decoder_level2"),
    ("up2_1", "decoder_level1", "refinement", "output"),
)


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a DarkIR network: the published m has width 32, l width 64. Lists are taken as tuples.

    enc_blocks and dec_blocks give the number of blocks a stage, in the order in which an image passes them.
    Raises ModelError for values that make no network.
    """

    width: int = 32
    enc_blocks: tuple[int, ...] = (1, 2, 3)
    middle_enc_blocks: int = 2
    middle_dec_blocks: int = 2
    dec_blocks: tuple[int, ...] = (3, 1, 1)
    dilations: tuple[int, ...] = (1, 4, 9)

    def __post_init__(self):
        for name in ("enc_blocks", "dec_blocks", "dilations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.width < 1 or not self.dilations or min(self.dilations) < 1 or max(self.dilations) > LARGEST_DILATION:
            raise ModelError(f"{self}: width and dilations must be at least 1, dilations at most {LARGEST_DILATION}")
        if len(self.enc_blocks) != len(self.dec_blocks) or not self.enc_blocks:
            raise ModelError(f"{self}: enc_blocks and dec_blocks must have one entry a stage, equally many")
        if min(*self.enc_blocks, *self.dec_blocks, self.middle_enc_blocks, self.middle_dec_blocks) < 0:
            raise ModelError(f"{self}: block counts must not be negative")


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


Config = NetworkConfig | RestormerConfig

NAMES = {"darkir": "DarkIR", "restormer": "Restormer"}
# DarkIR's m and l and Restormer's l are the published sizes. Restormer's m has about DarkIR-m's number of parameters.
# tiny is for trying things out and for tests.
MODEL_SIZES: dict[str, dict[str, Config]] = {
    "darkir": {"m": NetworkConfig(width=32), "l": NetworkConfig(width=64), "tiny": NetworkConfig(width=8)},
    "restormer": {
        "m": RestormerConfig(dim=24, num_blocks=(2, 3, 3, 4), num_refinement_blocks=2),
        "l": RestormerConfig(),
        "tiny": RestormerConfig(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, heads=(1, 2, 2, 4)),
    },
}


def arch_of(config: Config) -> str:
    """`darkir` or `restormer`, as --arch takes it."""
    return "darkir" if isinstance(config, NetworkConfig) else "restormer"


def size_of(config: Config) -> str | None:
    """`m`, `l` or `tiny`, as --model_size takes it, or None for another shape; the kind of LayerNorm makes no size."""
    if isinstance(config, RestormerConfig):
        config = dataclasses.replace(config, layer_norm=RestormerConfig.layer_norm)
    return next((size for size, known in MODEL_SIZES[arch_of(config)].items() if known == config), None)


def width_of(config: Config) -> str:
    """`width 32` or `dim 48`: the channels at full resolution, under the name that the paper gives them."""
    return f"width {config.width}" if isinstance(config, NetworkConfig) else f"dim {config.dim}"


def title(config: Config) -> str:
    """`DarkIR-m (width 32)`, or `Restormer of dim 40` for a shape without a letter."""
    name, size = NAMES[arch_of(config)], size_of(config)
    return f"{name}-{size} ({width_of(config)})" if size else f"{name} of {width_of(config)}"


def description(config: Config) -> dict[str, Any]:
    """What a checkpoint says of its network. Readers take the architecture from the tensors: checkpoints of the first versions,
    which knew DarkIR only, do not name it, and exported files name it outside this description."""
    return {"arch": arch_of(config), **dataclasses.asdict(config)}


def encoder_stages(config: Config) -> int:
    """How many stages the encoder has, without the middle."""
    return len(config.enc_blocks) if isinstance(config, NetworkConfig) else LEVELS - 1


def count_stages(config: Config) -> int:
    """Encoder stages, the middle, decoder stages."""
    return 2 * encoder_stages(config) + 1


def stage_of(name: str, config: Config) -> int:
    """Stage of a parameter, from 0. Encoder stage k also has the first convolution (k = 0) and the downsampling behind it;
    decoder stage k the upsampling before it and, at the end, the last convolution. DarkIR's side output belongs to the middle."""
    part, *rest = name.split(".")
    if not isinstance(config, NetworkConfig):
        return next(stage for stage, parts in enumerate(RESTORMER_STAGES) if part in parts)
    levels = len(config.enc_blocks)
    if part == "intro":
        return 0
    if part in ("encoders", "downs"):
        return int(rest[0])
    if part in ("ups", "decoders"):
        return levels + 1 + int(rest[0])
    return 2 * levels if part == "ending" else levels
