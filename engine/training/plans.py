"""Rows on disk -> the runs to make: one plan a fold of a split, or one plan from a --train_jsonl. Proves the split before a run."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import Faults, InputError
from common.exits import flagged
from common.files import file_digest
from common.jsonl import read_jsonl
from common.lists import SHOWN, log_list, shortened, write_lines
from common.log import RunLog
from common.options import plain
from data.config import SPLITS_DIR, VAL_RATIO
from data.fingerprint import fingerprint_pairs, has_look, is_current, set_digest
from data.lookalikes import near_duplicate_rows
from data.manifest import METADATA, Pair, find_base_dir, find_group_key, read_pairs
from data.splits.files import TEST, verify_splits
from data.splits.split import hold_out
from data.units import refuse_unknown_group_key
from engine.exclusion import exclude_held_out
from engine.provenance import settle_near_duplicates
from engine.training.config import SECTIONS, Options
from losses.perceptual import vgg_file

LOOKALIKES, SHARED = "lookalikes.txt", "shared_groups.txt"


@dataclass(frozen=True)
class FoldPlan:
    """One run: fold number (None for a single run), its folder, its rows, the test rows it must not see, and rows mixed in.

    near_duplicates: what starting weights mean that saw a photo which looks like a test or validation photo: "refuse", "report"
    or "off". allow_seen_validation: whether they may have seen validation photos, whose scores are then marked.
    split: {"folder", "base_dir"} of the split that the rows are from, absolute paths (base_dir: None unless it was given); folds:
    how many it has. excluded: the rows that --exclude_splits_dir has left out, as engine/exclusion.py records them.
    """

    number: int | None
    folder: Path
    train: list[Pair]
    val: list[Pair]
    test: list[Pair]
    mix: list[Pair] = field(default_factory=list)
    split: dict[str, str | None] | None = None
    near_duplicates: str = "refuse"
    allow_seen_validation: bool = False
    excluded: list[dict[str, Any]] = field(default_factory=list)
    folds: int | None = None

    @property
    def name(self) -> str:
        return "Single run" if self.number is None else f"Fold {self.number}"


def requested_config(plan: FoldPlan, options: Options) -> dict[str, Any]:
    """All that determines a run's result, as plain types: what a rerun must ask for again."""
    return plain(
        {
            **{name: dataclasses.asdict(getattr(options, name)) for name in SECTIONS},
            "train_digest": set_digest([pair.row for pair in plan.train]),
            "val_digest": set_digest([pair.row for pair in plan.val]),
            "mix_digest": set_digest([pair.row for pair in plan.mix]),
            "vgg_sha256": options.vgg_sha256,
            "pretrained_sha256": _weights_digest(options.weights_flag, options.model.pretrained_path),
        }
    )


def _weights_digest(flag: str, path: str | None) -> str | None:
    """sha256 of the starting weights; None without any, and when they are gone (a finished run needs them no more)."""
    with flagged(flag, path):
        if path is None or not Path(path).is_file():
            return None
        return file_digest(path)


def with_vgg_digest(options: Options) -> Options:
    """The options with the digest of the VGG19 weights, taken once for all folds. Raises OSError when they cannot be read."""
    file = vgg_file(options.loss.vgg_weights)
    if not options.loss.needs_vgg or not file.is_file():
        return options  # without the file, the loss of an unfinished fold says what to do
    with flagged("--vgg_weights", options.loss.vgg_weights):
        return dataclasses.replace(options, vgg_sha256=file_digest(file))


def cross_validation_plans(args: argparse.Namespace, options: Options, log: RunLog) -> list[FoldPlan]:
    """One plan a fold, or that of --fold alone, after the split has been verified against its metadata and every photo against
    its digest.

    Raises InputError: edited or missing split files, changed photos, another number of folds.
    """
    splits_dir, base_dir = args.data_splits_dir, args.base_dir
    if args.split_assumed:
        log(f"Split: {splits_dir}, which is here (no --data_splits_dir, no --train_jsonl)")
    with flagged("--data_splits_dir", splits_dir):
        metadata = verify_splits(splits_dir)
    n_folds = len(metadata["folds"])
    if args.n_folds not in (None, n_folds):
        raise InputError(
            f"--n_folds {args.n_folds}: {splits_dir} has {n_folds} folds; leave --n_folds out to take all of them"
        )
    if args.fold is not None and args.fold > n_folds:
        raise InputError(f"--fold {args.fold}: {splits_dir} has {n_folds} folds")
    folders = [splits_dir / f"fold_{number}" for number in range(1, n_folds + 1)]
    files = [splits_dir / "test.jsonl", *(folder / name for folder in folders for name in ("train.jsonl", "val.jsonl"))]
    test, *rows = checked_files("--data_splits_dir", splits_dir, files, base_dir, log)
    mix = mixed_pairs(options, log)
    base = None if base_dir is None else str(base_dir.resolve())
    split = {"folder": str(splits_dir.resolve()), "base_dir": base}
    mode = settle_near_duplicates(args.near_duplicates, splits_dir)
    plans = [
        FoldPlan(
            number,
            args.output_dir / f"fold_{number}",
            train,
            val,
            test,
            mix,
            split,
            mode,
            args.allow_seen_validation,
            folds=n_folds,
        )
        for number, (train, val) in enumerate(zip(rows[::2], rows[1::2], strict=True), start=1)
    ]
    folder = None if args.dry_run else args.output_dir
    report_lookalikes(
        {"test": test, "validation": [pair for plan in plans for pair in plan.val], "mixed": mix}, folder, log
    )
    return [plan for plan in plans if args.fold in (None, plan.number)]


