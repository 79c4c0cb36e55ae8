"""Results and a baseline -> the `comparison` of test_results.json, and its lines for the log. About any network's results."""

from __future__ import annotations

from typing import Any

from engine.intervals import interval_words, paired_difference, paired_improvement, percent_less, summarise
from engine.metrics import COLOUR, LPIPS, METRICS, OPTIONAL
from engine.testing.baseline import Baseline
from engine.testing.results import final_model

TARGETS = (10, 15, 20)  # percent of L1
FEWER_EPOCHS = 30  # percent of the baseline's epochs to best
SAME_MEASURE = ("resolution", "fit", "tta", "precision")


def compare(results: dict[str, Any], rows: list[dict], baseline: Baseline, units: list[str]) -> dict[str, Any]:
    """`comparison` of `results` with `baseline`; rows: those of per_image.csv. Plain types, None where nothing is known.

    units: the independent unit of each photo. `difference` is these results minus the baseline's, photo by photo;
    `l1_improvement_percent` is positive when L1 fell. A `verdict` is `reached`, `not reached` or `undecided`, by what it says:
    the interval of the improvement, or with a bare number the mean alone.
    """
    if baseline.records is None:
        ours, theirs = results["ensemble"]["l1"]["mean"], baseline.l1
        summary = {"l1": {"mean": theirs, "std": None, "ci95": None}}
        difference = {"l1": {"mean": ours - theirs, "std": None, "ci95": None}}
        improvement = {"mean": percent_less(theirs, ours), "ci95": None}
    else:
        final = final_model(results["folds"])
        ours = [row for row in rows if row["model"] == final]
        shared = [name for name in (*METRICS, *OPTIONAL) if name in baseline.records[0] and name in ours[0]]
        if LPIPS in shared and len(_lpips_of(results, baseline)) > 1:
            shared.remove(LPIPS)
        before, after = ({name: [row[name] for row in side] for name in shared} for side in (baseline.records, ours))
        summary = {name: summarise(before[name], units) for name in shared}
        difference = {name: paired_difference(before[name], after[name], units) for name in shared}
        improvement = paired_improvement(before["l1"], after["l1"], units)
    path = None if baseline.results is None else str(baseline.path)
    names = [] if baseline.results is None else [model["name"] for model in baseline.results["models"]]
    return {
        "baseline": {"path": path, "models": names, **summary},
        "difference": difference,
        "l1_improvement_percent": improvement,
        "verdict": [_verdict(target, improvement, bare=baseline.records is None) for target in TARGETS],
        "epochs_to_best": {"ours": _epochs(results), "baseline": _epochs(baseline.results)},
        "convergence": _convergence(_epochs(results), _epochs(baseline.results)),
        "networks": {"ours": _networks(results), "baseline": _networks(baseline.results)},
        "notes": _notes(results, baseline, improvement),
    }


def _lpips_of(results: dict[str, Any], baseline: Baseline) -> set[str | None]:
    """The weights by which each side measured LPIPS: two for numbers that cannot be compared, None for a side without it."""
    return {side.get("settings", {}).get(LPIPS) for side in (results, baseline.results or {})}


def _verdict(target: int, improvement: dict[str, Any], bare: bool) -> dict[str, Any]:
    """Whether the improvement reached `target` percent: the whole interval must lie on one side. Too few units decide nothing."""
    interval = [improvement["mean"]] * 2 if bare else improvement["ci95"]
    verdict = "undecided"
    if interval is not None and interval[0] >= target:
        verdict = "reached"
    elif interval is not None and interval[1] < target:
        verdict = "not reached"
    return {"target_percent": target, "verdict": verdict, "by": "mean" if bare else "interval"}


def _epochs(results: dict[str, Any] | None) -> dict[str, Any] | None:
    """The epoch of every checkpoint: for checkpoint_best.pt, the epochs that it took to the best."""
    if results is None:
        return None
    each = [epoch if isinstance(epoch := model.get("epoch"), int) else None for model in results["models"]]
    known = [epoch for epoch in each if epoch is not None]
    return {"each": each, "mean": sum(known) / len(known) if known else None}


