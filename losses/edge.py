"""Edge term: squared error of the Laplacian, the difference between an image and its low-pass version.

EdgeLoss of Zamir et al., "Multi-Stage Progressive Image Restoration" (MPRNet), CVPR 2021, with squared error in place
of Charbonnier. The Laplacian is that of Burt and Adelson, "The Laplacian Pyramid as a Compact Image Code", 1983.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from losses.numerics import blur, in_float32

KERNEL = (0.05, 0.25, 0.4, 0.25, 0.05)


@in_float32
def edge_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared Laplacian of (restored - target), (B, 3, H, W); a float32 scalar. Restored is not clamped.

    The Laplacian is linear, so one of the difference equals the difference of two.
    """
    return laplacian(restored - target).square().mean()


def laplacian(image: torch.Tensor) -> torch.Tensor:
    """Image (B, C, H, W) float32 minus its low-pass: blurred, every other pixel kept, zeros between, blurred again."""
    blurred = _blur(image)
    sparse = torch.zeros_like(blurred)
    # Of four pixels one is kept; times 4 keeps the mean.
    sparse[..., ::2, ::2] = blurred[..., ::2, ::2] * 4.0
    return image - _blur(sparse)


def _blur(image: torch.Tensor) -> torch.Tensor:
    radius = len(KERNEL) // 2
    return blur(functional.pad(image, (radius, radius, radius, radius), mode="replicate"), KERNEL)
