"""Frequency term: squared error of the amplitude spectrum.

Amplitude carries the illumination of a photo and phase its structure: Li et al., "Embedding Fourier for Ultra-High-
Definition Low-Light Image Enhancement" (UHDFour), ICLR 2023; DarkIR's encoder works on the same amplitude (CVPR 2025).
"""

from __future__ import annotations

import torch
from torch.nn import functional

from losses.numerics import in_float32


@in_float32
def frequency_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of (|rfft2(restored)| - |rfft2(target)|)^2, norm ortho, over (B, 3, H, W // 2 + 1); a float32 scalar.

    float32 because 16-bit transforms overflow or do not exist. The gradient of |z| at z = 0 is 0, so black and constant
    images train. Restored is not clamped.
    """
    ours, theirs = (torch.fft.rfft2(image, norm="ortho").abs() for image in (restored, target))
    return functional.mse_loss(ours, theirs)
