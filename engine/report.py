"""Results -> report.html, which opens from disk: no network, no other files but pictures that are too many or too large to hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.files import write_text
from common.options import flat
from common.pages import fill, jpeg_url, natural, picture_addresses, shown_names
from data.manifest import UNIT
from engine.curves import charts
from engine.inference import IDENTITY
from engine.intervals import interval_words, paired_difference
from engine.metrics import DIGITS, METRICS, OPTIONAL
from engine.testing.comparison import convergence_text, epochs_text, improvement_text, verdict_text
from engine.testing.judgement import KINDS, tint_words
from engine.testing.results import final_model
from engine.testing.visuals import PANEL_WIDTH, SIDES, Picture
from engine.training.changes import change_line
from engine.training.flags import MEANING

REPORT = "report.html"


def write_test_report(output_dir: Path, results: dict[str, Any], rows: list[dict], pictures: list[Picture]) -> None:
    """Write `output_dir`/report.html of a test-set evaluation.

    results: content of test_results.json. rows: those of per_image.csv, models in one order within each photo.
    pictures: those of VisualsFolder.pictures; small ones are embedded, files are linked.
    """
    final = final_model(results["folds"])
    photos = _by_photo(rows, final)
    units = [photo["unit"] for photo in results["photos"]]
    for photo, group in zip(photos, _group_names([photo["name"] for photo in photos], units), strict=True):
        photo["group"] = group
    page = _render(
        "test_report.html",
        results=results,
        colour=[name for name in OPTIONAL if name in results["ensemble"]],
        final=final,
        photos=sorted(photos, key=lambda photo: (photo["gain"], photo["by_model"][final]["psnr"])),
        better=sum(photo["gain"] > 0 for photo in photos),
        worse=sum(photo["gain"] < 0 for photo in photos),
        models=list(photos[0]["by_model"]),
        against=_against_each(photos, final, units),
        cards=[_card(picture, photos[picture.index]) for picture in pictures if picture.jpeg or picture.file],
        shares=mean_shares([picture.judgement.shares for picture in pictures]),
        tint=_mean_tint(pictures),
        several=len(results["models"]) > 1,
        alike={found["src"] for found in results["near_duplicates"]["found"]},
        unknown=[model for model in results["models"] if model["provenance"] == "unknown"],
    )
    write_text(output_dir / REPORT, page)


def _card(picture: Picture, photo: dict) -> dict:
    """A picture as templates/photo.html shows it, with what it is of."""
    width, height = picture.size
    scale = 1.0 if picture.jpeg is None else min(1.0, PANEL_WIDTH / width)
    side = picture.judgement.box[2]
    large = None
    if picture.native is not None:
        assert picture.native_size is not None  # they come together
        wide, high = picture.native_size
        large = [
            {"name": name, "url": quote(file), "width": wide, "height": high} for name, file in picture.native.items()
        ]
    return {
        "photo": photo,
        "name": photo["name"],
        "sides": SIDES,
        "picture": jpeg_url(picture.jpeg) if picture.jpeg else quote(str(picture.file)),
        "width": len(SIDES) * round(scale * width),
        "height": round(scale * height),
        "link": quote(picture.file) if picture.file else None,
        "large": large,
        "region": picture.judgement.region,
        "crops": jpeg_url(picture.crops) if picture.crops else None,
        "crops_size": (len(SIDES) * side, side),
        "judgement": picture.judgement,
        "shrunk": scale < 1,
    }


def _against_each(photos: list[dict], final: str, units: list[str]) -> list[dict]:
    """What is reported against each other row of the table, photo by photo: the difference, and on how many it is better."""
    entries = []
    for name in (name for name in photos[0]["by_model"] if name != final):
        ours, theirs = ([photo["by_model"][model]["psnr"] for photo in photos] for model in (final, name))
        better = sum(one > other for one, other in zip(ours, theirs, strict=True))
        entries.append({"model": name, "psnr": paired_difference(theirs, ours, units), "better": better})
    return entries


def mean_shares(shares: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over photos of each kind's share of the error; empty without photos."""
    return {kind: sum(one[kind] for one in shares) / len(shares) for kind in KINDS} if shares else {}


def _mean_tint(pictures: list[Picture]) -> dict[str, Any] | None:
    """The tint of white walls over the photos that show some: how many, the mean in words."""
    tints = [picture.judgement.tint for picture in pictures if picture.judgement.tint is not None]
    if not tints:
        return None
    mean = (sum(a for a, _ in tints) / len(tints), sum(b for _, b in tints) / len(tints))
    return {"photos": len(tints), "words": tint_words(mean)}


