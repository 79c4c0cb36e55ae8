"""A checkpoint file of any known kind -> parameters by their published names -> the network that they are of, strictly.

The only place that knows wrappers (params, state_dict, ...) and key prefixes. A network's shape is read off its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from darkir.architectures import MODEL_SIZES, NAMES, Config, NetworkConfig, RestormerConfig, width_of
from darkir.checkpoint_file import MEMBERS, read_checkpoint
from darkir.ensemble import Ensemble
from darkir.errors import ModelError
from darkir.network import DarkIR
from darkir.restormer import Restormer

# In order of preference: where a file has both, params_ema is the average that its makers deploy.
WRAPPERS = ("params_ema", "params", "model_state_dict", "state_dict")
PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
FIRST_CONVOLUTION = {"darkir": "intro.weight", "restormer": "patch_embed.proj.weight"}
RESTORMER_LEVELS = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
NAMES_SHOWN = 5
ONLY = ""  # the name of a network that is alone in its file

Network = DarkIR | Restormer
Params = dict[str, torch.Tensor]


def make_network(config: Config) -> Network:
    """A network of this shape with fresh weights."""
    return DarkIR(config) if isinstance(config, NetworkConfig) else Restormer(config)


def load_network(path: str | Path, device: str | torch.device = "cpu") -> Network | Ensemble:
    """The DarkIR or Restormer in `path` in eval mode on `device`, float32, its size read off the file; for a file of several
    networks their Ensemble.

    Raises ModelError when the file cannot be used or is not exactly such a network.
    """
    networks: dict[str, Network] = {}
    for name, weights in read_members(path).items():
        networks[name] = make_network(weights.config)
        load_into(networks[name], weights.params, weights.source)
    whole: Network | Ensemble = Ensemble(networks) if ONLY not in networks else networks[ONLY]
    return whole.eval().to(device)


@dataclass(frozen=True)
class Weights:
    """Parameters by their published names, `meta` (all else that stood in the file) and the file they came from."""

    params: Params
    meta: dict[str, Any]
    source: Path

    @property
    def config(self) -> Config:
        """The network's shape, read off the tensors. Raises ModelError when they are not those of a whole network."""
        try:
            if _first_channels(self.params, "restormer"):
                return _restormer_of(self.params)
            return _darkir_of(self.params, self.meta)
        except ModelError as error:
            raise ModelError(f"{self.source}: {error}") from error


def read_weights(path: str | Path) -> Weights:
    """The parameters in `path`: on the CPU, unwrapped, prefixes removed, finite. Raises ModelError naming the file."""
    return weights_in(read_checkpoint(path), Path(path))


def read_members(path: str | Path) -> dict[str, Weights]:
    """`read_weights` of every network in `path`, by name; a file of one network has it under the name ONLY."""
    checkpoint = read_checkpoint(path)
    members = checkpoint.pop(MEMBERS, None)
    if not isinstance(members, dict) or not all(isinstance(params, dict) for params in members.values()):
        return {ONLY: weights_in(checkpoint, Path(path))}
    return {name: weights_in({"params": params, **checkpoint}, Path(path)) for name, params in members.items()}


