"""Pixel term: mean absolute error.

L1 restores sharper than squared error: Zhao et al., "Loss Functions for Image Restoration with Neural Networks",
IEEE TCI 2017, section III-A.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from losses.numerics import in_float32


@in_float32
def l1_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of |restored - target| over (B, 3, H, W), any float dtype; a float32 scalar. Restored is not clamped."""
    return functional.l1_loss(restored, target)
