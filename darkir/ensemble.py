"""Several networks of one shape as one: the mean of their clamped outputs, which is what an exported ensemble file holds.

Whoever scores or enhances photos runs the members one after another instead (engine/inference.py), with the same numbers: then
each can take a large photo in strips, and only one is at work at a time.
"""

from __future__ import annotations

import torch
from torch import nn

from darkir.network import DarkIR
from darkir.restormer import Restormer


class Ensemble(nn.Module):
    """members: name -> network, in eval mode as they are given. A tensor of its file is called `NAME.` and its published name."""

    def __init__(self, members: dict[str, DarkIR | Restormer]):
        super().__init__()
        self.members = nn.ModuleDict(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> the mean of the members' outputs, each clamped to [0, 1], of the same shape."""
        total = torch.zeros_like(x)
        for member in self.members.values():
            total = total + member(x).clamp(0.0, 1.0)
        return total / len(self.members)

    def params(self) -> dict[str, torch.Tensor]:
        """All tensors by the names that its file gives them."""
        members = self.members.items()
        return {f"{name}.{key}": tensor for name, member in members for key, tensor in member.state_dict().items()}
