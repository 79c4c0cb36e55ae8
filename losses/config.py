"""The options of the objective: the weight of every loss term. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.options import option

TERMS = ("l1", "vgg", "ssim", "edge", "freq", "side")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms. Raises ValueError naming the flag when one is negative or not finite, or all are 0."""

    lambda_l1: float = option(1.0, "weight of L1; 0 leaves it out")
    lambda_vgg: float = option(0.1, "weight of the VGG19 perceptual term; 0 leaves it out")
    lambda_ssim: float = option(0.1, "weight of 1 - SSIM; 0 leaves it out")
    lambda_edge: float = option(0.0, "weight of the Laplacian edge term; 0 leaves it out")
    lambda_freq: float = option(0.0, "weight of the Fourier amplitude term; 0 leaves it out")
    lambda_side: float = option(
        0.0, "weight of the side output's term (L1 + 0.01 VGG19 at 1/8 size; needs the VGG19 weights); 0 leaves it out"
    )
    vgg_weights: str | None = option(
        None,
        "VGG19 weights file (without: vgg19-dcbb9e9d.pth in torch's hub cache)",
        changes_result=False,  # its content does: a run records its digest
    )

    def __post_init__(self) -> None:
        for term in TERMS:
            weight = getattr(self, f"lambda_{term}")
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"--lambda_{term} {weight}: a loss weight is 0 or more")
        if not self.active():
            flags = ", ".join(f"--lambda_{term}" for term in TERMS)
            raise ValueError(f"all loss weights are 0, so there is nothing to train on; set one of {flags}")

    @property
    def needs_vgg(self) -> bool:
        """Whether a term uses VGG19."""
        return bool({"vgg", "side"} & {*self.active()})

    def active(self) -> dict[str, float]:
        """Terms with a weight above 0, by name."""
        weights = {term: getattr(self, f"lambda_{term}") for term in TERMS}
        return {term: weight for term, weight in weights.items() if weight > 0}
