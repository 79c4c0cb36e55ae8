"""Rows on disk -> the runs to make: one plan a fold of a split, or one plan from a --train_jsonl. Proves the split before a run."""

from __future__ import annotations

import itertools
from pathlib import Path

from darkir.engine.errors import RunRefused
from darkir.engine.run_config import FoldPlan, Options
from darkir.engine.runlog import RunLog
from data.faults import Faults
from data.fingerprint import fingerprint_pairs, near_duplicate_pairs
from data.images import DECODER
from data.manifest import Pair, read_pairs
from data.split_files import verify_splits
from data.splits import hold_out

SHOWN = 20


def cross_validation_plans(
    splits_dir: Path, base_dir: Path | None, output_dir: Path, n_folds: int, options: Options, log: RunLog
) -> list[FoldPlan]:
    """One plan a fold, after the split has been verified against its metadata and every photo against its digest.

    Raises DataError (edited or missing split files, changed photos) and RunRefused (another number of folds).
    """
    metadata = verify_splits(splits_dir)
    if len(metadata["folds"]) != n_folds:
        raise RunRefused(f"--n_folds {n_folds}: {splits_dir} has {len(metadata['folds'])} folds")
    test = checked_pairs(splits_dir / "test.jsonl", base_dir, log)
    mix = mixed_pairs(options, log)
    plans = []
    for number in range(1, n_folds + 1):
        folder = splits_dir / f"fold_{number}"
        train, val = (checked_pairs(folder / name, base_dir, log) for name in ("train.jsonl", "val.jsonl"))
        plans.append(FoldPlan(number, output_dir / f"fold_{number}", train, val, test, mix))
    report_lookalikes({"test": test, "validation": [pair for plan in plans for pair in plan.val], "mixed": mix}, log)
    return plans


def single_plan(
    train_jsonl: Path,
    val_jsonl: Path | None,
    test_jsonl: Path | None,
    val_ratio: float,
    base_dir: Path | None,
    options: Options,
    output_dir: Path,
    log: RunLog,
) -> FoldPlan:
    """The plan of one run. Validation pairs: `val_jsonl`, else val.jsonl beside the rows, else a group-safe share of them."""
    train = checked_pairs(train_jsonl, base_dir, log)
    beside = train_jsonl.parent / "val.jsonl"
    if val_jsonl is None and beside.exists():
        val_jsonl = beside
        log(f"Validation pairs: {beside}")
    if val_jsonl is not None:
        val = checked_pairs(val_jsonl, base_dir, log)
    else:
        train, val = hold_out(train, near_duplicate_pairs(train), val_ratio, options.train.seed)
        log(
            f"Validation pairs: {len(val)} held out of {train_jsonl} (--val_ratio {val_ratio:g}), {len(train)} left for training"
        )
    if test_jsonl is None:
        log("No --test_jsonl: nothing checks these rows against a test set")
    test = [] if test_jsonl is None else checked_pairs(test_jsonl, base_dir, log)
    mix = mixed_pairs(options, log)
    report_lookalikes({"training": train, "validation": val, "test": test, "mixed": mix}, log)
    report_shared_groups({"training": train, "validation": val, "test": test}, log)
    return FoldPlan(None, output_dir, train, val, test, mix)


def report_lookalikes(sides: dict[str, list[Pair]], log: RunLog) -> None:
    """A warning for each two rows on different sides that look the same, with both names; equal test photos are refused later."""
    rows = [(side, pair) for side, pairs in sides.items() for pair in pairs]
    hits = [
        hit for hit in near_duplicate_pairs([pair for _, pair in rows]) if rows[hit.first][0] != rows[hit.second][0]
    ]
    for hit in hits[:SHOWN]:
        (side, pair), (other_side, other) = rows[hit.first], rows[hit.second]
        log(f"⚠️  {pair.src} ({side}, {pair.where}) looks the same as {other.src} ({other_side}, {other.where})")
    if len(hits) > SHOWN:
        log(f"⚠️  ... and {len(hits) - SHOWN} more rows that look the same on two sides")


def report_shared_groups(sides: dict[str, list[Pair]], log: RunLog) -> None:
    """A warning for each two sides that share groups: rows that were divided by hand may do so, those of a split never."""
    named = {side: {pair.group for pair in pairs} - {None} for side, pairs in sides.items()}
    for first, second in itertools.combinations(named, 2):
        shared = sorted(named[first] & named[second])
        if shared:
            shown = ", ".join(shared[:SHOWN]) + (" ..." if len(shared) > SHOWN else "")
            log(f"⚠️  {len(shared)} groups stand both in {first} and in {second}: {shown}; scores will flatter")


def mixed_pairs(options: Options, log: RunLog) -> list[Pair]:
    """The rows of --mix_jsonl; their relative paths start at its own folder, whatever --base_dir says."""
    return [] if options.data.mix_jsonl is None else checked_pairs(Path(options.data.mix_jsonl), None, log)


def checked_pairs(path: Path, base_dir: Path | None, log: RunLog) -> list[Pair]:
    """The rows of `path` with the content digests of their photos; unchanged files are not decoded again.

    Raises DataError naming every photo whose pixels are no longer those that the row's digest was made from.
    """
    recorded = read_pairs(path, base_dir, warn=log)
    pairs = fingerprint_pairs(recorded)
    faults = Faults()
    for then, now in zip(recorded, pairs, strict=True):
        for side in ("src", "tar"):
            if then.row.get("decoder") == DECODER and then.row.get(f"{side}_sha256") != now.row[f"{side}_sha256"]:
                faults.add(now.where, f"{getattr(now, side)} is not the photo that this row's digest was made from")
    faults.raise_if_any("photos that changed", "Make the splits again, or bring the photos back.")
    return pairs
