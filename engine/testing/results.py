"""Records of single photos -> test_results.json, per_image.csv and the table at the end of the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.files import write_csv, write_json
from data.fingerprint import row_digest, set_digest
from data.manifest import Pair
from engine.inference import ENSEMBLE, IDENTITY
from engine.intervals import Units, paired_difference, summarise
from engine.metrics import COLOUR, DIGITS, LPIPS, METRICS, OPTIONAL
from engine.models import TrainedModel
from engine.runtime import created_with

SCHEMA_VERSION = 1
RESULTS, PER_IMAGE = "test_results.json", "per_image.csv"
COLUMNS = ["src", "model", *METRICS, *COLOUR]
# Title and column width of a metric in the tables of the log.
TABLE = {"psnr": ("PSNR dB", 25), "ssim": ("SSIM", 28), "l1": ("L1", 28)}
COLOUR_TABLE = {
    "delta_e": ("Delta E 2000", 25),
    "delta_e_p95": ("95th percentile", 25),
    "clipped_percent": ("clipped %", 25),
    "crushed_percent": ("crushed %", 25),
}
LPIPS_TABLE = {LPIPS: ("LPIPS", 28)}

Records = dict[str, list[dict]]


def build_results(
    models: list[TrainedModel], records: Records, pairs: list[Pair], units: list[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """test_results.json's content. units: the independent unit of each photo, over which the intervals are.

    `ensemble` is what one would deploy: with one model it is that model, and `records` has no separate entry for it.
    `gain` is the image-by-image difference to the untouched photo. `photos` lets a later comparison find a photo by
    its content, under whatever path it was listed.
    """
    folds = [{"model": model.name, **summary_of(records[model.name], units)} for model in models]
    untouched, final = records[IDENTITY], records[final_model(folds)]
    return {
        "schema_version": SCHEMA_VERSION,
        "test_digest": set_digest([pair.row for pair in pairs]),
        "n": len(pairs),
        "units": len(set(units)),
        "photos": [
            {"src": pair.src, "digest": row_digest(pair.row), "unit": unit}
            for pair, unit in zip(pairs, units, strict=True)
        ],
        "models": [model.describe() for model in models],
        "ensemble": summary_of(final, units),
        "folds": folds,
        "identity": summary_of(untouched, units),
        "gain": {
            name: paired_difference(_column(untouched, name), _column(final, name), units)
            for name in (*METRICS, *OPTIONAL)
            if name in final[0]
        },
        "settings": settings,
        "created_with": created_with(),
    }


def final_model(folds: list[dict[str, Any]]) -> str:
    """What one would deploy of the `folds` of results, as records and per_image.csv name it: the ensemble, or the only model."""
    return ENSEMBLE if len(folds) > 1 else folds[0]["model"]


def summary_of(records: list[dict], units: Units) -> dict[str, Any]:
    """Mean, spread and interval of each metric over the photos of `records`, each of which has its unit in `units`.

    Of METRICS, and of OPTIONAL where the records have it: those of training do not.
    """
    return {name: summarise(_column(records, name), units) for name in (*METRICS, *OPTIONAL) if name in records[0]}


def _column(records: list[dict], name: str) -> list[float]:
    return [record[name] for record in records]


def per_image_rows(records: Records) -> list[dict]:
    """One row a photo and model, photos in file order, with all COLUMNS, and LPIPS where it was asked for."""
    by_photo = zip(*records.values(), strict=True)
    return [{**record, "model": name} for photo in by_photo for name, record in zip(records, photo, strict=True)]


def write_results(output_dir: Path, results: dict[str, Any], rows: list[dict]) -> None:
    """Write per_image.csv and test_results.json into `output_dir`."""
    write_csv(output_dir / PER_IMAGE, [*COLUMNS, LPIPS] if LPIPS in rows[0] else COLUMNS, rows)
    write_json(output_dir / RESULTS, results)


def result_table(results: dict[str, Any]) -> list[str]:
    """Lines for the log: one row a model with mean and 95 % interval of each metric; then baseline and difference.

    Tables of at most 120 columns: the second is of the colours, the third of LPIPS where it was asked for.
    """
    named = [(IDENTITY, results["identity"], ""), *((fold["model"], fold, "") for fold in results["folds"])]
    if len(results["folds"]) > 1:
        named.append((ENSEMBLE, results["ensemble"], ""))
    if "comparison" in results:
        named.append(("baseline", results["comparison"]["baseline"], ""))
        named.append(("difference", results["comparison"]["difference"], "+"))
    tables = [TABLE, COLOUR_TABLE, *([LPIPS_TABLE] if LPIPS in results["ensemble"] else [])]
    return [line for table in tables for line in metric_table(named, table)]


def contamination_lines(results: dict[str, Any]) -> list[str]:
    """A line for the log, below the table, when test photos look like photos that a model learned from; else none."""
    alike = results["near_duplicates"]["photos"]
    told = f"{len(alike)} of the {results['n']} test photos look like photos that a model learned from"
    return [f"⚠️  contaminated: {told}; these means may flatter"] if alike else []


def metric_table(named: list[tuple[str, dict[str, Any], str]], table: dict[str, tuple[str, int]] = TABLE) -> list[str]:
    """Lines for the log from (name, summary of each metric, "+" for signed numbers or ""): a title, then one row each.

    A row that has none of the table's metrics is left out.
    """
    width = max(len(name) for name, _, _ in named) + 2
    header = "".join(f"{title:<{columns}}" for title, columns in table.values())
    lines = [f"{'':<{width}}{header}".rstrip()]
    for name, summary, sign in named:
        if not any(metric in summary for metric in table):
            continue
        cells = [
            f"{cell(summary.get(metric), DIGITS[metric], sign):<{columns}}" for metric, (_, columns) in table.items()
        ]
        lines.append(f"{name:<{width}}{''.join(cells)}".rstrip())
    return lines


def cell(summary: dict[str, Any] | None, digits: int, sign: str, decibel: str = "") -> str:
    """`mean [low, high]`; too few units and a bare number have no interval, and a metric that a baseline lacks no cell."""
    if summary is None:
        return ""
    numbers = [f"{value:{sign}.{digits}f}" for value in (summary["mean"], *(summary["ci95"] or ()))]
    mean = f"{numbers[0]}{decibel}"
    return mean if summary["ci95"] is None else f"{mean} [{numbers[1]}, {numbers[2]}]"
