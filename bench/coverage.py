"""How often a 95 % interval holds the truth: simulated for numbers of units, photos a unit and likeness inside a unit.

  make coverage        # python -m bench.coverage

before: the percentile bootstrap of photos, as the toolkit had it (10,000 resamples with a fixed seed). now: engine/intervals.py.
Values are normal (PSNR), gamma of shape 4 (Wilson and Hilferty's cube of a normal), or exp of a normal of deviation 0.5 (L1,
squared errors). ICC is the share of that normal's variance that the photos of one unit have in common. An improvement is of the
ratio of two such means, the second 0.85 times the first photo by photo but for a spread of 20 %. Prints Markdown for
bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.measure import table
from data.units import FEWEST_UNITS
from engine.intervals import paired_improvement, percent_less, summarise

RESAMPLES, SEED = 10_000, 42  # of the bootstrap that was replaced
AT_ONCE = 250  # sets whose resampled means stand in memory
SHAPE, DEVIATION = 4.0, 0.5
KEPT, SPREAD = 0.85, 0.2

Values = np.ndarray  # (sets, photos)
Draw = Callable[[np.random.Generator, int, np.ndarray, float], Values]


@dataclass(frozen=True)
class Setting:
    """sizes: photos of each unit. icc: 0 to 1. ratio: whether the improvement of a mean in percent is what is estimated."""

    title: str
    sizes: list[int]
    icc: float
    ratio: bool = False


SETTINGS = [
    *(Setting(f"{units} photos, all independent", [1] * units, 0.0) for units in (5, 6, 10, 20, 90)),
    *(Setting(f"improvement in percent, {units} photos", [1] * units, 0.0, ratio=True) for units in (5, 10, 20)),
    *(Setting("2 units x 5 photos", [5] * 2, icc) for icc in (0.08, 0.3, 0.5)),
    *(Setting(f"{units} units x 5 photos", [5] * units, 0.3) for units in (5, 10)),
    *(Setting("90 units x 5 photos", [5] * 90, icc) for icc in (0.3, 0.5)),
    Setting("12 units x 20 photos", [20] * 12, 0.08),
    Setting("improvement in percent, 12 units x 20 photos", [20] * 12, 0.08, ratio=True),
    Setting("12 units of 1 to 12 photos", list(range(1, 13)), 0.3),
    Setting("one unit of 20 photos and 20 of 1", [20] + [1] * 20, 0.3),
]


def normal(rng: np.random.Generator, sets: int, unit: np.ndarray, icc: float) -> Values:
    """Standard normal values, correlated inside each unit; unit: the number of each photo's unit."""
    common = rng.normal(size=(sets, unit.max() + 1))[:, unit]
    return math.sqrt(icc) * common + math.sqrt(1 - icc) * rng.normal(size=(sets, len(unit)))


def gamma(rng: np.random.Generator, sets: int, unit: np.ndarray, icc: float) -> Values:
    """Gamma values of mean 1."""
    middle, deviation = 1 - 1 / (9 * SHAPE), 1 / (3 * math.sqrt(SHAPE))
    return (middle + deviation * normal(rng, sets, unit, icc)) ** 3 / (middle**3 + 3 * middle * deviation**2)


def lognormal(rng: np.random.Generator, sets: int, unit: np.ndarray, icc: float) -> Values:
    """Exponentials of normal values, of mean 1."""
    return np.exp(DEVIATION * normal(rng, sets, unit, icc) - DEVIATION**2 / 2)


DRAWS: dict[str, tuple[Draw, float]] = {"normal": (normal, 0.0), "gamma": (gamma, 1.0), "lognormal": (lognormal, 1.0)}


def coverage(setting: Setting, name: str, sets: int, rng: np.random.Generator) -> tuple[float, float | None]:
    """Share of `sets` simulated sets whose interval holds the truth: of the old way, and of the new one (None: no interval)."""
    draw, mean = DRAWS[name]
    unit = np.repeat(np.arange(len(setting.sizes)), setting.sizes)
    values, after, truth = draw(rng, sets, unit, setting.icc), None, mean
    if setting.ratio:
        factor = np.exp(SPREAD * normal(rng, sets, unit, setting.icc) - SPREAD**2 / 2)
        after, truth = KEPT * values * factor, percent_less(1.0, KEPT)
    old = bootstrap_of_photos(values, after)
    before = np.mean((old[:, 0] <= truth) & (truth <= old[:, 1]))
    if len(setting.sizes) < FEWEST_UNITS:
        assert summarise(values[0], list(map(str, unit)))["ci95"] is None
        return float(before), None
    labels, held = [f"{number}" for number in unit], 0
    for number in range(sets):
        if after is None:
            low, high = summarise(values[number], labels)["ci95"]
        else:
            low, high = paired_improvement(values[number], after[number], labels)["ci95"]
        held += low <= truth <= high
    return float(before), held / sets


def bootstrap_of_photos(values: Values, after: Values | None) -> np.ndarray:
    """(sets, 2): the old interval of each set's mean, or of the improvement from `values` to `after` in percent."""
    rng, photos = np.random.Generator(np.random.PCG64(SEED)), values.shape[1]
    draws = rng.integers(0, photos, (RESAMPLES, photos)) + photos * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(draws.ravel(), minlength=RESAMPLES * photos).reshape(RESAMPLES, photos) / photos
    intervals = []
    for start in range(0, len(values), AT_ONCE):
        means = counts @ values[start : start + AT_ONCE].T
        if after is not None:
            means = percent_less(means, counts @ after[start : start + AT_ONCE].T)
        intervals.append(np.percentile(means, [2.5, 97.5], axis=0).T)
    return np.concatenate(intervals)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=4000, help="simulated sets of photos in each setting")
    args = parser.parse_args(argv)
    rng, rows = np.random.Generator(np.random.PCG64(0)), []
    for setting in SETTINGS:
        names = ["lognormal", "gamma"] if setting.ratio else list(DRAWS)
        found = {name: coverage(setting, name, args.sets, rng) for name in names}
        cells = [percent(found[name][side]) if name in found else "" for side in (0, 1) for name in DRAWS]
        rows.append([setting.title, f"{setting.icc:g}" if max(setting.sizes) > 1 else "", *cells])
    spread = 200 * math.sqrt(0.95 * 0.05 / args.sets)
    print(f"{args.sets} sets a cell: a true 95 % shows as 95 +- {spread:.1f} % (two deviations).\n")
    print(table(["setting", "ICC", *(f"{side}, {name}" for side in ("before", "now") for name in DRAWS)], rows))


def percent(share: float | None) -> str:
    return "none given" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
