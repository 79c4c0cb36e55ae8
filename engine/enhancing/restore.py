"""A photo's pixels -> the ensemble's restored pixels, with the networks at the photo's own size or at that of their training.

At the training's size the networks see a small copy. What they did to it is described by one affine colour transform per place,
fitted in a window around it (restored = A @ photo + b), and applied to the full-size pixels: tones and colours are carried over,
detail stays the photo's own, so noise and blur stay as well.
Source: He and Sun, "Fast Guided Filter", 2015, with a colour guide (He et al., "Guided Image Filtering", TPAMI 2013, section 3.5).
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import InputError
from data.images import fit_crop_size
from engine.inference import Restore, restored_by_each

RADIUS = 8  # pixels of the small copy
# Variance in [0, 1] squared under which a window counts as flat: its colours are then averaged, not stretched.
EPS = 1e-3
STRIP_PIXELS = 2**21  # of the full-size photo, transformed at once


@torch.inference_mode()
def restore_photo(
    pixels: np.ndarray,
    restorers: dict[str, Restore],
    short_side: int | None,
    max_side: int | None,
    device: torch.device,
) -> np.ndarray:
    """(H, W, 3) uint8 or uint16 sRGB -> the ensemble's restored photo, the same dtype, H and W at most `max_side`.

    short_side: pixels of the copy that the networks see; None, and photos no larger than that: the photo itself.
    Raises InputError when the output is not finite, OutOfMemory when a network has no room for it.
    """
    top = np.iinfo(pixels.dtype).max
    src = torch.from_numpy(pixels.astype(np.float32)).to(device).permute(2, 0, 1)[None].div_(top)
    height, width = src.shape[-2:]
    if max_side is not None and max(height, width) > max_side:
        src = _resized(src, *(max(1, round(length * max_side / max(height, width))) for length in (width, height)))
    height, width = src.shape[-2:]
    seen = src
    if short_side is not None and min(height, width) > short_side:
        seen = _resized(src, *fit_crop_size(width, height, short_side, enlarge=False))
    # The last is the ensemble's; in a list, all of them would stay in memory.
    ((_, restored),) = deque(restored_by_each(restorers, seen), maxlen=1)
    if seen is not src:
        restored = carry_over(src, seen, restored)
    if not restored.sum().isfinite():
        raise InputError("the networks' output is not finite; leave out --mixed_precision, or take other weights")
    return restored.clamp_(0.0, 1.0).mul_(top).round_()[0].permute(1, 2, 0).cpu().numpy().astype(pixels.dtype)


def _resized(x: torch.Tensor, width: int, height: int) -> torch.Tensor:
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp_(0.0, 1.0)


@torch.inference_mode()
def carry_over(
    photo: torch.Tensor, small: torch.Tensor, small_restored: torch.Tensor, radius: int = RADIUS, eps: float = EPS
) -> torch.Tensor:
    """Photo (B, 3, H, W), its small copy and that copy restored (B, 3, h, w), float32 in [0, 1] -> (B, 3, H, W), not clamped."""
    coefficients = _smooth(_affine(small, small_restored, radius, eps), radius)
    height, width = photo.shape[-2:]
    restored = torch.empty_like(photo)
    across, down = (_centres(length, photo.device) for length in (width, height))
    rows = max(1, STRIP_PIXELS // width)
    for places, strip, target in zip(down.split(rows), photo.split(rows, 2), restored.split(rows, 2), strict=True):
        grid = torch.stack(torch.meshgrid(across, places, indexing="xy"), dim=-1).expand(len(photo), -1, -1, -1)
        here = F.grid_sample(coefficients, grid, mode="bilinear", padding_mode="border", align_corners=False)
        matrix = here[:, :9].unflatten(1, (3, 3))
        target.copy_((matrix * strip.unsqueeze(2)).sum(1) + here[:, 9:])
    return restored


def _affine(guide: torch.Tensor, output: torch.Tensor, radius: int, eps: float) -> torch.Tensor:
    """Least-squares colour transform of every window: (B, 9 + 3, h, w), the matrix [from, to] and the offset."""
    mean_in, mean_out = _smooth(guide, radius), _smooth(output, radius)
    variance = _covariance(guide, guide, mean_in, mean_in, radius) + eps * torch.eye(3, device=guide.device)
    matrix = torch.linalg.solve(variance, _covariance(guide, output, mean_in, mean_out, radius))
    matrix = matrix.permute(0, 3, 4, 1, 2)
    offset = mean_out - (matrix * mean_in.unsqueeze(2)).sum(1)
    return torch.cat([matrix.flatten(1, 2), offset], dim=1)


def _covariance(
    first: torch.Tensor, second: torch.Tensor, first_mean: torch.Tensor, second_mean: torch.Tensor, radius: int
) -> torch.Tensor:
    """Covariance of the channels in every window: (B, h, w, 3, 3)."""
    products = (first.unsqueeze(2) * second.unsqueeze(1)).flatten(1, 2)
    means = (first_mean.unsqueeze(2) * second_mean.unsqueeze(1)).flatten(1, 2)
    return (_smooth(products, radius) - means).unflatten(1, (3, 3)).permute(0, 3, 4, 1, 2)


def _smooth(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over a square of 2 * radius + 1 pixels, of those that lie in the image."""
    for kernel, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        x = F.avg_pool2d(x, kernel, stride=1, padding=padding, count_include_pad=False)
    return x


def _centres(length: int, device: torch.device) -> torch.Tensor:
    """Pixel centres from -1 to 1."""
    return (2 * torch.arange(length, device=device, dtype=torch.float32) + 1) / length - 1
