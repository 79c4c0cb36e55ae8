"""Restored and target images -> PSNR, SSIM, L1 of each; numbers of single images -> mean, spread, interval of the mean.

Metrics: RGB over all pixels, float32, no rounding, no border crop.
The interval is the percentile bootstrap: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from common.errors import InputError, RunFailed
from data.manifest import Pair
from losses.ssim import WINDOW, ssim_per_image

METRICS = ("psnr", "ssim", "l1")
DIGITS = {"psnr": 2, "ssim": 4, "l1": 4}  # behind the point, in logs and reports
PSNR_CAP_DB = 100.0
RESAMPLES = 10_000
SEED = 42
CHUNK = 4_000_000  # indices drawn at once: bounds the memory for thousands of images


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


def photo_records(restored: torch.Tensor, target: torch.Tensor, pairs: Sequence[Pair], model: str) -> list[dict]:
    """image_metrics of the photos `pairs`, each with its `src`; RunFailed, naming photo and model, when one is not finite."""
    records = []
    for pair, metrics in zip(pairs, image_metrics(restored, target), strict=True):
        if not all(math.isfinite(value) for value in metrics.values()):
            raise RunFailed(
                f"{model}: the output for {pair.src} ({pair.where}) is not finite: the weights are broken or have diverged; "
                "try a lower --lr, or float32 instead of --mixed_precision"
            )
        records.append({"src": pair.src, **metrics})
    return records


def summarise(values: Sequence[float] | np.ndarray) -> dict:
    """{"mean", "std", "ci95": [low, high]} of `values` (at least one, finite), as plain floats.

    std has ddof 1 and is 0.0 for one value. ci95 comes from 10,000 resamples with a fixed seed: the same in every run.
    Raises ValueError when there is no value or one is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"finite numbers are needed, got {list(values)[:5]}")
    low, high = np.percentile(_resampled_means(sample), [2.5, 97.5])
    std = sample.std(ddof=1) if sample.size > 1 else 0.0
    return {"mean": float(sample.mean()), "std": float(std), "ci95": [float(low), float(high)]}


def paired_difference(before: Sequence[float], after: Sequence[float]) -> dict:
    """Summary of after - before, image by image in the same order, as summarise() gives it. Raises ValueError alike."""
    if len(before) != len(after):
        raise ValueError(f"paired values are needed, got {len(before)} and {len(after)}")
    return summarise(np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64))


def paired_improvement(before: Sequence[float], after: Sequence[float]) -> dict:
    """{"mean", "ci95": [low, high]} in percent: how much smaller the mean of `after` is than that of `before`.

    The interval is of the ratio of the two means: each resample draws photos, the same for both. Raises ValueError as
    paired_difference() does, and unless all of `before` is above 0.
    """
    if len(before) != len(after) or not min(before, default=0) > 0:
        raise ValueError(f"paired values with the first above 0 are needed, got {list(before)[:5]}, {list(after)[:5]}")
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    # The fixed seed draws the same photos for both sides.
    low, high = np.percentile(percent_less(_resampled_means(old), _resampled_means(new)), [2.5, 97.5])
    return {"mean": float(percent_less(old.mean(), new.mean())), "ci95": [float(low), float(high)]}


def percent_less(before: Any, after: Any) -> Any:
    """How many percent `after` is below `before` (above 0): negative when it is above."""
    return 100.0 * (1.0 - after / before)


def _resampled_means(sample: np.ndarray) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(SEED))
    rows = max(1, CHUNK // sample.size)
    means = [
        sample[rng.integers(0, sample.size, (min(rows, RESAMPLES - start), sample.size))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(means)
