"""A checkpoint file of any known kind -> a network's parameters, and those into a network, strictly.

The only place that knows wrappers (params, state_dict, ...) and key prefixes.

MERGED: Parameters by their published names -> which network they are of, and its shape, read off the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from darkir.architectures import MODEL_SIZES, NAMES, Config, NetworkConfig, RestormerConfig, size_of, width_of
from darkir.checkpoint_file import read_checkpoint
from darkir.errors import ModelError
from darkir.network import DarkIR
from darkir.restormer import Restormer

# In order of preference: where a file has both, params_ema is the average that its makers deploy.
WRAPPERS = ("params_ema", "params", "model_state_dict", "state_dict")
PREFIXES = ("module.", "_orig_mod.")


Network = DarkIR | Restormer


def make_network(config: Config) -> Network:
    """A network of this shape with fresh weights."""
    return DarkIR(config) if isinstance(config, NetworkConfig) else Restormer(config)


@dataclass(frozen=True)
class Weights:
    """Parameters by their published names, `meta` (all else that stood in the file) and the file they came from."""

    params: dict[str, torch.Tensor]
    meta: dict[str, Any]
    source: Path

    @property
    def config(self) -> Config:
        """The network's shape, read off the tensors. Raises ModelError when they are not those of a whole network."""
        try:
            return config_of(self.params, self.meta)
        except ModelError as error:
            raise ModelError(f"{self.source}: {error}") from error


def load_network(path: str | Path, device: str | torch.device = "cpu") -> Network:
    """The DarkIR or Restormer in `path` in eval mode on `device`, float32, its size read off the file.

    Raises ModelError when the file cannot be used or is not exactly such a network.
    """
    weights = read_weights(path)
    network = make_network(weights.config)
    load_into(network, weights.params, weights.source)
    return network.eval().to(device)


def read_weights(path: str | Path) -> Weights:
    """The parameters in `path`: on the CPU, unwrapped, prefixes removed, finite. Raises ModelError naming the file."""
    return weights_in(read_checkpoint(path), Path(path))


def weights_in(checkpoint: dict[str, Any], path: Path) -> Weights:
    """`read_weights` for what `read_checkpoint` has read from `path` already."""
    wrapper = next((name for name in WRAPPERS if isinstance(checkpoint.get(name), dict)), None)
    found = checkpoint if wrapper is None else checkpoint[wrapper]
    meta = {} if wrapper is None else {name: value for name, value in checkpoint.items() if name != wrapper}
    if not found or not all(isinstance(name, str) and is_dense(value) for name, value in found.items()):
        raise ModelError(
            f"{path}: no weights found; expected floating-point tensors under one of {', '.join(WRAPPERS)}, "
            f"or such tensors only; "
            f"it holds {shortened(found)}"
        )
    params = {_bare_name(name): tensor for name, tensor in found.items()}
    if len(params) < len(found):
        raise ModelError(f"{path}: holds some tensors twice, with and without {' or '.join(PREFIXES)}; keep one set")
    broken = [name for name, tensor in params.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(
            f"{path}: {len(broken)} of {len(params)} tensors hold NaN or Infinity: {shortened(broken)}; "
            f"use a checkpoint from before the training diverged"
        )
    return Weights(params, meta, path)


def load_into(
    network: nn.Module, params: dict[str, torch.Tensor], source: str | Path, allow_partial: bool = False
) -> str:
    """Copy `params` into `network` and say how many of its tensors were set: "343 of 343 tensors".

    Raises ModelError, with the network unchanged, when anything is missing, unexpected or of another shape. With
    allow_partial, missing and unexpected names are only told in the report; another shape, or no match, stays an error.
    """
    own = network.state_dict()
    matched = {name: tensor for name, tensor in params.items() if name in own and own[name].shape == tensor.shape}
    reshaped = [name for name in own if name in params and name not in matched]
    missing = [name for name in own if name not in params]
    unexpected = [name for name in params if name not in own]

    report = [f"{len(matched)} of {len(own)} tensors"]
    if missing:
        report.append(f"missing {len(missing)}: {shortened(missing)}")
    if unexpected:
        report.append(f"unexpected {len(unexpected)}: {shortened(unexpected)}")
    if reshaped:
        report.append(f"of another shape {len(reshaped)}: {shortened(_shapes(reshaped, params, own))}")
    text = "; ".join(report)

    if reshaped or not matched:
        raise ModelError(f"{source}: {text}{_other_kind(params, own)}")
    if advice := _norm_advice(missing, unexpected):  # a refusal whatever was allowed: it would be another network
        raise ModelError(f"{source}: {text}{advice}")
    if (missing or unexpected) and not allow_partial:
        raise ModelError(
            f"{source}: {text}; use a complete file, or --allow_partial to start from the tensors that match"
        )
    network.load_state_dict(matched, strict=False)
    return text


def is_dense(value: object) -> bool:
    """Whether `value` is an ordinary floating-point tensor, which all weights are."""
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and value.is_floating_point()


def _bare_name(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _shapes(names: list[str], params: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> list[str]:
    return [f"{name} {tuple(params[name].shape)} for {tuple(own[name].shape)}" for name in names]


def _other_kind(params: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> str:
    theirs, ours = kind_of(params), kind_of(own)
    if theirs is None or ours is None or theirs == ours:
        return "; these are not the weights of this network"
    return f"; the file holds a {theirs}, the network is a {ours}"


def _norm_advice(missing: list[str], unexpected: list[str]) -> str:
    """What to do when a Restormer differs in its LayerNorm alone."""
    for names, others, kind in ((missing, unexpected, "BiasFree"), (unexpected, missing, "WithBias")):
        if names and not others and all(name.endswith(".body.bias") for name in names):
            return f"; the file's LayerNorm is {kind}: --layer_norm {kind}"
    return ""


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
