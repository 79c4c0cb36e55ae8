"""Learning rate and EMA decay as pure functions of the update number: nothing to save, nothing to lose on a restart."""

from __future__ import annotations

import math

FINAL_FRACTION = 0.01
LONGEST_WARMUP = 0.1


def warmup_updates(warmup_epochs: int, updates_per_epoch: int, total_updates: int) -> int:
    """Length of the warm-up in updates: as asked for, but at most 10 % of the run."""
    return min(warmup_epochs * updates_per_epoch, int(LONGEST_WARMUP * total_updates))


def learning_rate(update: int, total_updates: int, warmup: int, peak: float) -> float:
    """Rate of update `update` (from 0): linear warm-up to `peak`, then half a cosine down to 1 % of it at the last update."""
    if update < warmup:
        return peak * (update + 1) / warmup
    progress = (update - warmup) / max(1, total_updates - 1 - warmup)
    floor = FINAL_FRACTION * peak
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ema_decay(update: int, longest: float) -> float:
    """Decay of the weight average at update `update` (from 0): young averages forget faster, so the start does not linger."""
    return min(longest, (1 + update) / (10 + update))
