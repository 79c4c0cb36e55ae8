"""Structure term and metric: SSIM with a Gaussian window of 11 and sigma 1.5, data range 1, no padding.

Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004, equation 13
(K1 = 0.01, K2 = 0.03), a channel at a time. Computed by pytorch-msssim.
"""

from __future__ import annotations

import pytorch_msssim
import torch

from losses.errors import LossError
from losses.precision import in_float32

WINDOW = 11


@in_float32
def ssim_per_image(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """SSIM of each image: (B, 3, H, W) in [0, 1] twice -> (B,) float32. H and W are at least 11."""
    # Contiguous planes keep CUDA off cuDNN, whose TF32 would ruin E[x^2] - E[x]^2.
    return pytorch_msssim.ssim(
        restored.contiguous(), target.contiguous(), data_range=1.0, size_average=False, win_size=WINDOW, win_sigma=1.5
    )


def ssim_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - mean SSIM over the batch, a float32 scalar. Restored is not clamped: a clamp would stop its gradient.

    Raises LossError when a side is under 11.
    """
    height, width = target.shape[-2:]
    if min(height, width) < WINDOW:
        raise LossError(
            f"--lambda_ssim: the images are {width} x {height}, and SSIM needs sides of at least {WINDOW}; "
            f"use --resolution {WINDOW} or more, or set --lambda_ssim 0"
        )
    return 1.0 - ssim_per_image(restored, target).mean()
