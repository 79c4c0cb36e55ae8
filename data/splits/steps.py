"""The stages of create_data_splits.py that talk to the user: what is read, left out and found, and what was written."""

from __future__ import annotations

import codecs
import difflib
import json
from collections import Counter
from pathlib import Path

from common.errors import Faults, InputError
from common.exits import flagged
from common.files import is_no_folder
from common.jsonl import open_input, parse_object
from common.log import RunLog
from data.config import SplitConfig
from data.fingerprint import fingerprint_pairs, row_digest
from data.folders import LeftOut
from data.lookalikes import NearDuplicate, near_duplicate_rows
from data.manifest import DEFAULT_GROUP_KEY, METADATA, UNIT, Pair, find_base_dir, pairs_from_folder, read_pairs
from data.splits.drawing import never_drawn, smallest_total_with
from data.splits.files import changed_options, known_pairs, recorded_config, rows_of_split, verify_splits
from data.splits.split import Split
from data.units import FEWEST_UNITS, refuse_unknown_group_key

SHOWN = 5
TOGETHER = "what must stay together allows no nearer size"


def read_input(config: SplitConfig, log: RunLog, keep_repeated: bool = False) -> tuple[list[Pair], Path, list[LeftOut]]:
    """The pairs, their absolute base directory, and what a folder holds besides. keep_repeated: as `read_pairs` has it.

    Raises InputError for bad rows, and for a --group_key that no row has.
    """
    with flagged("--output_dir", config.output_dir):
        if is_no_folder(config.output_dir):
            raise InputError(f"--output_dir {config.output_dir} is a file; name a folder")
    if config.input_dir is not None:
        with flagged("--input_dir", config.input_dir):
            pairs, left_out = pairs_from_folder(config.input_dir, config.output_dir)
            base_dir = Path(config.input_dir).resolve()
    else:
        assert config.input_jsonl is not None  # SplitConfig requires one of the two
        left_out = []
        with flagged("--input_jsonl", config.input_jsonl), flagged("--base_dir", config.base_dir):
            base_dir = find_base_dir(config.input_jsonl, config.base_dir)
            warn = lambda line: log(f"warning: {line}")  # noqa: E731
            pairs = read_pairs(
                config.input_jsonl, base_dir, group_key=config.group_key, warn=warn, keep_repeated=keep_repeated
            )
    named = sum(pair.group is not None for pair in pairs)
    fields = {name for pair in pairs for name in pair.row} - {"src", "tar"}
    if config.group_key != DEFAULT_GROUP_KEY:
        refuse_unknown_group_key(config.group_key, pairs)
    log(f"Pairs: {len(pairs)} from {config.input_jsonl or config.input_dir}, base directory {base_dir}")
    near = difflib.get_close_matches(config.group_key, fields - {config.group_key}, 1)
    hint = f" (is {near[0]!r} meant? give --group_key {near[0]})" if near and not named else ""
    values = len({pair.group for pair in pairs} - {None})
    log(f"Groups: {named} rows have {config.group_key!r}, with {values} values{hint}")
    return pairs, base_dir, left_out


def leave_out(pairs: list[Pair], config: SplitConfig, log: RunLog) -> tuple[list[Pair], list[str] | None]:
    """The pairs without those that --drop names, and the names; all of them and None without that flag."""
    if config.drop is None:
        return pairs, None
    kept, names = drop_rows(pairs, config.drop)
    log(f"Dropped: {len(pairs) - len(kept)} pairs named in {config.drop}, {len(kept)} are left")
    return kept, names


