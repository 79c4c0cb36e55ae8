"""The set TRITON: the operators of this package behind the interface of darkir/operations.py.

They are torch custom operators, not Triton operators that torch.compile looks into: it would fuse nothing into these
kernels, and only a custom operator also runs under Triton's interpreter, where the tests run them. Compiled code calls them
as they are. In eager mode an operator costs some tens of microseconds of Python: CUDA graphs hide that.

Under autocast, layer_norm and gated_branches return the 16-bit dtype (the convolutions that read them round to it anyway),
sums with a residual stay float32 as in plain PyTorch, and weights are read in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from darkir.kernels import gated_branches as branches
from darkir.kernels import layer_norm as norm
from darkir.kernels.gate import gate
from darkir.kernels.residual import add_modulated, add_scaled
from darkir.kernels.scaling import scale_channels
from darkir.kernels.transforms import spectrum, synthesis
from darkir.operations import Operations


def _autocast_dtype(x: torch.Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    return norm.layer_norm(x, weight, bias, eps, _autocast_dtype(x))


def gated_branches(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], dilations: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    return branches.gated_branches(x.to(_autocast_dtype(x)), torch.cat(weights), torch.cat(biases), dilations)


TRITON = Operations(
    name="triton",
    layer_norm=layer_norm,
    gated_branches=gated_branches,
    gate=gate,
    scale_channels=scale_channels,
    add_scaled=add_scaled,
    add_modulated=add_modulated,
    spectrum=spectrum,
    synthesis=synthesis,
)