def weights_in(checkpoint: dict[str, Any], path: Path) -> Weights:
    """`read_weights` for what `read_checkpoint` has read from `path` already."""
    if isinstance(checkpoint.get(MEMBERS), dict):
        raise ModelError(
            f"{path}: an ensemble of {len(checkpoint[MEMBERS])} networks ({_shortened(checkpoint[MEMBERS])}), and one is needed "
            "here; export one of them (export_model.py --choose)"
        )
    wrapper = next((name for name in WRAPPERS if isinstance(checkpoint.get(name), dict)), None)
    found = checkpoint if wrapper is None else checkpoint[wrapper]
    meta = {} if wrapper is None else {name: value for name, value in checkpoint.items() if name != wrapper}
    if not found or not all(isinstance(name, str) and is_dense(value) for name, value in found.items()):
        raise ModelError(
            f"{path}: no weights found; expected tensors of 16 to 64 bit floating-point numbers under one of "
            f"{', '.join(WRAPPERS)}, or such tensors only; it holds {_shortened(found)}"
        )
    params = {PREFIXES.sub("", name): tensor for name, tensor in found.items()}
    if len(params) < len(found):
        raise ModelError(f"{path}: holds some tensors twice, with and without module. or _orig_mod.; keep one set")
    broken = [name for name, tensor in params.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(
            f"{path}: {len(broken)} of {len(params)} tensors hold NaN or Infinity: {_shortened(broken)}; "
            f"use a checkpoint from before the training diverged"
        )
    return Weights(params, meta, path)


def is_dense(value: object) -> bool:
    """Whether `value` is an ordinary floating-point tensor, which all weights are; float8 is none: it cannot be computed with."""
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and value.dtype in WEIGHT_TYPES


def load_into(network: nn.Module, params: Params, source: str | Path, allow_partial: bool = False) -> str:
    """Copy `params` into `network` and say how many of its tensors were set: "343 of 343 tensors".

    Raises ModelError, with the network unchanged, when anything is missing, unexpected or of another shape. With
    allow_partial, missing and unexpected names are only told in the report; another shape, or no match, stays an error.
    """
    own = network.state_dict()
    matched = {name: tensor for name, tensor in params.items() if name in own and own[name].shape == tensor.shape}
    reshaped = [name for name in own if name in params and name not in matched]
    missing = [name for name in own if name not in params]
    unexpected = [name for name in params if name not in own]

    report = f"{len(matched)} of {len(own)} tensors"
    if missing:
        report += f"; missing {len(missing)}: {_shortened(missing)}"
    if unexpected:
        report += f"; unexpected {len(unexpected)}: {_shortened(unexpected)}"
    if reshaped:
        shapes = [f"{name} {tuple(params[name].shape)} for {tuple(own[name].shape)}" for name in reshaped]
        report += f"; of another shape {len(reshaped)}: {_shortened(shapes)}"

    if reshaped or not matched:
        theirs, ours = _kind_of(params), _kind_of(own)
        if theirs is None or ours is None or theirs == ours:
            raise ModelError(f"{source}: {report}; these are not the weights of this network")
        raise ModelError(f"{source}: {report}; the file holds a {theirs}, the network is a {ours}")
    # A Restormer that differs in its LayerNorm alone is refused whatever was allowed: it would be another network.
    for names, others, kind in ((missing, unexpected, "BiasFree"), (unexpected, missing, "WithBias")):
        if names and not others and all(name.endswith(".body.bias") for name in names):
            raise ModelError(f"{source}: {report}; the file's LayerNorm is {kind}: --layer_norm {kind}")
    if (missing or unexpected) and not allow_partial:
        raise ModelError(
            f"{source}: {report}; use a complete file, or --allow_partial to start from the tensors that match"
        )
    network.load_state_dict(matched, strict=False)
    return report


def _kind_of(params: Params) -> str | None:
    """`Restormer of dim 24 (--arch restormer --model_size m)`, by the first convolution alone; None without one."""
    for arch, sizes in MODEL_SIZES.items():
        channels = _first_channels(params, arch)
        if channels:
            words = f"{'width' if arch == 'darkir' else 'dim'} {channels}"
            flags = [] if arch == "darkir" else [f"--arch {arch}"]
            flags += [f"--model_size {size}" for size, config in sizes.items() if width_of(config) == words]
            return f"{NAMES[arch]} of {words}" + (f" ({' '.join(flags)})" if flags else "")
    return None


def _first_channels(params: Params, arch: str) -> int | None:
    tensor = params.get(FIRST_CONVOLUTION[arch])
    return tensor.shape[0] if tensor is not None and tensor.ndim == 4 else None


def _darkir_of(params: Params, meta: dict[str, Any]) -> NetworkConfig:
    """The dilations leave no trace in the tensors: they come from `meta`, the file's description."""
    width = _first_channels(params, "darkir")
    branches = _count(params, r"(?:middle_blks_dec|decoders\.\d+)\.modules_list\.\d+\.branches\.(\d+)\.")
    levels = _count(params, r"downs\.(\d+)\.")
    if not width or not branches or not levels:
        raise ModelError(f"not the weights of a whole DarkIR or Restormer; it holds {_shortened(params)}")
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
    temperatures = [f"{level}.0.attn.temperature" for level in RESTORMER_LEVELS]
    widened = [f"{level}.0.ffn.project_in.weight" for level in RESTORMER_LEVELS]
    if any(name not in params or params[name].ndim == 0 for name in (*temperatures, *widened)):
        raise ModelError(f"not the weights of a whole Restormer; it holds {_shortened(params)}")
    hidden = {dim * 2**level: params[name].shape[0] // 2 for level, name in enumerate(widened)}
    expansion = RestormerConfig.ffn_expansion
    if any(int(channels * expansion) != count for channels, count in hidden.items()):
        # Not the published factor: of all that give these hidden channels, the middle.
        low = max(count / channels for channels, count in hidden.items())
        high = min((count + 1) / channels for channels, count in hidden.items())
        expansion = (low + high) / 2
    return RestormerConfig(
        dim=dim,
        num_blocks=tuple(_count(params, rf"{level}\.(\d+)\.") for level in RESTORMER_LEVELS),
        num_refinement_blocks=_count(params, r"refinement\.(\d+)\."),
        heads=tuple(params[name].shape[0] for name in temperatures),
        ffn_expansion=expansion,
        layer_norm="WithBias" if "encoder_level1.0.norm1.body.bias" in params else "BiasFree",
    )


def _count(params: Params, pattern: str) -> int:
    """How many different indices the pattern finds at the start of the names."""
    return len({match[1] for name in params if (match := re.match(pattern, name))})


def _shortened(names: Collection[object]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(str(name) for name in list(names)[:NAMES_SHOWN])
    return shown + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")
