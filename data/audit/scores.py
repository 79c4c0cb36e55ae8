"""oof_predictions.csv of a cross-validation -> each photo's gain beside what photos that start alike gain.

A photo that starts near its target can gain less than one that starts far away: gains are compared with a robust line
over the untouched photo's PSNR (Theil 1950, Sen 1968). An outlier has a modified z-score below -3.5 (Iglewicz and
Hoaglin, "How to detect and handle outliers", 1993).
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import Faults, InputError
from common.files import text_of_cell
from common.jsonl import open_input

COLUMNS = ("src", "psnr", "identity_psnr")
WANTED = "give oof_predictions.csv of train_darkir_cv.py"
FEWEST_SCORES = 20
MOST_SLOPES = 1000  # photos from which the line is drawn
OUTLIER = -3.5
MAD_TO_DEVIATION = 1.4826
LEAST_DEVIATION_DB = 0.1


@dataclass(frozen=True)
class Score:
    """gain: PSNR over the untouched photo, dB. expected: what similar photos gain, dB. z: robust deviations between."""

    gain: float
    expected: float
    z: float


def read_scores(path: str | Path) -> dict[str, tuple[float, float]]:
    """src as written -> (psnr, identity_psnr) in dB. InputError naming the file, and all bad lines."""
    try:
        with open_input(path) as handle:
            text = handle.read().decode("utf-8-sig")
    except InputError as error:
        raise InputError(f"--oof {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"--oof {path} is not UTF-8; {WANTED}") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    scores: dict[str, tuple[float, float]] = {}
    faults = Faults()
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"--oof {path} has no column {', '.join(missing)}; {WANTED}")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            psnr, identity = (_number(row[name]) for name in COLUMNS[1:])
            if psnr is None or identity is None:
                faults.add(where, f"psnr {row['psnr']!r} and identity_psnr {row['identity_psnr']!r} must be numbers")
            elif (src := text_of_cell(row["src"] or "")) in scores:
                faults.add(where, f"{src} stands there twice")
            else:
                scores[src] = (psnr, identity)
    except csv.Error as error:
        raise InputError(f"--oof {path} is not CSV ({error}); {WANTED}") from error
    faults.raise_if_any(f"--oof {path}: lines that cannot be used")
    return scores


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def judge(scores: dict[str, tuple[float, float]]) -> dict[str, Score]:
    """Each photo's gain beside what similar photos gain; empty with fewer than 20 photos."""
    if len(scores) < FEWEST_SCORES:
        return {}
    psnr, identity = np.array(list(scores.values())).T
    gains = psnr - identity
    slope = _median_slope(identity, gains)
    level = np.median(gains - slope * identity)
    expected = level + slope * identity
    misses = gains - expected
    deviation = max(LEAST_DEVIATION_DB, MAD_TO_DEVIATION * float(np.median(np.abs(misses))))
    return {
        src: Score(float(gain), float(usual), float(miss / deviation))
        for src, gain, usual, miss in zip(scores, gains, expected, misses, strict=True)
    }


def _median_slope(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) > MOST_SLOPES:
        drawn = np.random.default_rng(0).choice(len(x), MOST_SLOPES, replace=False)
        x, y = x[drawn], y[drawn]
    first, second = np.triu_indices(len(x), 1)
    apart = x[first] != x[second]
    first, second = first[apart], second[apart]
    return float(np.median((y[first] - y[second]) / (x[first] - x[second]))) if len(first) else 0.0
