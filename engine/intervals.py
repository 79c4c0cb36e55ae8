"""Numbers of single photos, and the unit of each -> mean, spread, and an interval that covers as often as it says.

Photos of one unit (one property, say) are not independent, so the interval is over units: Student's t with the standard error of
the delete-one-unit jackknife (Miller, "The jackknife: a review", 1974). L1 and SSIM are skew and units are few, so the interval of
a mean is corrected for skewness by Hall's cubic transformation ("On the removal of skewness by transformation", 1992).
Degrees of freedom are two less than units, since two numbers are estimated (mean and skewness, or two means), and fewer where
units differ in size, in proportion to their effective number (Kish, "Survey sampling", 1965). Nothing is drawn at random.
bench/coverage.py simulates how often the interval holds the truth: these choices were made there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.units import FEWEST_UNITS

CONFIDENCE = 0.95
LEAST_FREEDOM = 2.0  # degrees; with fewer, one unit outweighs all others, and t is of no use
WIDEST = 2.0  # times Student's reach, to either side
UNRECORDED = "units not recorded: photos counted as independent"
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)


Units = Sequence[str | None]  # of each value; None where it was not recorded, which counts as a unit of its own


def summarise(values: Sequence[float] | np.ndarray, units: Units) -> dict:
    """{"mean", "std", "ci95": [low, high] or None} of `values` (at least one, finite), as plain floats.

    The mean is over values, whatever their units' sizes; std, over values, has ddof 1 and is
    0.0 for one value. ci95 is None for fewer than 5 units, and when one of them outweighs the others. Raises ValueError when
    there is no value, one is not finite, or the lengths differ.
    """
    sample = _checked(values, units)
    interval = _interval_of_ratio(sample, np.ones_like(sample), units, skew=True)
    std = sample.std(ddof=1) if sample.size > 1 else 0.0
    return {"mean": float(sample.mean()), "std": float(std), "ci95": interval}


def paired_difference(before: Sequence[float], after: Sequence[float], units: Units) -> dict:
    """Summary of after - before, image by image in the same order, as summarise() gives it. Raises ValueError alike."""
    if len(before) != len(after):
        raise ValueError(f"paired values are needed, got {len(before)} and {len(after)}")
    return summarise(np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64), units)


def paired_improvement(before: Sequence[float], after: Sequence[float], units: Units) -> dict:
    """{"mean", "ci95": [low, high] or None} in percent: how much smaller the mean of `after` is than that of `before`.

    The interval is of the ratio of the two means, over units. Raises ValueError as paired_difference() does, and unless all of
    `before` is above 0.
    """
    if len(before) != len(after) or not min(before, default=0) > 0:
        raise ValueError(f"paired values with the first above 0 are needed, got {list(before)[:5]}, {list(after)[:5]}")
    old, new = _checked(before, units), _checked(after, units)
    interval = _interval_of_ratio(new, old, units)
    ci95 = None if interval is None else [percent_less(1.0, interval[1]), percent_less(1.0, interval[0])]
    return {"mean": float(percent_less(old.mean(), new.mean())), "ci95": ci95}


def independent_difference(
    before: Sequence[float], units_before: Units, after: Sequence[float], units_after: Units
) -> dict:
    """{"mean", "ci95": [low, high] or None} of mean(after) - mean(before), of other photos each, without a common unit.

    Welch's t with the jackknife's standard error of each mean over units. Raises ValueError as summarise() does.
    """
    old, new = _checked(before, units_before), _checked(after, units_after)
    difference = float(new.mean() - old.mean())
    sides = [_over_units(side, np.ones_like(side), units) for side, units in ((old, units_before), (new, units_after))]
    if None in sides:
        return {"mean": difference, "ci95": None}
    squares = [(side.error**2, side.freedom) for side in sides if side is not None]
    variance = sum(square for square, _ in squares)
    if not variance > 0:
        return {"mean": difference, "ci95": [difference, difference]}
    freedom = variance**2 / sum(square**2 / own for square, own in squares)
    reach = t_quantile(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(variance)
    return {"mean": difference, "ci95": [difference - reach, difference + reach]}


def percent_less(before: Any, after: Any) -> Any:
    """How many percent `after` is below `before` (above 0): negative when it is above."""
    return 100.0 * (1.0 - after / before)


def count_units(units: Units) -> int | None:
    """How many units there are; None when that of a value was not recorded, for then nobody knows."""
    return None if None in units else len(set(units))


def interval_words(photos: int, units: int | None, ci95: list[float] | None) -> str:
    """What the numbers in brackets are, or why there are none (ci95 None): one clause for logs, reports and cards.

    units: as count_units() counts them.
    """
    if units is None:
        counted = f"{photos} photo{'s' * (photos != 1)} ({UNRECORDED})"
        return f"no interval: {counted}, too few for one" if ci95 is None else f"95 % interval over {counted}"
    counted = f"{units} independent unit{'s' * (units != 1)} (of {photos} photos)"
    if ci95 is not None:
        return f"95 % interval over {counted}"
    if units < FEWEST_UNITS:
        return f"no interval: {counted}, too few for one"
    return f"no interval: one of {counted} outweighs the others"


def _checked(values: Sequence[float] | np.ndarray, units: Units) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"finite numbers are needed, got {list(values)[:5]}")
    if len(units) != sample.size:
        raise ValueError(f"a unit for each of {sample.size} values is needed, got {len(units)}")
    return sample


def _interval_of_ratio(above: np.ndarray, below: np.ndarray, units: Units, skew: bool = False) -> list[float] | None:
    """The interval of sum(above) / sum(below) over units; None for too few or too unequal ones. skew: correct for skewness."""
    found = _over_units(above, below, units)
    if found is None:
        return None
    ratio, error = found.ratio, found.error
    if not error > 1e-12 * abs(ratio):
        return [float(ratio), float(ratio)]
    skewness = _skewness_of_mean(found.rests, found.weights) if skew else 0.0
    quantile = t_quantile(0.5 + CONFIDENCE / 2, found.freedom)
    return [float(ratio - error * _with_skewness(score, skewness)) for score in (quantile, -quantile)]


@dataclass(frozen=True)
class _OverUnits:
    """A ratio of sums with its standard error; of each unit, its rest a photo (its deviation) and its share of the photos."""

    ratio: float
    error: float
    freedom: float
    rests: np.ndarray
    weights: np.ndarray


def _over_units(above: np.ndarray, below: np.ndarray, units: Units) -> _OverUnits | None:
    """sum(above) / sum(below) by the delete-one-unit jackknife; None for too few or too unequal units."""
    # No name holds a null character.
    names = [f"\0{place}" if name is None else name for place, name in enumerate(units)]
    _, unit, photos = np.unique(np.asarray(names), return_inverse=True, return_counts=True)
    tops, bottoms, count = np.bincount(unit, above), np.bincount(unit, below), len(photos)
    if count < FEWEST_UNITS:
        return None
    top, bottom, weights = tops.sum(), bottoms.sum(), photos / photos.sum()
    freedom = (1 - 2 / count) / float(np.square(weights).sum())
    if freedom < LEAST_FREEDOM:
        return None
    ratio = top / bottom
    left_out = (top - tops) / (bottom - bottoms)
    error = math.sqrt((count - 1) / count * np.square(left_out - left_out.mean()).sum())
    return _OverUnits(ratio, error, freedom, (tops - ratio * bottoms) / photos, weights)


def _skewness_of_mean(units: np.ndarray, weights: np.ndarray) -> float:
    """The skewness of a weighted mean of independent units, from the units' own (the estimate without bias)."""
    count, deviations = len(units), units - units.mean()
    own = math.sqrt(count * (count - 1)) / (count - 2) * (deviations**3).mean() / units.std() ** 3
    return float(own * (weights**3).sum() / np.square(weights).sum() ** 1.5)


def _with_skewness(score: float, skewness: float) -> float:
    """The value of the t statistic of a mean of this skewness that a symmetric one's `score` stands for (Hall 1992).

    At most WIDEST times as far: the skewness of a few units is itself uncertain, and the transformation steep (bench/coverage.py).
    """
    if abs(skewness) < 1e-6:
        return score
    found = 3 / skewness * (float(np.cbrt(1 + skewness * (score - skewness / 6))) - 1)
    return float(np.clip(found, -WIDEST * abs(score), WIDEST * abs(score)))


@functools.cache
def t_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t distribution at `probability` (0.5 to 1) with `freedom` degrees of freedom (1 or more).

    With t = sqrt(freedom) tan(angle) the density is a power of a cosine, which Gauss-Legendre integrates; then bisection.
    """
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)

    def above_median(angle: float) -> float:
        return scale * angle / 2 * float(WEIGHTS @ np.cos(angle / 2 * (NODES + 1)) ** (freedom - 1))

    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        if above_median(middle) < probability - 0.5:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(middle)
