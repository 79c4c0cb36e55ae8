"""Restored, side output and target -> named, weighted float32 scalars, whose sum is the loss."""

from __future__ import annotations

import torch
from torch import nn

from common.errors import InputError
from losses.config import LossConfig
from losses.edge import edge_loss
from losses.frequency import frequency_loss
from losses.perceptual import PerceptualLoss, read_vgg_weights
from losses.pixel import l1_loss
from losses.side import side_loss
from losses.ssim import ssim_loss


class Objective(nn.Module):
    """The terms of `config` on `device`. A term of weight 0 is neither built nor computed.

    Raises InputError at once when the VGG19 weights that vgg or side need are missing or unusable: no term is dropped in silence.
    """

    def __init__(self, config: LossConfig, device: torch.device | str):
        super().__init__()
        self.weights = config.active()
        self.needs_side = "side" in self.weights
        self.vgg_source: str | None = None
        self.pair_terms = {"l1": l1_loss, "ssim": ssim_loss, "edge": edge_loss, "freq": frequency_loss}
        if config.needs_vgg:
            read = read_vgg_weights(config.vgg_weights)
            self.vgg_source = read.describe()
            self.perceptual = PerceptualLoss(read).to(device)
            self.pair_terms["vgg"] = self.perceptual

    def forward(
        self, restored: torch.Tensor, side: torch.Tensor | None, target: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Images (B, 3, H, W), side (B, 3, h, w) when needs_side -> {name: weight * term}, float32 scalars.

        Restored and side are not clamped. Raises InputError for shapes that do not fit a term.
        """
        if restored.shape != target.shape:
            raise InputError(f"restored {tuple(restored.shape)} and target {tuple(target.shape)} differ in shape")
        terms = {}
        for name, weight in self.weights.items():
            if name != "side":
                terms[name] = weight * self.pair_terms[name](restored, target)
            elif side is not None:
                terms[name] = weight * side_loss(side, target, self.perceptual)
            else:
                raise InputError("--lambda_side: the network gave no side output; call it with with_side=True")
        return terms

    def describe(self) -> list[str]:
        """Lines for the log: the weighted sum, and the VGG19 file when one is used."""
        total = " + ".join(f"{weight:g} {name}" for name, weight in self.weights.items())
        return [f"Loss: {total}", *([self.vgg_source] if self.vgg_source else [])]
