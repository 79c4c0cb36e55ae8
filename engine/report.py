"""Results -> report.html, which opens from disk: no network, no other files but curves and full-size pictures."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.files import write_text
from common.options import flat
from common.pages import fill
from data.manifest import UNIT
from engine.inference import IDENTITY
from engine.intervals import interval_words, paired_difference
from engine.metrics import DIGITS, METRICS, OPTIONAL
from engine.testing.comparison import convergence_text, epochs_text, improvement_text, verdict_text
from engine.testing.results import final_model
from engine.training.changes import change_line
from engine.training.flags import MEANING

REPORT = "report.html"
WORST_ROWS = 50  # photos listed in a cross-validation report; oof_predictions.csv has all


def write_test_report(output_dir: Path, results: dict[str, Any], rows: list[dict], pictures: list[dict]) -> None:
    """Write `output_dir`/report.html of a test-set evaluation.

    results: content of test_results.json. rows: those of per_image.csv, models in one order within each photo.
    pictures: [{"index": photo's position, "jpeg": bytes, "file": relative path or None}], worst first; the bytes are
    embedded, the file is linked.
    """
    photos = _by_photo(rows)
    final = final_model(results["folds"])
    cards = [
        {
            "photo": photos[picture["index"]],
            "source": "data:image/jpeg;base64," + base64.b64encode(picture["jpeg"]).decode("ascii"),
            "link": quote(picture["file"]) if picture["file"] else None,
        }
        for picture in pictures
    ]
    page = _render(
        "test_report.html",
        results=results,
        colour=[name for name in OPTIONAL if name in results["ensemble"]],
        final=final,
        photos=sorted(photos, key=lambda photo: photo["by_model"][final]["psnr"]),
        better=sum(photo["by_model"][final]["psnr"] > photo["by_model"][IDENTITY]["psnr"] for photo in photos),
        models=list(photos[0]["by_model"]),
        cards=cards,
        several=len(results["models"]) > 1,
        alike={found["src"] for found in results["near_duplicates"]["found"]},
        unknown=[model for model in results["models"] if model["provenance"] == "unknown"],
    )
    write_text(output_dir / REPORT, page)


def _by_photo(rows: list[dict]) -> list[dict]:
    """Rows of per_image.csv -> [{"src", "by_model": {model: row}}] in the order of the photos.

    The rows of a photo stand together, one a model: the next photo begins where a model comes again.
    """
    photos: list[dict] = []
    for row in rows:
        if not photos or row["model"] in photos[-1]["by_model"]:
            photos.append({"src": row["src"], "by_model": {}})
        photos[-1]["by_model"][row["model"]] = row
    return photos


def write_cv_report(
    output_dir: Path,
    summary: dict[str, Any],
    predictions: list[dict],
    histories: dict[int, list[dict]],
    curves: dict[int, Path],
) -> None:
    """Write `output_dir`/report.html of a cross-validation, whole or with folds still missing.

    summary: content of cv_summary.json. predictions: rows of oof_predictions.csv, each with its `unit`. histories: fold ->
    history.json's records. curves: fold -> curves.png somewhere below `output_dir`; a file that is not there is named, not
    linked.
    """
    folds = [_fold_row(fold, predictions, histories.get(fold["fold"])) for fold in summary["folds"]]
    gain = None
    if predictions:
        columns = {key: [row[key] for row in predictions] for name in METRICS for key in (name, f"identity_{name}")}
        units = [row[UNIT] for row in predictions]
        gain = {name: paired_difference(columns[f"identity_{name}"], columns[name], units) for name in METRICS}
    linked = {
        fold: quote(path.relative_to(output_dir).as_posix()) if path.exists() else None for fold, path in curves.items()
    }
    page = _render(
        "cv_report.html",
        summary=summary,
        folds=folds,
        missing=[fold["fold"] for fold in folds if fold["status"] != "finished"],
        unknown=[fold for fold in folds if fold["status"] == "finished" and fold["provenance"] == "unknown"],
        gain=gain,
        better=sum(row["psnr"] > row["identity_psnr"] for row in predictions),
        worst=sorted(predictions, key=lambda row: row["psnr"])[:WORST_ROWS],
        curves=linked,
        settings=flat(summary["config"]),
        meaning=MEANING,
    )
    write_text(output_dir / REPORT, page)


def _fold_row(fold: dict, predictions: list[dict], history: list[dict] | None) -> dict:
    """A fold of the summary, with what its photos and its history add to it."""
    rows = [row for row in predictions if row["fold"] == fold["fold"]]
    if not rows:
        return fold
    identity = sum(row["identity_psnr"] for row in rows) / len(rows)
    return {
        **fold,
        "photos": len(rows),
        "identity_psnr": identity,
        "gain": fold["best_psnr"] - identity,
        "minutes": sum(record["seconds"] for record in history) / 60 if history else None,
        "skipped_steps": sum(record["skipped_steps"] for record in history) if history else None,
        "changes": [change_line(change) for change in fold.get("changes", [])],
        "flags": _flagged_epochs(history or []),
    }


def _flagged_epochs(history: list[dict]) -> dict[str, list[int]]:
    """Red flag -> the epochs that raised it, in the order in which they came up."""
    found: dict[str, list[int]] = {}
    for record in history:
        for flag in record["flags"]:
            found.setdefault(flag, []).append(record["epoch"])
    return found


def _render(template: str, **values: Any) -> str:
    """Fill a template that shows metrics, with the filters that write them."""
    filters: dict[str, Callable] = {
        "metric": lambda value, name: f"{value:.{DIGITS[name]}f}",
        "signed": lambda value, name: f"{value:+.{DIGITS[name]}f}",
        "improvement": improvement_text,
        "verdict": verdict_text,
        "epochs": epochs_text,
        "convergence": convergence_text,
    }
    return fill(template, filters, metrics=METRICS, words=interval_words, **values)
