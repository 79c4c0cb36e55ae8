"""Loss terms run in float32 whatever the caller's autocast: sums of small squares do not survive 16 bits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

Term = Callable[..., torch.Tensor]


def in_float32(term: Term) -> Term:
    """Wrap a function of tensors: autocast is off inside, floating-point arguments arrive as float32."""

    @functools.wraps(term)
    def wrapper(*tensors: torch.Tensor) -> torch.Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return term(*(tensor.float() for tensor in tensors))

    return wrapper
