"""Rows with digests -> which of them form the test set and the folds. Pure functions: no file is read or written.

What must stay together (one group, near-duplicates, shared image content) forms one component; sets are made of whole
components, with sizes as near to the wanted ones as components allow. Order comes from hashes of seed and file content,
so that neither the order of the rows nor a library's random generator changes a split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import Faults, InputError
from data.config import SplitConfig
from data.lookalikes import NearDuplicate
from data.manifest import UNIT, Pair
from data.splits.drawing import Bag

TEST_DRAWS = 20


@dataclass(frozen=True)
class Fold:
    """Row indices of one fold, ascending."""

    train: list[int]
    val: list[int]


@dataclass(frozen=True)
class Split:
    """Row indices of the test set and the folds, ascending; the requested sizes; the components."""

    test: list[int]
    folds: list[Fold]
    wanted_test: int
    wanted_val: list[int]
    components: list[list[int]]

    def unit_names(self, pairs: list[Pair]) -> list[str]:
        """The component of each row, named by the first of its srcs: the same in whatever order the rows stand."""
        return name_units(pairs, self.components)

    def count_units(self, rows: list[int]) -> int:
        """How many components the rows of one part are of; a part has whole components only."""
        wanted = set(rows)
        return sum(component[0] in wanted for component in self.components)


def refuse_repeated_sources(pairs: list[Pair]) -> None:
    """InputError naming both rows for every src whose pixels stand in an earlier row, under whatever name."""
    first: dict[str, Pair] = {}
    faults = Faults()
    for pair in pairs:
        earlier = first.setdefault(pair.row["src_sha256"], pair)
        if earlier is not pair:
            faults.add(pair.where, f"{pair.src} has the same content as {earlier.src} ({earlier.where})")
    faults.raise_if_any("the same src photo more than once", "Keep one row for each src photo.")


def name_units(pairs: list[Pair], components: list[list[int]]) -> list[str]:
    """For each of `pairs`, the least src of its component."""
    names = [""] * len(pairs)
    for rows in components:
        name = min(pairs[row].src for row in rows)
        for row in rows:
            names[row] = name
    return names


def components_of(pairs: list[Pair], near: list[NearDuplicate], recorded: bool = False) -> list[list[int]]:
    """Rows that must stay in one part: same group, near-duplicates, or an image (src or tar) with the same content.

    recorded: also those that an earlier split kept together, as its rows say.
    """
    parents = list(range(len(pairs)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, pair in enumerate(pairs):
        earlier = [(UNIT, unit)] if recorded and (unit := recorded_unit(pair)) else []
        for link in (*links(pair), *earlier):
            parents[root(row)] = root(first.setdefault(link, row))
    for hit in near:
        parents[root(hit.second)] = root(hit.first)
    members: dict[int, list[int]] = {}
    for row in range(len(pairs)):
        members.setdefault(root(row), []).append(row)
    return list(members.values())


def links(pair: Pair) -> Iterator[tuple[str, str]]:
    """What ties a row with digests to others: its group, the pixels of both images, and both files."""
    if pair.group is not None:
        yield "group", pair.group
    for role in ("src", "tar"):
        yield "pixels", pair.row[f"{role}_sha256"]
        yield "file", pair.row[f"{role}_file_sha256"]


def recorded_unit(pair: Pair) -> str | None:
    """The unit that a split wrote into the row; None in rows without one (older, or made by hand)."""
    unit = pair.row.get(UNIT)
    return unit if isinstance(unit, str) and unit else None


def make_split(pairs: list[Pair], near: list[NearDuplicate], config: SplitConfig) -> Split:
    """Draw the test set, then the folds. Sizes are exact whenever the components allow, else nearest, ties upwards.

    Raises InputError when there are too few pairs or components for non-empty test, training and validation sets.
    """
    components = components_of(pairs, near)
    needed = 3 if config.n_folds == 1 or config.scheme == "shuffle" else config.n_folds + 1
    if config.test_size >= len(pairs):
        raise InputError(f"--test_size {config.test_size} leaves nothing to train on: there are {len(pairs)} pairs")
    if len(components) < needed:
        raise InputError(
            f"{len(pairs)} pairs form {len(components)} groups that must stay together, but --n_folds {config.n_folds} "
            f"and a test set need at least {needed}: add photos, or lower --n_folds"
        )
    bag = Bag(components, [_component_key(pairs, rows) for rows in components], config.seed)
    if config.draws_validation:
        test, rest = bag.draw_test(config.test_size, needed - 1, "test")
        count = len(bag.rows(rest))
        wanted = [max(1, math.floor(config.val_ratio * count + 0.5))] * config.n_folds
        parts = [bag.choose(rest, wanted[0], 1, f"fold {fold + 1}") for fold in range(config.n_folds)]
    else:
        test, parts, wanted = _draw_kfold(bag, config)
        rest = [number for part in parts for number in part]
    folds = [Fold(bag.rows(set(rest) - set(part)), bag.rows(part)) for part in parts]
    return Split(bag.rows(test), folds, config.test_size, wanted, components)


def hold_out(pairs: list[Pair], near: list[NearDuplicate], ratio: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Part `pairs` into (training, validation) with about `ratio` of them, at least one, for validation.

    What belongs together stays so, also what an earlier split kept together.

    Raises InputError when all pairs belong together, so that no part of them can be held out.
    """
    components = components_of(pairs, near, recorded=True)
    if len(components) < 2:
        raise InputError(f"{len(pairs)} pairs all belong together: give validation pairs of their own with --val_jsonl")
    bag = Bag(components, [_component_key(pairs, rows) for rows in components], seed)
    wanted = max(1, math.floor(ratio * len(pairs) + 0.5))
    val = bag.rows(bag.choose(list(range(len(components))), wanted, 1, "validation"))
    train = sorted(set(range(len(pairs))) - set(val))
    return [pairs[row] for row in train], [pairs[row] for row in val]


def _draw_kfold(bag: Bag, config: SplitConfig) -> tuple[list[int], list[list[int]], list[int]]:
    """Components of the test set, those of each validation part, and the wanted sizes of the parts.

    The first drawing of the test set stands, unless only another one lets the parts have exact sizes.
    """
    first = None
    for draw in range(TEST_DRAWS):
        test, rest = bag.draw_test(config.test_size, config.n_folds, f"test {draw}" if draw else "test")
        # Sizes that differ by at most one, the larger ones last.
        size, larger = divmod(len(bag.rows(rest)), config.n_folds)
        wanted = [size + (part >= config.n_folds - larger) for part in range(config.n_folds)]
        parts, is_exact = bag.partition(rest, wanted)
        if first is None or is_exact:
            first = test, parts, wanted
        if is_exact or not bag.can_form(wanted):
            break
    assert first is not None  # TEST_DRAWS is at least 1
    return first


def _component_key(pairs: list[Pair], rows: list[int]) -> str:
    # Digests of files, not of pixels: the test set must not move when a decoder rounds differently.
    return min(f"{pairs[row].row['src_file_sha256']}{pairs[row].row['tar_file_sha256']}" for row in rows)
