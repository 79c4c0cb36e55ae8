"""The architectures that can be trained and compared: their sizes, their names, and the network for a description."""

from __future__ import annotations

import dataclasses
from typing import Any

from darkir.network import DarkIR, NetworkConfig
from darkir.restormer import Restormer, RestormerConfig

Config = NetworkConfig | RestormerConfig
Network = DarkIR | Restormer

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


def make_network(config: Config) -> Network:
    """A network of this shape with fresh weights."""
    return DarkIR(config) if isinstance(config, NetworkConfig) else Restormer(config)


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
    """What a weights file says of its network; a file without `arch` holds a DarkIR."""
    return {"arch": arch_of(config), **dataclasses.asdict(config)}
