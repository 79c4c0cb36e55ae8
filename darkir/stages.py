"""Parameter names -> stages of the network, counted from its input: what fine-tuning freezes and slows down."""

from __future__ import annotations

from darkir.architectures import Config
from darkir.network import NetworkConfig
from darkir.restormer import LEVELS

# Stage k of the encoder also has the downsampling behind it, stage k of the decoder the upsampling and the reduction before it.
RESTORMER_STAGES = {
    "patch_embed": 0,
    "encoder_level1": 0,
    "down1_2": 0,
    "encoder_level2": 1,
    "down2_3": 1,
    "encoder_level3": 2,
    "down3_4": 2,
    "latent": 3,
    "up4_3": 4,
    "reduce_chan_level3": 4,
    "decoder_level3": 4,
    "up3_2": 5,
    "reduce_chan_level2": 5,
    "decoder_level2": 5,
    "up2_1": 6,
    "decoder_level1": 6,
    "refinement": 6,
    "output": 6,
}


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
        return RESTORMER_STAGES[part]
    levels = len(config.enc_blocks)
    if part == "intro":
        return 0
    if part in ("encoders", "downs"):
        return int(rest[0])
    if part in ("ups", "decoders"):
        return levels + 1 + int(rest[0])
    return 2 * levels if part == "ending" else levels
