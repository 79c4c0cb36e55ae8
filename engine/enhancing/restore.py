"""A photo's pixels -> the ensemble's restored pixels, with the networks at the photo's own size or at that of their training.

MERGED: A photo restored at a small size -> the photo at full size, changed by the same smooth local colour transform.

What the network did to a small copy is described by one affine colour transform a place, fitted in a window around it
(restored = A @ photo + b), and applied to the full-size pixels: tones and colours are carried over, detail stays the photo's own,
so noise and blur stay as well.
Source: He and Sun, "Fast Guided Filter", 2015, with a colour guide (He et al., "Guided Image Filtering", TPAMI 2013, section 3.5).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import InputError
from data.images import fit_crop_size
from engine.inference import Restore, restored_by_each


@torch.inference_mode()
def restore_photo(
    pixels: np.ndarray, restorers: dict[str, Restore], side: int | None, max_side: int | None, device: torch.device
) -> np.ndarray:
    """(H, W, 3) uint8 or uint16 sRGB -> the ensemble's restored photo, the same dtype, H and W at most `max_side`.

    Raises InputError when the output is not finite.
    """
    top = np.iinfo(pixels.dtype).max
    src = torch.from_numpy(pixels.astype(np.float32)).to(device).permute(2, 0, 1)[None].div_(top)
    height, width = src.shape[-2:]
    if max_side is not None and max(height, width) > max_side:
        src = _resized(src, *(max(1, round(length * max_side / max(height, width))) for length in (width, height)))
    if side is None or min(src.shape[-2:]) <= side:
        restored = _ensemble(restorers, src)
    else:
        small = _resized(src, *fit_crop_size(src.shape[-1], src.shape[-2], side, enlarge=False))
        restored = carry_over(src, small, _ensemble(restorers, small))
    if not restored.sum().isfinite():
        raise InputError("the networks' output is not finite; leave out --mixed_precision, or take other weights")
    restored = restored.clamp_(0.0, 1.0).mul_(top).round_()[0].permute(1, 2, 0).cpu().numpy()
    return restored.astype(pixels.dtype)


def _resized(x: torch.Tensor, width: int, height: int) -> torch.Tensor:
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp_(0.0, 1.0)


def _ensemble(restorers: dict[str, Restore], src: torch.Tensor) -> torch.Tensor:
    *_, (_, restored) = restored_by_each(restorers, src)
    return restored


RADIUS = 8  # pixels of the small copy
EPS = (
    1e-3  # variance in [0, 1] squared under which a window counts as flat: its colours are then averaged, not stretched
)
STRIP_PIXELS = 2**21


@torch.inference_mode()
def carry_over(
    photo: torch.Tensor, small: torch.Tensor, small_restored: torch.Tensor, radius: int = RADIUS, eps: float = EPS
) -> torch.Tensor:
    """Photo (B, 3, H, W), its small copy and that copy restored (B, 3, h, w), float32 in [0, 1] -> (B, 3, H, W), not clamped."""
    coefficients = _smooth(_affine(small, small_restored, radius, eps), radius)
    height, width = photo.shape[-2:]
    restored = torch.empty_like(photo)
    across = _places(width, photo.device)
    rows = max(1, STRIP_PIXELS // width)
    for down, strip, target in zip(
        _places(height, photo.device).split(rows), photo.split(rows, 2), restored.split(rows, 2), strict=True
    ):
        grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1).expand(len(photo), -1, -1, -1)
        here = F.grid_sample(coefficients, grid, mode="bilinear", padding_mode="border", align_corners=False)
        matrix = here[:, :9].unflatten(1, (3, 3))
        target.copy_((matrix * strip.unsqueeze(2)).sum(1) + here[:, 9:])
    return restored


def _affine(guide: torch.Tensor, output: torch.Tensor, radius: int, eps: float) -> torch.Tensor:
    """Least-squares colour transform of every window: (B, 9 + 3, h, w), the matrix [from, to] and the offset."""
    mean_in, mean_out = _smooth(guide, radius), _smooth(output, radius)
    variance = _covariance(guide, guide, mean_in, mean_in, radius) + eps * torch.eye(3, device=guide.device)
    matrix = torch.linalg.solve(variance, _covariance(guide, output, mean_in, mean_out, radius))
    offset = mean_out - (matrix.permute(0, 3, 4, 1, 2) * mean_in.unsqueeze(2)).sum(1)
    return torch.cat([matrix.permute(0, 3, 4, 1, 2).flatten(1, 2), offset], dim=1)


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


def _places(length: int, device: torch.device) -> torch.Tensor:
    """Pixel centres from -1 to 1."""
    return (2 * torch.arange(length, device=device, dtype=torch.float32) + 1) / length - 1