def drop_rows(pairs: list[Pair], path: str | Path) -> tuple[list[Pair], list[str]]:
    """`pairs` without those whose src, as written, stands in the file `path`; and the names, sorted, each once.

    A line of the file is a JSON object with "src" (a line of audit.jsonl, say), a JSON string, or the bare name; blank
    lines are skipped. Raises InputError with every bad line and every name that no row has, and when no pair is left.
    """
    faults = Faults()
    found = []
    with flagged("--drop", path), open_input(path) as handle:
        for number, raw in enumerate(handle, start=1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                if line.strip():
                    found.append((f"{path}:{number}", _dropped_name(line)))
            except ValueError as error:
                faults.add(f"{path}:{number}", str(error))
    known, names = {pair.src for pair in pairs}, {name for _, name in found}
    for where, name in found:
        if name not in known:
            faults.add(where, f"no row of the input has the src {name!r}, letter for letter")
    faults.raise_if_any(f"--drop {path}: lines that cannot be used")
    kept = [pair for pair in pairs if pair.src not in names]
    if not kept:
        raise InputError(f"--drop {path} names all {len(pairs)} pairs; nothing is left")
    return kept, sorted(names)


def _dropped_name(line: bytes) -> str:
    """The src that one line names; ValueError with a short reason."""
    if line.lstrip().startswith(b"{"):
        name = parse_object(line).get("src")
        if not isinstance(name, str):
            raise ValueError('the object has no "src" with a name')
        return name
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if not text.startswith('"'):
        return text
    name = json.loads(text)
    if not isinstance(name, str):
        raise ValueError("not one name in quotes")
    return name


def reusable_pairs(config: SplitConfig, base_dir: Path, dropped: list[str] | None, log: RunLog) -> list[Pair]:
    """Rows of an earlier run, for their digests; says when that run had other options, or left unreadable files."""
    with flagged("--output_dir", config.output_dir):
        try:
            changed = changed_options(config.output_dir, config, dropped)
            known = known_pairs(config.output_dir, base_dir)
        except InputError as error:
            log(f"warning: {error}; the splits there are made anew")
            return []
    if changed:
        log(f"{config.output_dir} holds splits made with other options, they are made again: {', '.join(changed)}")
    return known


def refuse_other_split(pairs: list[Pair], base_dir: Path, config: SplitConfig, log: RunLog) -> None:
    """--check: InputError with the differences unless the split in --output_dir is of these photos, by content, and of this
    --test_size, --n_folds, --seed and, where one is named, --group_key. What its --drop left out may be among `pairs`."""
    folder = Path(config.output_dir)
    recorded = recorded_config(verify_splits(folder), folder)
    compared = ("test_size", "n_folds", "seed", *(("group_key",) if config.group_key != DEFAULT_GROUP_KEY else ()))
    differences = [
        f"--{name} {recorded.get(name)} there, {getattr(config, name)} now"
        for name in compared
        if recorded.get(name) != getattr(config, name)
    ]
    dropped = set(recorded.get("drop") or ())  # not read: an image that cannot be is a reason to drop its pair
    kept = fingerprint_pairs([pair for pair in pairs if pair.src not in dropped], known=known_pairs(folder, base_dir))
    now = {row_digest(pair.row): pair.src for pair in kept}
    there = {row_digest(row): row["src"] for row in rows_of_split(folder)}
    for these, others, what in (
        (now, there, "of these photos are not in it"),
        (there, now, "of its photos are not here"),
    ):
        if unknown := sorted(these[digest] for digest in these.keys() - others.keys()):
            shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
            differences.append(f"{len(unknown)} of {len(these)} {what} ({shown})")
    if differences:
        raise InputError("\n".join([f"{folder} holds another split:", *(f"  {line}" for line in differences)]))
    log(f"Split: {folder} is of these {len(now)} photos, --test_size, --n_folds and --seed")


def find_near_duplicates(pairs: list[Pair], config: SplitConfig, log: RunLog) -> list[NearDuplicate]:
    """Rows that look the same, with a line for each of the first five; none with --near_duplicates off."""
    if config.near_duplicates == "off":
        log("Near-duplicates: not looked for (--near_duplicates off)")
        return []
    near = near_duplicate_rows([pair.row for pair in pairs])
    kept = "kept on one side" if config.near_duplicates == "group" else "may stand on two sides (report only)"
    log(f"Near-duplicates: {len(near)}" + (f", {kept}" if near else ""))
    for hit in near[:SHOWN]:
        log(f"  {pairs[hit.first].src} ~ {pairs[hit.second].src} ({hit.describe()})")
    if len(near) > SHOWN:
        log(f"  ... and {len(near) - SHOWN} more, see {METADATA}")
    return near


def unused_options(config: SplitConfig, audit: bool, check: bool, given: frozenset[str]) -> list[str]:
    """Of the flags that were `given`, those without effect beside --audit or --check, in words."""
    reason, without_effect = "", set[str]()
    if audit:
        reason, without_effect = "--audit makes no split", {"test_size", "n_folds", "scheme", "val_ratio", "seed"}
    elif check:
        reason, without_effect = "--check does not compare it", {"scheme", "val_ratio", "near_duplicates"}
    elif not config.draws_validation:
        reason, without_effect = "--scheme kfold validates every pair once", {"val_ratio"}
    return [f"Note: --{name} is not used: {reason}" for name in sorted(given & without_effect)]


def report_plan(pairs: list[Pair], split: Split, config: SplitConfig, log: RunLog) -> None:
    """Sizes of the sets, and where groups made them differ from the requested sizes."""
    largest = max(len(rows) for rows in split.components)
    log(f"Kept together: {len(pairs)} pairs form {len(split.components)} units, the largest of {largest}")
    units = split.unit_names(pairs)
    if own := sum(pair.row.get(UNIT, name) != name for pair, name in zip(pairs, units, strict=True)):
        log(
            f"Note: {own} rows of the input have a {UNIT!r} of their own; the split's files hold the one found here instead"
        )
    tested = split.count_units(split.test)
    singles = largest == 1  # then nothing but the other parts, which may not be empty, can be in the way
    left = f"training and validation need the other {len(pairs) - len(split.test)} pairs" if singles else TOGETHER
    log(f"Test: {len(split.test)} pairs in {tested} units{_missed(len(split.test), split.wanted_test, left)}")
    if tested < FEWEST_UNITS:
        log(f"Note: an interval of a test score needs {FEWEST_UNITS} independent units or more: raise --test_size")
    for number, (fold, size) in enumerate(zip(split.folds, split.wanted_val, strict=True), start=1):
        train, val = split.count_units(fold.train), split.count_units(fold.val)
        sizes = f"{len(fold.train)} train, {len(fold.val)} val in {train} and {val} units"
        left = f"training needs the other {len(fold.train)}" if singles else TOGETHER
        log(f"Fold {number}: {sizes}{_missed(len(fold.val), size, left)}")
    _report_untestable(split, log)


def _report_untestable(split: Split, log: RunLog) -> None:
    """Which units no seed can draw for a test set of this size, and the --test_size that lets every unit be drawn."""
    counts, size = Counter(len(rows) for rows in split.components), len(split.test)
    never = never_drawn(counts, size)
    if not never:
        return
    pairs = sum(length * count for length, count in counts.items())
    photos, units = sum(length * counts[length] for length in never), sum(counts[length] for length in never)
    sizes = str(never[0]) if len(never) == 1 else f"{never[0]} to {never[-1]}"
    # More than half for the test would leave too little to train on.
    better = smallest_total_with(counts, never, size + 1, pairs // 2)
    advice = (
        f"with --test_size {better} every unit can be" if better else "no --test_size up to half of the pairs helps"
    )
    log(
        f"⚠️  {photos} of {pairs} pairs, in {units} units of {sizes}, can never be test photos beside a test set "
        f"of {size}: the test score says nothing about such photos; {advice}"
    )


def report_written(is_new: bool, config: SplitConfig, log: RunLog) -> None:
    """What was proved and where it lies."""
    near = ", group or near-duplicate" if config.near_duplicates == "group" else " or group"
    log(f"Verified: no path, image{near} stands on two sides; every pair is in its place")
    done = "Wrote" if is_new else "Unchanged, the same split was there:"
    log(f"{done} {config.output_dir}: test.jsonl, {config.n_folds} x fold_K/train.jsonl + val.jsonl, {METADATA}")


def _missed(size: int, wanted: int, reason: str) -> str:
    return "" if size == wanted else f" (wanted {wanted}; {reason})"
