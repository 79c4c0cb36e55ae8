"""--baseline FILE or --baseline_l1 X -> what to compare with: metrics of the same photos, in this run's order, or a bare L1."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import Faults, InputError
from common.exits import flagged
from common.files import text_of_cell
from common.jsonl import parse_json
from data.fingerprint import row_digest, set_digest
from data.manifest import Pair
from engine.metrics import METRICS, OPTIONAL
from engine.testing.config import BaselineConfig
from engine.testing.results import PER_IMAGE, RESULTS, SCHEMA_VERSION, final_model

NEEDED = ("src", "model", *METRICS)  # columns; results of earlier versions have no colours, and few have LPIPS
MEAN_TOLERANCE = 1e-6  # between the mean of per_image.csv's values and the one in the results


@dataclass(frozen=True)
class Baseline:
    """`records`: the metrics of each photo in the order of this run's photos; with a bare `l1`, there are none.

    Each record has METRICS, and of OPTIONAL what the baseline has.
    """

    l1: float
    path: Path | None = None
    results: dict[str, Any] | None = None
    records: list[dict] | None = None


def read_baseline(config: BaselineConfig, pairs: list[Pair], output_dir: Path) -> Baseline | None:
    """The baseline that the flags name, or None without one. `pairs`: this run's photos, with digests in their rows.

    Raises InputError when the file is missing, broken or foreign, lies where this run writes, or is about other photos.
    """
    if config.baseline is None:
        return None if config.baseline_l1 is None else Baseline(config.baseline_l1)
    path = config.baseline
    with flagged("--baseline", path):
        results = _read_results(path)
    if path.resolve().parent == output_dir.resolve():
        raise InputError(
            f"--baseline {path} lies in --output_dir {output_dir}, where this run would overwrite it; choose another"
        )
    digest = set_digest([pair.row for pair in pairs])
    if results["test_digest"] != digest:
        raise InputError(
            f"--baseline {path} was measured on other test photos than those of {pairs[0].file} "
            f"(test_digest {results['test_digest'][:12]}, here {digest[:12]}); evaluate its models on this --test_jsonl"
        )
    records = _read_records(path.with_name(PER_IMAGE), results)
    return Baseline(results["ensemble"]["l1"]["mean"], path, results, _in_order(records, results, pairs, path))


def _read_results(path: Path) -> dict[str, Any]:
    """The content of a test_results.json that holds what a comparison needs, whatever network it is about."""
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "is missing"
        raise InputError(f"--baseline {path} {state}; name the {RESULTS} of another evaluation")
    try:
        results = parse_json(path.read_text(encoding="utf-8-sig"))
        fault = _fault(results)
    except ValueError as error:
        fault = f"not JSON: {error}"
    if fault:
        raise InputError(
            f"--baseline {path}: not a {RESULTS} of evaluate_darkir_test.py ({fault}); evaluate its models again"
        )
    return results


def _fault(results: Any) -> str | None:
    """What a comparison would miss in `results`, or None."""
    if not isinstance(results, dict):
        return "no JSON object"
    if results.get("schema_version") != SCHEMA_VERSION:
        return f"schema_version {results.get('schema_version')!r}, expected {SCHEMA_VERSION}"
    if not isinstance(results.get("test_digest"), str):
        return "no test_digest"
    for key, needed in (("folds", "model"), ("models", "name"), ("photos", "src"), ("photos", "digest")):
        entries = results.get(key, [] if key == "photos" else None)
        if not isinstance(entries, list):
            return f"no {needed} in {key}"
        if not all(isinstance(entry, dict) and isinstance(entry.get(needed), str) for entry in entries):
            return f"no {needed} in {key}"
    if not results["folds"]:
        return "no folds"
    if not isinstance(results.get("settings", {}), dict):
        return "settings is no object"
    summary = results.get("ensemble")
    known = {*METRICS, *(name for name in OPTIONAL if name in summary)} if isinstance(summary, dict) else set()
    summaries = [summary.get(name) for name in known] if isinstance(summary, dict) else [None]
    if not all(isinstance(entry, dict) and isinstance(entry.get("mean"), (int, float)) for entry in summaries):
        return "no means of the ensemble"
    return None


def _read_records(path: Path, results: dict[str, Any]) -> list[dict]:
    """The rows of per_image.csv about the final model, as numbers; their means must be those of the results beside it."""
    if not path.is_file():
        mean = results["ensemble"]["l1"]["mean"]
        raise InputError(
            f"--baseline: {path} is missing, and it holds the value of each photo; copy it there, "
            f"or compare with the mean alone: --baseline_l1 {mean:.6g}"
        )
    final, faults, records = final_model(results["folds"]), Faults(), []
    further = [name for name in OPTIONAL if name in results["ensemble"]]
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            expected = [*NEEDED, *further]
            lacking = [name for name in expected if name not in (reader.fieldnames or [])]
            if lacking:
                raise InputError(f"--baseline: {path}:1: no column {', '.join(lacking)}; expected {','.join(expected)}")
            for row in reader:
                if text_of_cell(row["model"] or "") == final:
                    records.append(_numbers(row, [*METRICS, *further], f"{path}:{reader.line_num}", faults))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--baseline: {path} is not CSV in UTF-8 ({error})") from error
    faults.raise_if_any("--baseline: rows that cannot be used", "Evaluate the baseline's models again.")
    for name in (*METRICS, *further):
        stated = results["ensemble"][name]["mean"]
        mean = math.fsum(record[name] for record in records) / len(records) if records else math.nan
        if not abs(mean - stated) <= MEAN_TOLERANCE:  # also when there is no row and the mean is NaN
            raise InputError(
                f"--baseline: {path} does not belong to the {RESULTS} beside it: its {len(records)} rows of "
                f"{final} have mean {name} {mean:.6g}, the results say {stated:.6g}; evaluate again"
            )
    return records


def _numbers(row: dict, names: list[str], where: str, faults: Faults) -> dict:
    """The row of one photo with its metrics as numbers; one that cannot be used becomes a fault."""
    record: dict[str, Any] = {"src": text_of_cell(row["src"] or "")}
    for name in names:
        try:
            record[name] = float(row[name] or "")
        except ValueError:
            record[name] = math.nan
        if not math.isfinite(record[name]) or (name == "l1" and record[name] <= 0):
            rule = "a number above 0" if name == "l1" else "a finite number"
            faults.add(where, f"{name} is {row[name]!r}, expected {rule}")
    return record


def _in_order(records: list[dict], results: dict[str, Any], pairs: list[Pair], path: Path) -> list[dict]:
    """The baseline's records in the order of `pairs`: found by content where the results record it, else by src."""
    by_src = {record["src"]: record for record in records}
    src_of = {photo["digest"]: photo["src"] for photo in results.get("photos", [])}
    wanted = [src_of.get(row_digest(pair.row), pair.src) for pair in pairs]
    lacking = [src for src in wanted if src not in by_src]
    if lacking or len(records) != len(pairs):
        raise InputError(
            f"--baseline {path}: {len(records)} photos for the {len(pairs)} of {pairs[0].file}, without "
            f"{', '.join(lacking[:5]) or 'a clear match'}; evaluate its models on this --test_jsonl"
        )
    return [by_src[src] for src in wanted]
