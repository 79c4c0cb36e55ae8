"""Parameters by their published names -> which network they are of, and its shape, read off the tensors."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch

from darkir.architectures import MODEL_SIZES, NAMES, Config, size_of, width_of
from darkir.errors import ModelError
from darkir.network import NetworkConfig
from darkir.restormer import RestormerConfig

Params = dict[str, torch.Tensor]

FIRST_CONVOLUTION = {"darkir": "intro.weight", "restormer": "patch_embed.proj.weight"}
LEVEL_NAMES = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
NAMES_SHOWN = 5


def config_of(params: Params, meta: dict[str, Any]) -> Config:
    """The network's shape. DarkIR's dilations leave no trace in the tensors: they come from `meta`, the file's description.

    Raises ModelError when the parameters are not those of a whole network.
    """
    return _restormer_of(params) if _first_channels(params, "restormer") else _darkir_of(params, meta)


def kind_of(params: Params) -> str | None:
    """`Restormer of dim 24 (--arch restormer --model_size m)`, by the first convolution alone; None without one."""
    for arch in FIRST_CONVOLUTION:
        channels = _first_channels(params, arch)
        if channels:
            known = {width_of(config): size_of(config) for config in MODEL_SIZES[arch].values()}
            words = f"{'width' if arch == 'darkir' else 'dim'} {channels}"
            flags = [] if arch == "darkir" else [f"--arch {arch}"]
            flags += [f"--model_size {known[words]}"] if words in known else []
            return f"{NAMES[arch]} of {words}" + (f" ({' '.join(flags)})" if flags else "")
    return None


def shortened(names: Collection[object]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(str(name) for name in list(names)[:NAMES_SHOWN])
    return shown + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


def _first_channels(params: Params, arch: str) -> int | None:
    tensor = params.get(FIRST_CONVOLUTION[arch])
    return tensor.shape[0] if tensor is not None and tensor.ndim == 4 else None


def _darkir_of(params: Params, meta: dict[str, Any]) -> NetworkConfig:
    width = _first_channels(params, "darkir")
    branches = _count(params, r"(?:middle_blks_dec|decoders\.\d+)\.modules_list\.\d+\.branches\.(\d+)\.")
    levels = _count(params, r"downs\.(\d+)\.")
    if not width or not branches or not levels:
        raise ModelError(f"not the weights of a whole DarkIR or Restormer; it holds {shortened(params)}")
    dilations = NetworkConfig.dilations
    if isinstance(described := meta.get("network"), dict):
        dilations = described.get("dilations", dilations)
    if not isinstance(dilations, (list, tuple)) or not all(type(value) is int for value in dilations):
        raise ModelError(f"network.dilations must be a list of whole numbers, not {dilations!r:.100}")
    if len(dilations) != branches:
        raise ModelError(f"{branches} branches a block, but dilations for {len(dilations)}; the file must name them")
    return NetworkConfig(
        width=width,
        enc_blocks=tuple(_count(params, rf"encoders\.{level}\.modules_list\.(\d+)\.") for level in range(levels)),
        middle_enc_blocks=_count(params, r"middle_blks_enc\.modules_list\.(\d+)\."),
        middle_dec_blocks=_count(params, r"middle_blks_dec\.modules_list\.(\d+)\."),
        dec_blocks=tuple(_count(params, rf"decoders\.{level}\.modules_list\.(\d+)\.") for level in range(levels)),
        dilations=tuple(dilations),
    )


def _restormer_of(params: Params) -> RestormerConfig:
    dim = params[FIRST_CONVOLUTION["restormer"]].shape[0]
    temperatures = [params.get(f"{level}.0.attn.temperature") for level in LEVEL_NAMES]
    widened = [params.get(f"{level}.0.ffn.project_in.weight") for level in LEVEL_NAMES]
    if any(tensor is None or tensor.ndim == 0 for tensor in (*temperatures, *widened)):
        raise ModelError(f"not the weights of a whole Restormer; it holds {shortened(params)}")
    return RestormerConfig(
        dim=dim,
        num_blocks=tuple(_count(params, rf"{level}\.(\d+)\.") for level in LEVEL_NAMES),
        num_refinement_blocks=_count(params, r"refinement\.(\d+)\."),
        heads=tuple(tensor.shape[0] for tensor in temperatures),
        ffn_expansion=_expansion(
            {dim * 2**level: tensor.shape[0] // 2 for level, tensor in enumerate(widened)},
        ),
        layer_norm="WithBias" if "encoder_level1.0.norm1.body.bias" in params else "BiasFree",
    )


def _expansion(hidden: dict[int, int]) -> float:
    """A factor that gives these hidden channels for these channels: the published one where it does, else the middle of all."""
    published = RestormerConfig.ffn_expansion
    if all(int(channels * published) == count for channels, count in hidden.items()):
        return published
    low = max(count / channels for channels, count in hidden.items())
    high = min((count + 1) / channels for channels, count in hidden.items())
    return (low + high) / 2


def _count(params: Params, pattern: str) -> int:
    """How many different indices the pattern finds at the start of the names."""
    return len({match[1] for name in params if (match := re.match(pattern, name))})