def _convergence(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> dict[str, Any] | None:
    """How many percent fewer epochs the best took than the baseline's, by the means over models: those of a run are too few for an
    interval. None where a model's epoch is not known, and beside a baseline that was best before it learned."""
    if ours is None or theirs is None or None in (*ours["each"], *theirs["each"]) or theirs["mean"] <= 0:
        return None
    percent = round(percent_less(theirs["mean"], ours["mean"]), 9)  # 7 of 10 epochs are 30 % fewer, not 29.999...
    verdict = "reached" if percent >= FEWER_EPOCHS else "not reached"
    return {"fewer_epochs_percent": percent, "target_percent": FEWER_EPOCHS, "verdict": verdict, "by": "mean"}


def _networks(results: dict[str, Any] | None) -> list[str]:
    """Each kind of network once, as the results name it."""
    named = [model.get("network") for model in results["models"]] if results else []
    return sorted({name for name in named if isinstance(name, str)})


def _notes(results: dict[str, Any], baseline: Baseline, improvement: dict[str, Any]) -> list[str]:
    """What makes the comparison weaker than it looks; and what to try when these results are the worse ones."""
    notes = []
    if baseline.results is None:
        notes.append(
            "--baseline_l1 is a bare number: no values photo by photo, so no interval; the verdict is by the mean alone, and "
            "nothing shows that it was measured on these photos"
        )
    else:
        if improvement["ci95"] is None:
            why = interval_words(results["n"], results["units"], None)
            notes.append(f"{why}, so that +10 %, +15 % and +20 % stay undecided: test on more units")
        here, there = results["settings"], baseline.results.get("settings", {})
        changed = [
            f"{name} {there[name]} there, {here[name]} here"
            for name in SAME_MEASURE
            if there.get(name, here[name]) != here[name]
        ]
        if changed:
            notes.append(f"measured in another way ({'; '.join(changed)}): the difference is not of the models alone")
        if baseline.records is not None and COLOUR[0] not in baseline.records[0]:
            notes.append(
                "the baseline has no colour metrics (Delta E 2000, clipped, crushed), as evaluations did not give them before: "
                "evaluate its models again to compare colours"
            )
        weights = _lpips_of(results, baseline)
        if len(weights) > 1:
            sides = " and ".join(sorted(str(side or "not measured") for side in weights))
            notes.append(f"LPIPS is left out: {sides}; evaluate both with the same --lpips_weights to compare it")
        recorded = baseline.results.get("near_duplicates")
        alike = recorded.get("photos") if isinstance(recorded, dict) else None
        if alike and isinstance(alike, list):
            notes.append(
                f"{len(alike)} of these photos look like photos that the baseline's models learned from: its means may flatter"
            )
        unknown = [model["name"] for model in baseline.results["models"] if model.get("provenance") == "unknown"]
        if unknown:
            notes.append(f"the baseline's provenance is unknown ({', '.join(unknown)}): it may have seen these photos")
    if unlearned := [model["name"] for model in results["models"] if model.get("epoch") == 0]:
        notes.append(
            f"best at epoch 0, as the starting weights were: {', '.join(unlearned)}; no epoch of training was better"
        )
    if improvement["mean"] < 0:
        notes.append(
            "the test L1 is worse than the baseline's: look at the worst photos in the report and at the flags in "
            "history.json; when fine-tuning try a lower --lr, --layer_decay 0.8 or --freeze_stages, else more epochs"
        )
    return notes


def comparison_lines(results: dict[str, Any]) -> list[str]:
    """Lines for the log, below the table; none when the results were compared with nothing."""
    if "comparison" not in results:
        return []
    comparison = results["comparison"]
    source = comparison["baseline"]["path"] or "--baseline_l1"
    lines = [f"Improvement of L1 against {source}: {improvement_text(comparison)}"]
    ours, theirs = (", ".join(comparison["networks"][side]) for side in ("ours", "baseline"))
    if theirs and ours != theirs:
        lines.append(f"   Networks: {ours}; baseline: {theirs}")
    lines.append(f"   {'; '.join(verdict_text(entry) for entry in comparison['verdict'])}")
    ours, theirs = (epochs_text(comparison["epochs_to_best"][side]) for side in ("ours", "baseline"))
    lines.append(f"   Epochs to best: {ours}; baseline: {theirs}{convergence_text(comparison)}")
    return [*lines, *(f"   ⚠️  {note}" for note in comparison["notes"])]


def improvement_text(comparison: dict[str, Any]) -> str:
    """`+12.3 % [+8.1, +16.0]`; without brackets for a bare number."""
    improvement = comparison["l1_improvement_percent"]
    text = f"{improvement['mean']:+.1f} %"
    return text if improvement["ci95"] is None else "{} [{:+.1f}, {:+.1f}]".format(text, *improvement["ci95"])


def verdict_text(entry: dict[str, Any]) -> str:
    """`+10 % reached`, `+15 % undecided`; `+20 % not reached (by the mean)` where there was no interval to ask."""
    text = f"+{entry['target_percent']} % {entry['verdict']}"
    return f"{text} (by the mean)" if entry["by"] == "mean" else text


def convergence_text(comparison: dict[str, Any]) -> str:
    """`: 33.3 % fewer, -30 % reached (by the mean)`; nothing where an epoch is not known."""
    found = comparison.get("convergence")
    if found is None:
        return ""
    percent = found["fewer_epochs_percent"]
    than = f"{abs(percent):.1f} % {'fewer' if percent >= 0 else 'more'}"
    return f": {than}, -{found['target_percent']} % {found['verdict']} (by the {found['by']})"


def epochs_text(epochs: dict[str, Any] | None) -> str:
    """`7, 9, 8 (mean 8.0)`, `?` for a model that records none."""
    if epochs is None or epochs["mean"] is None:
        return "not recorded"
    each = ", ".join("?" if epoch is None else str(epoch) for epoch in epochs["each"])
    return each if len(epochs["each"]) == 1 else f"{each} (mean {epochs['mean']:.1f})"
