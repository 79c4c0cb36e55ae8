"""The operations that a DarkIR block is made of, as one set that can be exchanged; `darkir/plain.py` is the readable one.

A set is plain functions in a named tuple, so that a network that holds one can be copied. All of them take and return
(B, C, H, W) tensors and have gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

Tensor = torch.Tensor


class Operations(NamedTuple):
    """layer_norm(x, weight (C,), bias (C,), eps): every pixel normalised over its channels.

    gated_branches(x (B, 2C, H, W), weights [(2C, 1, 3, 3)], biases [(2C,)], dilations) -> gated (B, C, H, W), its mean over
        the pixels (B, C, 1, 1): depthwise convolutions of the same x, summed, the two halves of the sum multiplied.
    gate(x (B, 2C, H, W)) -> (B, C, H, W): the two halves multiplied.
    scale_channels(x, factor (B, C, 1, 1)): x * factor.
    add_scaled(x, scale (1, C, 1, 1), change): x + scale * change.
    add_modulated(x, scale (1, C, 1, 1), factor): x + scale * (x * factor).
    spectrum(x real) -> magnitude (B, C, H, W // 2 + 1), phasor (the same, 2); synthesis(magnitude, phasor, W) -> real x:
        see darkir/spectral.py.
    """

    name: str
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    gated_branches: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor], tuple[int, ...]], tuple[Tensor, Tensor]]
    gate: Callable[[Tensor], Tensor]
    scale_channels: Callable[[Tensor, Tensor], Tensor]
    add_scaled: Callable[[Tensor, Tensor, Tensor], Tensor]
    add_modulated: Callable[[Tensor, Tensor, Tensor], Tensor]
    spectrum: Callable[[Tensor], tuple[Tensor, Tensor]]
    synthesis: Callable[[Tensor, Tensor, int], Tensor]

    def __deepcopy__(self, memo: dict) -> Operations:
        # A set is constant, and torch's custom operators cannot be copied: copies of a network share it.
        return self
