"""A checkpoint file of any known kind -> DarkIR's parameters, and those into a network, strictly.

The only place that knows wrappers (params, state_dict, ...) and key prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from darkir.checkpoint_file import read_checkpoint
from darkir.errors import ModelError
from darkir.network import DarkIR, NetworkConfig

# m and l are the published sizes; tiny is for trying things out and for tests.
MODEL_SIZES = {"m": 32, "l": 64, "tiny": 8}

# In order of preference: where a file has both, params_ema is the average that its makers deploy.
WRAPPERS = ("params_ema", "params", "model_state_dict", "state_dict")
PREFIXES = ("module.", "_orig_mod.")
NAMES_SHOWN = 5


@dataclass(frozen=True)
class Weights:
    """Parameters by their published names, `meta` (all else that stood in the file) and the file they came from."""

    params: dict[str, torch.Tensor]
    meta: dict[str, Any]
    source: Path

    @property
    def config(self) -> NetworkConfig:
        """The network's shape, read off the tensors; dilations leave no trace there: from the file's description.

        Raises ModelError when the parameters are not those of a whole DarkIR.
        """
        return _config_of(self.params, self.meta, self.source)


def load_network(path: str | Path, device: str | torch.device = "cpu") -> DarkIR:
    """The network in `path` in eval mode on `device`, float32, its size read off the file.

    Raises ModelError when the file cannot be used or is not exactly a DarkIR.
    """
    weights = read_weights(path)
    network = DarkIR(weights.config)
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
            f"it holds {_names(found)}"
        )
    params = {_bare_name(name): tensor for name, tensor in found.items()}
    if len(params) < len(found):
        raise ModelError(f"{path}: holds some tensors twice, with and without {' or '.join(PREFIXES)}; keep one set")
    broken = [name for name, tensor in params.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(
            f"{path}: {len(broken)} of {len(params)} tensors hold NaN or Infinity: {_names(broken)}; "
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
        report.append(f"missing {len(missing)}: {_names(missing)}")
    if unexpected:
        report.append(f"unexpected {len(unexpected)}: {_names(unexpected)}")
    if reshaped:
        report.append(f"of another shape {len(reshaped)}: {_names(_shapes(reshaped, params, own))}")
    text = "; ".join(report)

    if not matched:
        raise ModelError(f"{source}: {text}; these are not the weights of this network")
    if reshaped:
        raise ModelError(f"{source}: {text}{_size_advice(params, own)}")
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


def _names(names: Collection[str]) -> str:
    shown = ", ".join(str(name) for name in list(names)[:NAMES_SHOWN])
    return shown + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


def _shapes(names: list[str], params: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> list[str]:
    return [f"{name} {tuple(params[name].shape)} for {tuple(own[name].shape)}" for name in names]


def _size_advice(params: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> str:
    widths = [tensors["intro.weight"].shape[0] for tensors in (params, own) if "intro.weight" in tensors]
    if len(widths) < 2 or widths[0] == widths[1]:
        return "; these are not the weights of this network"
    sizes = {width: f" (--model_size {size})" for size, width in MODEL_SIZES.items()}
    theirs, ours = (f"{width}{sizes.get(width, '')}" for width in widths)
    return f"; the file is of width {theirs}, the network of width {ours}"


def _config_of(params: dict[str, torch.Tensor], meta: dict[str, Any], source: Path) -> NetworkConfig:
    branches = _count(params, r"(?:middle_blks_dec|decoders\.\d+)\.modules_list\.\d+\.branches\.(\d+)\.")
    levels = _count(params, r"downs\.(\d+)\.")
    if "intro.weight" not in params or not branches or not levels:
        raise ModelError(f"{source}: not the weights of a whole DarkIR; it holds {_names(params)}")
    dilations = NetworkConfig.dilations
    if isinstance(described := meta.get("network"), dict):
        dilations = described.get("dilations", dilations)
    if not isinstance(dilations, (list, tuple)) or not all(type(value) is int for value in dilations):
        raise ModelError(f"{source}: network.dilations must be a list of whole numbers, not {dilations!r:.100}")
    if len(dilations) != branches:
        raise ModelError(
            f"{source}: {branches} branches a block, but dilations for {len(dilations)}; the file must name them"
        )
    return NetworkConfig(
        width=params["intro.weight"].shape[0],
        enc_blocks=tuple(_count(params, rf"encoders\.{level}\.modules_list\.(\d+)\.") for level in range(levels)),
        middle_enc_blocks=_count(params, r"middle_blks_enc\.modules_list\.(\d+)\."),
        middle_dec_blocks=_count(params, r"middle_blks_dec\.modules_list\.(\d+)\."),
        dec_blocks=tuple(_count(params, rf"decoders\.{level}\.modules_list\.(\d+)\.") for level in range(levels)),
        dilations=tuple(dilations),
    )


def _count(params: dict[str, torch.Tensor], pattern: str) -> int:
    """How many different indices the pattern finds at the start of the names."""
    return len({match[1] for name in params if (match := re.match(pattern, name))})
