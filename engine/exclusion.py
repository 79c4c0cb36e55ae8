"""Rows of a pre-training and the split of the fine-tuning behind it -> the rows without what that split holds out, and their list.

The fine-tuning refuses starting weights that saw one of its test or validation photos, or one that looks like it. Here that is
found before the pre-training has taken its hours. The split's files are enough: no photo of it is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import Faults, InputError
from common.exits import flagged
from common.jsonl import read_jsonl
from common.lists import shortened
from common.log import RunLog
from data.fingerprint import DIGESTS, is_current, look_of_row
from data.lookalikes import Looks, rows_alike
from data.manifest import Pair
from data.splits.files import TEST, verify_splits

FLAG = "--exclude_splits_dir"
EXCLUDED = "excluded.jsonl"

Parts = dict[str, list[Pair]]
Held = list[tuple[str, dict]]  # `file:line` and row


def exclude_held_out(
    parts: Parts, split: Path, near_duplicates: str, test_only: bool, folder: Path, log: RunLog
) -> tuple[Parts, list[dict[str, Any]]]:
    """`parts` without the rows that hold a test or validation photo of `split` or look like one; and a record of each of them.

    near_duplicates: "refuse" leaves look-alikes out, "report" only names them in the log, "off" does not look for them; copies are
    always left out. test_only: validation photos do not count. folder: where the run lists the records.
    Raises InputError for a split that is broken, and when no row of a part is left.
    """
    with flagged(FLAG, split):
        held = _held_out(split, test_only, log)
    ours = [(part, pair) for part, pairs in parts.items() for pair in pairs]
    copies = _copies(ours, held)
    alike = {} if near_duplicates == "off" else _alike(ours, held)
    alike = {place: found for place, found in alike.items() if place not in copies}
    if alike and near_duplicates == "report":
        log(f"⚠️  {_told(ours, alike)}; they stay, and starting weights that saw them mark scores as contaminated")
        alike = {}
    left_out = {**copies, **alike}
    if not left_out:
        log(f"{FLAG} {split}: no row left out, compared with {len(held)} photos that it holds out")
        return parts, []
    log(f"⚠️  left out: {_told(ours, left_out)}. The run lists them in {folder / EXCLUDED}")
    gone = {ours[place][1].where for place in left_out}
    kept = {part: [pair for pair in pairs if pair.where not in gone] for part, pairs in parts.items()}
    for part, pairs in parts.items():
        if pairs and not kept[part]:
            raise InputError(f"{FLAG} {split}: all {len(pairs)} {part} rows hold or look like photos that it holds out")
    return kept, [_record(*ours[place], held, *left_out[place]) for place in sorted(left_out)]


def _held_out(split: Path, test_only: bool, log: RunLog) -> Held:
    """The test rows of a split and the validation rows of its folds. Raises InputError when it is not whole and unchanged."""
    folds = verify_splits(split)["folds"]
    names = [TEST, *(f"fold_{fold['fold']}/val.jsonl" for fold in folds if not test_only)]
    held = [(f"{split / name}:{line}", row) for name in names for line, row in read_jsonl(split / name, Faults())]
    older = sum(not is_current(row) for _, row in held)
    if older:
        log(
            f"⚠️  {split}: {older} of {len(held)} rows are of an earlier version and say too little of how their photos look. Make "
            "the split again (the same command gives the same split), or the fine-tuning may find more than is left out here"
        )
    return [(where, {f"{role}_phash": None for role in ("src", "tar")} | row) for where, row in held]


def _copies(ours: list[tuple[str, Pair]], held: Held) -> dict[int, tuple[int, str]]:
    """Place of each of our rows that shares an image with a held-out one -> that one's place, and how."""
    owners = {row[name]: place for place, (_, row) in enumerate(held) for name in DIGESTS if name in row}
    found = {}
    for place, (_, pair) in enumerate(ours):
        owner = next((owners[pair.row[name]] for name in DIGESTS if pair.row[name] in owners), None)
        if owner is not None:
            found[place] = owner, "the same content"
    return found


def _alike(ours: list[tuple[str, Pair]], held: Held) -> dict[int, tuple[int, str]]:
    """The same for rows of which one image looks like an image of a held-out row, by what the fine-tuning will ask."""
    looks = Looks([look_of_row(row, role) for role in ("src", "tar") for _, row in held])
    found = rows_alike([pair.row for _, pair in ours], looks)
    return {place: (other % len(held), how) for place, (other, how) in found.items()}


def _told(ours: list[tuple[str, Pair]], found: Iterable[int]) -> str:
    places = sorted(found)
    parts = [ours[place][0] for place in places]
    counts = ", ".join(f"{parts.count(part)} {part}" for part in dict.fromkeys(parts))
    names = [f"{pair.src} ({pair.where})" for _, pair in (ours[place] for place in places)]
    return f"{counts} rows that hold or look like a photo which the split holds out: {shortened(names)}"


def _record(part: str, pair: Pair, held: Held, owner: int, how: str) -> dict[str, Any]:
    """A line of EXCLUDED."""
    where, row = held[owner]
    return {
        "src": pair.src,
        "tar": pair.tar,
        "part": part,
        "where": pair.where,
        "held_out": row["src"],
        "held_out_where": where,
        "how": how,
    }