def _group_names(names: Sequence[str], units: Sequence[str | None]) -> list[str | None]:
    """What a page calls the unit of each photo: its first photo and how many more; None for a photo that is its own unit."""
    members: dict[str | None, list[str]] = {}
    for name, unit in zip(names, units, strict=True):
        members.setdefault(unit, []).append(name)
    shown: dict[str | None, str] = {
        unit: f"{min(members[unit], key=natural)} and {len(members[unit]) - 1} more"
        for unit in members
        if unit is not None and len(members[unit]) > 1
    }
    return [shown.get(unit) for unit in units]


def _by_photo(rows: list[dict], final: str) -> list[dict]:
    """Rows of per_image.csv -> [{"src", "name" to show, "by_model": {model: row}, "gain" of `final` in dB}], photos in their order.

    The rows of a photo stand together, one a model: the next photo begins where a model comes again.
    """
    photos: list[dict] = []
    for row in rows:
        if not photos or row["model"] in photos[-1]["by_model"]:
            photos.append({"src": row["src"], "by_model": {}})
        photos[-1]["by_model"][row["model"]] = row
    for photo, name in zip(photos, shown_names([photo["src"] for photo in photos]), strict=True):
        photo["name"] = name
        photo["gain"] = photo["by_model"][final]["psnr"] - photo["by_model"][IDENTITY]["psnr"]
    return photos


def write_cv_report(
    output_dir: Path,
    summary: dict[str, Any],
    predictions: list[dict],
    histories: dict[int, list[dict]],
    pictures: dict[int, dict[str, dict]],
) -> None:
    """Write `output_dir`/report.html of a cross-validation, whole or with folds still missing.

    summary: content of cv_summary.json. predictions: rows of oof_predictions.csv, each with its `unit`. histories: fold ->
    history.json's records. pictures: fold -> engine/pictures.py's records by src, of files below `output_dir`; embedded
    while they are small enough to mail, else linked.
    """
    folds = [_fold_row(fold, predictions, histories.get(fold["fold"])) for fold in summary["folds"]]
    gain = None
    if predictions:
        columns = {key: [row[key] for row in predictions] for name in METRICS for key in (name, f"identity_{name}")}
        units = [row[UNIT] for row in predictions]
        gain = {name: paired_difference(columns[f"identity_{name}"], columns[name], units) for name in METRICS}
    names = shown_names([row["src"] for row in predictions])
    groups = _group_names(names, [row[UNIT] for row in predictions])
    photos = [
        {
            **row,
            "name": name,
            "gain": row["psnr"] - row["identity_psnr"],
            "group": group,
            "picture": pictures.get(row["fold"], {}).get(row["src"]),
        }
        for row, name, group in zip(predictions, names, groups, strict=True)
    ]
    photos.sort(key=lambda photo: photo["gain"])
    cards = [photo for photo in photos if photo["picture"] is not None]
    addresses = picture_addresses([photo["picture"]["path"] for photo in cards], output_dir)
    page = _render(
        "cv_report.html",
        summary=summary,
        folds=folds,
        missing=[fold["fold"] for fold in folds if fold["status"] != "finished"],
        unknown=[fold for fold in folds if fold["status"] == "finished" and fold["provenance"] == "unknown"],
        gain=gain,
        better=sum(row["psnr"] > row["identity_psnr"] for row in predictions),
        worse=sum(row["psnr"] < row["identity_psnr"] for row in predictions),
        photos=photos,
        cards=[_oof_card(photo, address) for photo, address in zip(cards, addresses, strict=True)],
        shares=mean_shares([photo["picture"]["shares"] for photo in cards]),
        charts=charts(histories, folds),
        settings=flat(summary["config"]),
        meaning=MEANING,
    )
    write_text(output_dir / REPORT, page)


def _oof_card(photo: dict, address: str) -> dict:
    """An out-of-fold photo as templates/photo.html shows it."""
    picture = photo["picture"]
    size = {"width": picture["width"], "height": picture["height"]}
    shown = {"name": photo["name"], "sides": SIDES, "picture": address, "link": None, "large": None, **size}
    return {
        "photo": photo,
        **shown,
        "region": picture["region"],
        "shares": picture["shares"],
        "tint": picture.get("tint"),
    }


def _fold_row(fold: dict, predictions: list[dict], history: list[dict] | None) -> dict:
    """A fold of the summary, with what its photos and its history add to it."""
    rows = [row for row in predictions if row["fold"] == fold["fold"]]
    if not rows:
        return fold
    identity = {f"identity_{name}": sum(row[f"identity_{name}"] for row in rows) / len(rows) for name in METRICS}
    return {
        **fold,
        "photos": len(rows),
        **identity,
        "gain": fold["best_psnr"] - identity["identity_psnr"],
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
        "tint": tint_words,
        "chroma": lambda tint: round(math.hypot(*tint), 2),
    }
    return fill(template, filters, metrics=METRICS, words=interval_words, **values)