def single_plan(args: argparse.Namespace, options: Options, log: RunLog) -> FoldPlan:
    """The plan of one run. Validation pairs: --val_jsonl, else val.jsonl beside the rows, else a group-safe share of them."""
    train_jsonl, val_jsonl, test_jsonl, base_dir = args.train_jsonl, args.val_jsonl, args.test_jsonl, args.base_dir
    group_key = args.group_key
    train = checked_pairs("--train_jsonl", train_jsonl, base_dir, log, group_key)
    if group_key is not None:
        refuse_unknown_group_key(group_key, train)
    beside = train_jsonl.parent / "val.jsonl"
    if val_jsonl is None and beside.exists():
        val_jsonl = beside
        unused = "" if args.val_ratio is None else ", so that --val_ratio is not used"
        log(f"Validation pairs: {beside}{unused}")
    val = [] if val_jsonl is None else checked_pairs("--val_jsonl", val_jsonl, base_dir, log, group_key)
    mix = mixed_pairs(options, log)
    excluded: list[dict[str, Any]] = []
    beside_rows = [] if test_jsonl else neighbouring_splits(train_jsonl, args.exclude_splits_dir)
    tested_by = test_jsonl.parent if test_jsonl else args.exclude_splits_dir or next(iter(beside_rows), None)
    mode = settle_near_duplicates(args.near_duplicates, tested_by)
    if args.exclude_splits_dir is not None:
        parts = {"training": train, "validation": val, "mixed": mix}
        parts, excluded = exclude_held_out(
            parts, args.exclude_splits_dir, mode, args.allow_seen_validation, args.output_dir, log
        )
        train, val, mix = parts.values()
    if val_jsonl is None:
        near = near_duplicate_rows([pair.row for pair in train])
        group_key = group_key or find_group_key(train_jsonl)
        ratio = VAL_RATIO if args.val_ratio is None else args.val_ratio
        train, val = hold_out(train, near, ratio, options.train.seed)
        share = f"{len(val)} held out of {train_jsonl} (--val_ratio {ratio:g})"
        log(f"Validation pairs: {share}, {len(train)} left for training; no {group_key!r} stands on both sides")
    if test_jsonl is not None:
        test = checked_pairs("--test_jsonl", test_jsonl, base_dir, log, args.group_key)
    else:
        test = [pair for folder in beside_rows for pair in guarded_pairs(folder, log)]
    if test_jsonl is None and args.exclude_splits_dir is None and not beside_rows:
        log(
            f"No --test_jsonl, no {SPLITS_DIR} here or beside {train_jsonl}: nothing checks these rows against a test set"
        )
    folder = None if args.dry_run else args.output_dir
    report_lookalikes({"training": train, "validation": val, "test": test, "mixed": mix}, folder, log)
    report_shared_groups({"training": train, "validation": val, "test": test}, folder, log)
    return FoldPlan(None, args.output_dir, train, val, test, mix, None, mode, args.allow_seen_validation, excluded)


def neighbouring_splits(train_jsonl: Path, excluded: Path | None) -> list[Path]:
    """The splits whose test photos a run on these rows must not see, though nobody names them: the one that the rows stand in, and
    those called data_splits beside them and in the current folder; but for --exclude_splits_dir, whose photos are left out."""
    beside = train_jsonl.parent
    places = (beside, beside.parent, beside / SPLITS_DIR, SPLITS_DIR)
    found = {place.resolve(): place for place in places if all((place / name).is_file() for name in (METADATA, TEST))}
    if excluded is not None:
        found.pop(excluded.resolve(), None)
    return list(found.values())


