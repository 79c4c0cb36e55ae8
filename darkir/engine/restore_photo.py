"""A photo's pixels -> the ensemble's restored pixels, with the networks at the photo's own size or at that of their training."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from darkir.engine.ensemble import restored_by_each
from darkir.engine.evaluation import Restore
from darkir.local_colour import carry_over
from data.errors import DataError
from data.images import fit_crop_size


@torch.inference_mode()
def restore_photo(
    pixels: np.ndarray, restorers: dict[str, Restore], side: int | None, max_side: int | None, device: torch.device
) -> np.ndarray:
    """(H, W, 3) uint8 or uint16 sRGB -> the ensemble's restored photo, the same dtype, H and W at most `max_side`.

    Raises DataError when the output is not finite.
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
        raise DataError("the networks' output is not finite; leave out --mixed_precision, or take other weights")
    restored = restored.clamp_(0.0, 1.0).mul_(top).round_()[0].permute(1, 2, 0).cpu().numpy()
    return restored.astype(pixels.dtype)


def _resized(x: torch.Tensor, width: int, height: int) -> torch.Tensor:
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp_(0.0, 1.0)


def _ensemble(restorers: dict[str, Restore], src: torch.Tensor) -> torch.Tensor:
    *_, (_, restored) = restored_by_each(restorers, src)
    return restored
