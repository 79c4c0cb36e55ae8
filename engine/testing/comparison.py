"""Results and a baseline -> the `comparison` of test_results.json, and its lines for the log. About any network's results."""

from __future__ import annotations

from typing import Any

from engine.metrics import METRICS, paired_difference, paired_improvement, percent_less, summarise
from engine.testing.baseline import Baseline
from engine.testing.results import final_model

TARGETS = (10, 15, 20)  # percent of L1
SAME_MEASURE = ("resolution", "fit", "tta", "precision")


def compare(results: dict[str, Any], rows: list[dict], baseline: Baseline) -> dict[str, Any]:
    """`comparison` of `results` with `baseline`; rows: those of per_image.csv. Plain types, None where nothing is known.

    `difference` is these results minus the baseline's, photo by photo; `l1_improvement_percent` is positive when L1 fell.
    """
    if baseline.records is None:
        numbers = _with_number(results, baseline.l1)
    else:
        numbers = _with_records([row for row in rows if row["model"] == final_model(results)], baseline.records)
    improvement = numbers["l1_improvement_percent"]
    return {
        **numbers,
        "baseline": {**_origin(baseline), **numbers["baseline"]},
        "verdict": [_verdict(target, improvement) for target in TARGETS],
        "epochs_to_best": {"ours": _epochs(results), "baseline": _epochs(baseline.results)},
        "networks": {"ours": _networks(results), "baseline": _networks(baseline.results)},
        "notes": [*_caveats(results, baseline), *_worse(improvement)],
    }


def comparison_lines(results: dict[str, Any]) -> list[str]:
    """Lines for the log, below the table; none when the results were compared with nothing."""
    if "comparison" not in results:
        return []
    comparison = results["comparison"]
    ours, theirs = (epochs_text(comparison["epochs_to_best"][side]) for side in ("ours", "baseline"))
    verdict = "; ".join(verdict_text(entry) for entry in comparison["verdict"])
    return [
        f"Improvement of L1 against {comparison['baseline']['path'] or '--baseline_l1'}: {improvement_text(comparison)}",
        *_other_networks(comparison["networks"]),
        f"   {verdict}",
        f"   Epochs to best: {ours}; baseline: {theirs}",
        *(f"   ⚠️  {note}" for note in comparison["notes"]),
    ]


def improvement_text(comparison: dict[str, Any]) -> str:
    """`+12.3 % [+8.1, +16.0]`; without brackets for a bare number."""
    improvement = comparison["l1_improvement_percent"]
    text = f"{improvement['mean']:+.1f} %"
    return text if improvement["ci95"] is None else "{} [{:+.1f}, {:+.1f}]".format(text, *improvement["ci95"])


def verdict_text(entry: dict[str, Any]) -> str:
    """`+10 % reached`, and whether the interval leaves it open."""
    text = f"+{entry['target_percent']} % {'reached' if entry['reached'] else 'not reached'}"
    return f"{text} (open: inside the interval)" if entry["inside_interval"] else text


def epochs_text(epochs: dict[str, Any] | None) -> str:
    """`7, 9, 8 (mean 8.0)`, `?` for a model that records none."""
    if epochs is None or epochs["mean"] is None:
        return "not recorded"
    each = ", ".join("?" if epoch is None else str(epoch) for epoch in epochs["each"])
    return each if len(epochs["each"]) == 1 else f"{each} (mean {epochs['mean']:.1f})"


def _other_networks(networks: dict[str, list[str]]) -> list[str]:
    """One line where the two sides are of different networks, else none."""
    ours, theirs = (", ".join(networks[side]) for side in ("ours", "baseline"))
    return [f"   Networks: {ours}; baseline: {theirs}"] if theirs and ours != theirs else []


def _with_records(ours: list[dict], theirs: list[dict]) -> dict[str, Any]:
    before, after = ({name: [row[name] for row in rows] for name in METRICS} for rows in (theirs, ours))
    return {
        "baseline": {name: summarise(before[name]) for name in METRICS},
        "difference": {name: paired_difference(before[name], after[name]) for name in METRICS},
        "l1_improvement_percent": paired_improvement(before["l1"], after["l1"]),
    }


def _with_number(results: dict[str, Any], l1: float) -> dict[str, Any]:
    ours = results["ensemble"]["l1"]["mean"]
    return {
        "baseline": {"l1": {"mean": l1, "std": None, "ci95": None}},
        "difference": {"l1": {"mean": ours - l1, "std": None, "ci95": None}},
        "l1_improvement_percent": {"mean": percent_less(l1, ours), "ci95": None},
    }


def _origin(baseline: Baseline) -> dict[str, Any]:
    """Where a baseline's numbers come from."""
    if baseline.results is None:
        return {"path": None, "models": []}
    return {"path": str(baseline.path), "models": [model["name"] for model in baseline.results["models"]]}


def _verdict(target: int, improvement: dict[str, Any]) -> dict[str, Any]:
    interval = improvement["ci95"]
    inside = None if interval is None else interval[0] < target <= interval[1]
    return {"target_percent": target, "reached": improvement["mean"] >= target, "inside_interval": inside}


def _epochs(results: dict[str, Any] | None) -> dict[str, Any] | None:
    """The epoch of every checkpoint: for checkpoint_best.pt, the epochs that it took to the best."""
    if results is None:
        return None
    each = [epoch if isinstance(epoch := model.get("epoch"), int) else None for model in results["models"]]
    known = [epoch for epoch in each if epoch is not None]
    return {"each": each, "mean": sum(known) / len(known) if known else None}


def _networks(results: dict[str, Any] | None) -> list[str]:
    """Each kind of network once, as the results name it."""
    named = [model.get("network") for model in results["models"]] if results else []
    return sorted({name for name in named if isinstance(name, str)})


def _caveats(results: dict[str, Any], baseline: Baseline) -> list[str]:
    """What makes the comparison weaker than it looks."""
    if baseline.results is None:
        return [
            "--baseline_l1 is a bare number: no values photo by photo, so no interval, and nothing shows that it was "
            "measured on these photos"
        ]
    here, there = results["settings"], baseline.results.get("settings", {})
    changed = [
        f"{name} {there[name]} there, {here[name]} here"
        for name in SAME_MEASURE
        if there.get(name, here[name]) != here[name]
    ]
    unknown = [model["name"] for model in baseline.results["models"] if model.get("provenance") == "unknown"]
    notes = []
    if changed:
        notes.append(f"measured in another way ({'; '.join(changed)}): the difference is not of the models alone")
    if unknown:
        notes.append(f"the baseline's provenance is unknown ({', '.join(unknown)}): it may have seen these photos")
    return notes


def _worse(improvement: dict[str, Any]) -> list[str]:
    """The red flag of a result below its baseline, with what to try."""
    if improvement["mean"] >= 0:
        return []
    return [
        "the test L1 is worse than the baseline's: look at the worst photos in the report and at the flags in "
        "history.json; when fine-tuning try a lower --lr, --layer_decay 0.8 or --freeze_stages, else more epochs"
    ]
