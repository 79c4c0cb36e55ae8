"""Structure term and metric: SSIM with a Gaussian window of 11 and sigma 1.5, data range 1, no padding.

Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004, equation 13
(K1 = 0.01, K2 = 0.03), a channel at a time. Window and arithmetic are those of pytorch-msssim, the judge in the tests; they stand
here because a resumed run must go on bit for bit. (8, 3, 384, 384), forward and backward on one CPU thread: the library takes
1.4 times as long on NCHW images, 1.0 in training's memory formats, 0.8 with both channels_last, and differs by at most 1.2e-7.
"""

from __future__ import annotations

import torch

from common.errors import InputError
from losses.numerics import blur, in_float32

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
GAUSSIAN = torch.exp(-((torch.arange(WINDOW, dtype=torch.float32) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
TAPS = tuple((GAUSSIAN / GAUSSIAN.sum()).tolist())


@in_float32
def ssim_per_image(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """SSIM of each image: (B, 3, H, W) in [0, 1] twice -> (B,) float32. H and W are at least 11."""
    x, y = restored, target
    x_mean, x_square, product = blur(torch.cat([x, x * x, x * y], dim=1), TAPS).chunk(3, dim=1)
    # Apart from the others, because a target without gradient then costs nothing backwards.
    y_mean, y_square = blur(torch.cat([y, y * y], dim=1), TAPS).chunk(2, dim=1)
    xx, yy, xy = x_mean * x_mean, y_mean * y_mean, x_mean * y_mean
    luminance = (2 * xy + C1) / (xx + yy + C1)
    contrast_structure = (2 * (product - xy) + C2) / ((x_square - xx) + (y_square - yy) + C2)
    return (luminance * contrast_structure).flatten(2).mean(2).mean(1)


def ssim_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - mean SSIM over the batch, a float32 scalar. Restored is not clamped: a clamp would stop its gradient.

    Raises InputError when a side is under 11.
    """
    height, width = target.shape[-2:]
    if min(height, width) < WINDOW:
        raise InputError(
            f"--lambda_ssim: the images are {width} x {height}, and SSIM needs sides of at least {WINDOW}; "
            f"use --resolution {WINDOW} or more, or set --lambda_ssim 0"
        )
    return 1.0 - ssim_per_image(restored, target).mean()
