"""Finished folds -> cv_summary.json, oof_predictions.csv and report.html, made anew after every fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.files import remove_stale_temporaries, write_csv, write_json
from common.locks import FolderLock
from common.log import RunLog
from darkir.errors import ModelError
from data.manifest import UNIT
from engine import checkpoint
from engine.intervals import count_units, interval_words, summarise
from engine.metrics import DIGITS, METRICS
from engine.pictures import read_pictures
from engine.provenance import Seen, SeenValidation
from engine.report import write_cv_report
from engine.runtime import created_with
from engine.testing.results import cell

SCHEMA_VERSION = 1
OOF_COLUMNS = ["src", "fold", *METRICS, *(f"identity_{name}" for name in METRICS)]
LOCK_WAIT_SECONDS = 60.0


def update_summary(output_dir: Path, n_folds: int, log: RunLog) -> None:
    """Rebuild the three files from the folds that are finished, naming the missing ones.

    Folds of one output_dir may run side by side: a short lock on it keeps their updates apart.
    """
    with FolderLock(output_dir, log, wait=LOCK_WAIT_SECONDS):
        remove_stale_temporaries(output_dir)
        contents = {fold: _outcome(output_dir / f"fold_{fold}", log) for fold in range(1, n_folds + 1)}
        done = {fold: content for fold, content in contents.items() if content is not None}
        rows = [
            {"fold": fold, **score} for fold, content in done.items() for score in checkpoint.scored_units(content, log)
        ]
        summary = _content(contents, rows)
        for fold in (fold for fold, content in done.items() if SeenValidation.from_checkpoint(content) is None):
            log(
                f"⚠️  fold {fold} was trained before it was recorded whether its starting weights saw validation photos; they saw "
                "some of its photos, and its scores count as contaminated. Train it again to know"
            )
        write_json(output_dir / "cv_summary.json", summary)
        write_csv(
            output_dir / "oof_predictions.csv", OOF_COLUMNS, [{name: row[name] for name in OOF_COLUMNS} for row in rows]
        )
        histories = {fold: content["history"] for fold, content in done.items()}
        pictures = {fold: read_pictures(output_dir / f"fold_{fold}") for fold in done}
        write_cv_report(output_dir, summary, rows, histories, pictures)
    _log(summary, log)


def _outcome(folder: Path, log: RunLog) -> dict[str, Any] | None:
    """What a finished fold left; a broken file counts as none, as the fold's own run makes it again."""
    try:
        return checkpoint.finished(folder)
    except ModelError as error:
        log(f"⚠️  {error}")
        return None


def _content(contents: dict[int, dict | None], rows: list[dict]) -> dict[str, Any]:
    """cv_summary.json's content; every photo outside the test set counts once in `oof`, scored by the model of its own fold.

    contaminated: the folds whose starting weights saw photos that are scored here, or may have: `oof` and means are then as well.
    """
    done = [content for content in contents.values() if content is not None]
    best = {}
    for name in METRICS:
        values = np.array([content["finished"][f"best_{name}"] for content in done])
        std = float(values.std(ddof=1)) if len(done) > 1 else 0.0
        best[f"best_{name}"] = {"mean": float(values.mean()), "std": std} if done else None
    folds = [_fold_entry(fold, content) for fold, content in contents.items()]
    contaminated = [fold["fold"] for fold in folds if fold["status"] == "finished" and fold["contaminated"]]
    return {
        "schema_version": SCHEMA_VERSION,
        "created_with": created_with(),
        "config": done[0]["config"] if done else {},
        "folds": folds,
        **best,
        "contaminated": contaminated,
        "oof": {**_pooled(rows, ""), "contaminated": bool(contaminated)},
        "identity": _pooled(rows, "identity_"),
    }


def _fold_entry(fold: int, content: dict | None) -> dict[str, Any]:
    """One fold's line in the summary, with what its weights saw; a missing fold is named, not left out."""
    if content is None:
        return {"fold": fold, "status": "missing"}
    seen = Seen.from_checkpoint(content, f"fold_{fold}/{checkpoint.FINAL}")
    leaked = SeenValidation.from_checkpoint(content)
    marks = {
        "contaminated": leaked is None or bool(leaked),
        "seen_validation": None if leaked is None else {"exact": len(leaked.exact), "alike": len(leaked.alike)},
    }
    return {**content["finished"], "status": "finished", **seen.describe(), **marks}


def _pooled(rows: list[dict], prefix: str) -> dict[str, Any]:
    """Mean, standard deviation and interval of each metric over all pooled photos and their units; None without photos."""
    units = [row[UNIT] for row in rows]
    metrics = {name: summarise([row[prefix + name] for row in rows], units) if rows else None for name in METRICS}
    return {"n": len(rows), "units": count_units(units), **metrics}


def _log(summary: dict[str, Any], log: RunLog) -> None:
    """The result in a few lines, for the end of the log."""
    missing = [str(fold["fold"]) for fold in summary["folds"] if fold["status"] == "missing"]
    if missing:
        log(f"Folds still missing from the summary: {', '.join(missing)}")
    if not summary["oof"]["n"]:
        return
    oof = summary["oof"]
    if summary["contaminated"]:
        folds = ", ".join(map(str, summary["contaminated"]))
        log(f"⚠️  CONTAMINATED: the starting weights of fold {folds} saw photos that are scored here")
    marked = "CONTAMINATED, out of fold" if summary["contaminated"] else "Out of fold"
    log(f"{marked}, {oof['n']} photos, mean; {interval_words(oof['n'], oof['units'], oof['psnr']['ci95'])}:")
    for name in METRICS:
        digits = DIGITS[name]
        decibel = " dB" if name == "psnr" else ""
        untouched = f"{summary['identity'][name]['mean']:.{digits}f}{decibel}"
        log(f"   {name.upper():4s} {cell(oof[name], digits, '', decibel)}   identity {untouched}")
