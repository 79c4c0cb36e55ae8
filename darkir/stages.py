"""Parameter names -> stages of the network, counted from its input: what fine-tuning freezes and slows down."""

from __future__ import annotations

from darkir.network import NetworkConfig


def count_stages(config: NetworkConfig) -> int:
    """Encoder stages, the middle, decoder stages."""
    return 2 * len(config.enc_blocks) + 1


def stage_of(name: str, config: NetworkConfig) -> int:
    """Stage of a parameter, from 0. Encoder stage k also has the first convolution (k = 0) and the downsampling behind it;
    decoder stage k the upsampling before it and, at the end, the last convolution. The side output belongs to the middle."""
    levels = len(config.enc_blocks)
    part, *rest = name.split(".")
    if part == "intro":
        return 0
    if part in ("encoders", "downs"):
        return int(rest[0])
    if part in ("ups", "decoders"):
        return levels + 1 + int(rest[0])
    return 2 * levels if part == "ending" else levels
