"""Exponential moving average of the weights: what is validated, kept as best and shipped."""

from __future__ import annotations

import copy

import torch
from torch import nn

from darkir.engine.schedule import ema_decay


class WeightAverage:
    """Holds `network`, a copy whose weights follow another network's; decay 0 follows it exactly."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, update: int) -> None:
        """Move towards `network` after optimizer update number `update` (from 0)."""
        decay = ema_decay(update, self.decay) if self.decay else 0.0
        averages, weights = list(self.network.parameters()), list(network.parameters())
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
