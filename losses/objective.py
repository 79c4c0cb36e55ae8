"""Restored, side output and target -> named, weighted float32 scalars, whose sum is the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from losses.edge import edge_loss
from losses.errors import LossError
from losses.frequency import frequency_loss
from losses.perceptual import PerceptualLoss
from losses.pixel import l1_loss
from losses.side import side_loss
from losses.ssim import ssim_loss
from losses.vgg_weights import read_vgg_weights

TERMS = ("l1", "vgg", "ssim", "edge", "freq", "side")


def _weight(default: float, term: str) -> float:
    return field(default=default, metadata={"help": f"weight of {term}; 0 leaves it out"})


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms. Raises ValueError naming the flag when one is negative or not finite, or all are 0."""

    lambda_l1: float = _weight(1.0, "L1")
    lambda_vgg: float = _weight(0.1, "the VGG19 perceptual term")
    lambda_ssim: float = _weight(0.1, "1 - SSIM")
    lambda_edge: float = _weight(0.0, "the Laplacian edge term")
    lambda_freq: float = _weight(0.0, "the Fourier amplitude term")
    lambda_side: float = _weight(0.0, "the side output's term (L1 + 0.01 VGG19 at 1/8 size; needs the VGG19 weights)")
    vgg_weights: str | None = field(
        default=None, metadata={"help": "VGG19 weights file (without: vgg19-dcbb9e9d.pth in torch's hub cache)"}
    )

    def __post_init__(self) -> None:
        for term in TERMS:
            weight = getattr(self, f"lambda_{term}")
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"--lambda_{term} {weight}: a loss weight is 0 or more")
        if not self.active():
            flags = ", ".join(f"--lambda_{term}" for term in TERMS)
            raise ValueError(f"all loss weights are 0, so there is nothing to train on; set one of {flags}")

    def active(self) -> dict[str, float]:
        """Terms with a weight above 0, by name."""
        weights = {term: getattr(self, f"lambda_{term}") for term in TERMS}
        return {term: weight for term, weight in weights.items() if weight > 0}


class Objective(nn.Module):
    """The terms of `config` on `device`. A term of weight 0 is neither built nor computed.

    Raises LossError at once when the VGG19 weights that vgg or side need cannot be had: no term is dropped in silence.
    """

    def __init__(self, config: LossConfig, device: torch.device | str):
        super().__init__()
        self.weights = config.active()
        self.needs_side = "side" in self.weights
        self.vgg_source: str | None = None
        self.pair_terms = {"l1": l1_loss, "ssim": ssim_loss, "edge": edge_loss, "freq": frequency_loss}
        if "vgg" in self.weights or self.needs_side:
            read = read_vgg_weights(config.vgg_weights)
            self.vgg_source = read.describe()
            self.perceptual = PerceptualLoss(read).to(device)
            self.pair_terms["vgg"] = self.perceptual

    def forward(
        self, restored: torch.Tensor, side: torch.Tensor | None, target: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Images (B, 3, H, W), side (B, 3, h, w) when needs_side -> {name: weight * term}, float32 scalars.

        Restored and side are not clamped. Raises LossError for shapes that do not fit a term.
        """
        if restored.shape != target.shape:
            raise LossError(f"restored {tuple(restored.shape)} and target {tuple(target.shape)} differ in shape")
        if self.needs_side and side is None:
            raise LossError("--lambda_side: the network gave no side output; call it with with_side=True")
        terms = {}
        for name, weight in self.weights.items():
            if name == "side":
                terms[name] = weight * side_loss(side, target, self.perceptual)
            else:
                terms[name] = weight * self.pair_terms[name](restored, target)
        return terms

    def describe(self) -> list[str]:
        """Lines for the log: the weighted sum, and the VGG19 file when one is used."""
        total = " + ".join(f"{weight:g} {name}" for name, weight in self.weights.items())
        return [f"Loss: {total}", *([self.vgg_source] if self.vgg_source else [])]