def guarded_pairs(folder: Path, log: RunLog) -> list[Pair]:
    """The test photos of the split in `folder`, by what its rows record: only rows of another decoder or version are read anew."""
    path, faults = folder / TEST, Faults()
    rows = list(read_jsonl(path, faults))
    faults.raise_if_any(f"{path}: rows that cannot be used")
    complete = all(is_current(row) for _, row in rows)
    log(f"No --test_jsonl: the {len(rows)} test photos of {path} are guarded")
    if not complete:
        return checked_pairs("--test_jsonl", path, None, log)
    base = find_base_dir(path, None)
    return [
        Pair(row["src"], row["tar"], None, row, str(path), line, base / row["src"], base / row["tar"])
        for line, row in rows
    ]


def report_lookalikes(parts: dict[str, list[Pair]], folder: Path | None, log: RunLog) -> None:
    """A warning for each two rows of different parts that look the same, with both names; equal test photos are refused later.

    folder: of the file into which more than five go; None: nothing may be written.
    """
    rows = [(part, pair) for part, pairs in parts.items() for pair in pairs]
    lines = []
    for hit in near_duplicate_rows([pair.row for _, pair in rows], [part for part, _ in rows]):
        (part, pair), (other_part, other) = rows[hit.first], rows[hit.second]
        lines.append(
            f"⚠️  {pair.src} ({part}, {pair.where}) looks the same as {other.src} ({other_part}, {other.where})"
        )
    log_list(log, lines, folder and folder / LOOKALIKES)


def report_shared_groups(parts: dict[str, list[Pair]], folder: Path | None, log: RunLog) -> None:
    """A warning for each two parts that share groups: rows that were divided by hand may do so, those of a split never."""
    named = {part: {pair.group for pair in pairs if pair.group is not None} for part, pairs in parts.items()}
    everything: list[str] = []
    for first, second in itertools.combinations(named, 2):
        shared = sorted(named[first] & named[second])
        if shared:
            everything += [f"{group}: {first}, {second}" for group in shared]
            place = f" (all of them in {folder / SHARED})" if folder and len(shared) > SHOWN else ""
            names = shortened(shared) + place if place else ", ".join(shared)
            log(f"⚠️  {len(shared)} groups stand both in {first} and in {second}: {names}; scores will flatter")
    if folder and len(everything) > SHOWN:
        write_lines(folder / SHARED, everything)


def mixed_pairs(options: Options, log: RunLog) -> list[Pair]:
    """The rows of --mix_jsonl; their relative paths start at its own folder, whatever --base_dir says."""
    path = options.data.mix_jsonl
    return [] if path is None else checked_pairs("--mix_jsonl", Path(path), None, log)


def checked_pairs(
    flag: str, path: Path, base_dir: Path | None, log: RunLog, group_key: str | None = None
) -> list[Pair]:
    """`checked_files` of the one file `path`, which `flag` named."""
    return checked_files(flag, path, [path], base_dir, log, group_key)[0]


def checked_files(
    flag: str, named: Path, files: list[Path], base_dir: Path | None, log: RunLog, group_key: str | None = None
) -> list[list[Pair]]:
    """The rows of each file with the content digests of their photos; unchanged photos are not decoded again, others once.

    group_key: the field of a row's group; None: the one that the file's split recorded, else `group`.

    Raises InputError, with the `flag` and the path `named` by it, for every photo whose pixels are no longer those that the
    row's digest was made from.
    """
    with flagged(flag, named):
        recorded = [read_pairs(file, base_dir, group_key=group_key, warn=log) for file in files]
        older = sum("src_phash" in pair.row and not has_look(pair.row, "src") for rows in recorded for pair in rows)
        if older:
            log(
                f"{named}: {older} rows are of an earlier version and say too little of how their photos look, which are read anew"
            )
        pairs = fingerprint_pairs([pair for rows in recorded for pair in rows])
    faults, following = Faults(), iter(pairs)
    parts = [list(itertools.islice(following, len(rows))) for rows in recorded]
    for then, now in zip(itertools.chain(*recorded), pairs, strict=True):
        for role in ("src", "tar"):
            if (
                then.row.get("decoder") == now.row["decoder"]
                and then.row.get(f"{role}_sha256") != now.row[f"{role}_sha256"]
            ):
                faults.add(now.where, f"{getattr(now, role)} is not the photo that this row's digest was made from")
    faults.raise_if_any("photos that changed", "Make the splits again, or bring the photos back.")
    return parts
