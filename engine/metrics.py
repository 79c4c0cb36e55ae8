"""Restored and target images -> PSNR, SSIM, L1 of each, and for a test its colours too (engine/colour_metrics.py).

Metrics: RGB over all pixels, float32, no rounding, no border crop. What is made of the numbers of many images:
engine/intervals.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from common.errors import InputError, RunFailed
from data.manifest import Pair
from engine.colour_metrics import colour_metrics
from losses.ssim import WINDOW, ssim_per_image

METRICS = ("psnr", "ssim", "l1")  # of training, its validation and every test
COLOUR = ("delta_e", "delta_e_p95", "clipped_percent", "crushed_percent")  # of a test, beside METRICS
LPIPS = "lpips"  # of a test that asks for it (engine/lpips_metric.py)
OPTIONAL = (*COLOUR, LPIPS)  # what results may lack
# Behind the point, in logs and reports.
DIGITS = {
    "psnr": 2,
    "ssim": 4,
    "l1": 4,
    "delta_e": 2,
    "delta_e_p95": 2,
    "clipped_percent": 2,
    "crushed_percent": 2,
    LPIPS: 4,
}
PSNR_CAP_DB = 100.0

Score = Callable[[torch.Tensor, torch.Tensor], list[float]]  # restored and target (B, 3, H, W) -> a number an image


@torch.no_grad()
def image_metrics(restored: torch.Tensor, target: torch.Tensor) -> list[dict[str, float]]:
    """Images (B, 3, H, W) sRGB, clamped to [0, 1] here -> [{"psnr" in dB, "ssim", "l1"}], one record an image.

    PSNR is 10 log10(1 / mean squared error), capped at 100 dB. SSIM: losses/ssim.py. An image's numbers do not depend
    on the rest of its batch. NaN in, NaN out. Raises InputError when the shapes differ or a side is under 11.
    """
    if restored.shape != target.shape:
        raise InputError(f"restored {tuple(restored.shape)} and target {tuple(target.shape)} differ in shape")
    height, width = target.shape[-2:]
    if min(height, width) < WINDOW:
        raise InputError(
            f"an image of {width} x {height} pixels cannot be scored: SSIM needs sides of at least {WINDOW}"
        )
    restored, target = restored.float().clamp(0.0, 1.0), target.float().clamp(0.0, 1.0)
    error = restored - target
    psnr = (-10.0 * error.square().mean(dim=(1, 2, 3)).log10()).clamp(max=PSNR_CAP_DB)
    columns = torch.stack([psnr, ssim_per_image(restored, target), error.abs().mean(dim=(1, 2, 3))], dim=1)
    return [{"psnr": psnr, "ssim": ssim, "l1": l1} for psnr, ssim, l1 in columns.tolist()]


def photo_records(
    restored: torch.Tensor,
    target: torch.Tensor,
    pairs: Sequence[Pair],
    model: str,
    colour: bool = False,
    lpips: Score | None = None,
) -> list[dict]:
    """image_metrics of the photos `pairs`, each with its `src`, and with `colour` their colour_metrics, which cost time, as does
    `lpips`.

    RunFailed, naming photo and model, when one is not finite.
    """
    records = []
    for pair, metrics in zip(pairs, image_metrics(restored, target), strict=True):
        if not all(math.isfinite(value) for value in metrics.values()):
            raise RunFailed(
                f"{model}: the output for {pair.src} ({pair.where}) is not finite: the weights are broken or have diverged; "
                "try a lower --lr, or float32 instead of --mixed_precision"
            )
        records.append({"src": pair.src, **metrics})
    if colour:
        for record, metrics in zip(records, colour_metrics(restored, target), strict=True):
            record.update(metrics)
    if lpips is not None:
        for record, value in zip(records, lpips(restored, target), strict=True):
            record[LPIPS] = value
    return records
