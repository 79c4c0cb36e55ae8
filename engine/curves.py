"""Histories of folds -> charts for a page: one quantity each, a line a fold, and the level of the untouched photos.

Drawn as SVG by templates/curves.html, so that they follow the page's colours and stay in the one file.
"""

from __future__ import annotations

import math
from typing import Any

WIDTH, HEIGHT = 420, 220  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 58, 8, 8, 24  # around the lines
TICKS = 4
COLOURS = 6  # of lines, in templates/pages.css
# Record key -> title, and the fold's key of the same measure of the untouched photo.
CHARTS = {
    "val_psnr": ("Validation PSNR, dB", "identity_psnr"),
    "val_ssim": ("Validation SSIM", "identity_ssim"),
    "val_loss": ("Validation L1", "identity_l1"),
    "train_loss": ("Training loss, weighted sum of its terms", None),
    "lr": ("Learning rate", None),
}


def charts(histories: dict[int, list[dict]], folds: list[dict]) -> list[dict[str, Any]]:
    """What templates/curves.html draws; `folds`: with the means of the untouched photo. No chart for what no history has."""
    untouched = {fold["fold"]: fold for fold in folds if "identity_psnr" in fold}
    drawn = (_chart(name, title, level, histories, untouched) for name, (title, level) in CHARTS.items())
    return [chart for chart in drawn if chart is not None]


def _chart(
    name: str, title: str, level: str | None, histories: dict[int, list[dict]], untouched: dict[int, dict]
) -> dict[str, Any] | None:
    points = {
        fold: [(record["epoch"], record[name]) for record in history if record.get(name) is not None]
        for fold, history in histories.items()
    }
    points = {fold: line for fold, line in points.items() if line}
    if not points:
        return None
    levels = {fold: untouched[fold][level] for fold in points if level is not None and fold in untouched}
    epochs = [epoch for line in points.values() for epoch, _ in line]
    low, high, steps = _axis([value for line in points.values() for _, value in line] + list(levels.values()))
    first, last = min(epochs), max(max(epochs), min(epochs) + 1)

    def across(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - first) / (last - first), 1)

    def down(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    best = {
        fold: max((record["epoch"] for record in histories[fold] if record["is_best"]), default=None) for fold in points
    }
    return {
        "title": title,
        "size": (WIDTH, HEIGHT),
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "rows": [(down(value), f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}") for value in steps],
        "columns": [(across(epoch), str(epoch)) for epoch in sorted({first, max(epochs)})],
        "lines": [
            {
                "fold": fold,
                "colour": list(histories).index(fold) % COLOURS,
                "points": " ".join(f"{across(epoch)},{down(value)}" for epoch, value in line),
                "dots": [
                    (across(epoch), down(value)) for epoch, value in line if epoch == best[fold] or len(line) == 1
                ],
                "level": down(levels[fold]) if fold in levels else None,
            }
            for fold, line in points.items()
        ],
    }


def _axis(values: list[float]) -> tuple[float, float, list[float]]:
    """Lower and upper end of an axis that holds `values`, and round numbers between them to mark."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 10, high + (abs(high) or 1.0) / 10
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    marks = [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    margin = (high - low) / 20
    return low - margin, high + margin, marks
