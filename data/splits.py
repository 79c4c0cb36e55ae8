"""Rows with digests -> which of them form the test set and the folds. Pure functions: no file is read or written.

What must stay together (one group, near-duplicates, shared image content) forms one component; sets are made of whole
components, with sizes as near to the wanted ones as components allow. Order comes from hashes of seed and file content,
so that neither the order of the rows nor a library's random generator changes a split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from data.drawing import Bag
from data.errors import DataError
from data.faults import Faults
from data.manifest import Pair
from data.phash import NearDuplicate

TEST_DRAWS = 20


@dataclass(frozen=True)
class SplitConfig:
    """Options of create_data_splits.py."""

    input_jsonl: str | None = field(default=None, metadata={"help": "pairs, one JSON object a line: src, tar, group"})
    input_dir: str | None = field(
        default=None,
        metadata={"help": "instead of a JSONL: folder with NAME_src.* and NAME_tar.* images, at any depth"},
    )
    base_dir: str | None = field(
        default=None, metadata={"help": "folder for relative paths in the JSONL; without it, the JSONL's own folder"}
    )
    test_size: int = field(default=10, metadata={"help": "pairs in the test set"})
    n_folds: int = field(default=3, metadata={"help": "folds"})
    scheme: Literal["kfold", "shuffle"] = field(
        default="kfold",
        metadata={"help": "kfold: validation parts are disjoint and cover everything; shuffle: independent draws"},
    )
    val_ratio: float = field(
        default=0.1, metadata={"help": "share of validation pairs, 0 to 1, for --scheme shuffle and --n_folds 1"}
    )
    group_key: str = field(default="group", metadata={"help": "row field; rows with the same value stay on one side"})
    near_duplicates: Literal["group", "report", "off"] = field(
        default="group",
        metadata={"help": "photos that look the same: keep on one side, only report, or do not look for them"},
    )
    drop: str | None = field(
        default=None,
        metadata={
            "help": "file with the src of rows to leave out, as written in the input: a name a line, or lines of "
            "audit.jsonl"
        },
    )
    seed: int = field(default=42, metadata={"help": "another seed gives another split"})
    output_dir: str = field(default="data_splits", metadata={"help": "folder for the split files"})

    def __post_init__(self) -> None:
        if (self.input_jsonl is None) == (self.input_dir is None):
            raise ValueError("give either --input_jsonl or --input_dir")
        if self.input_dir is not None and self.base_dir is not None:
            raise ValueError("--base_dir belongs to --input_jsonl; paths of --input_dir are relative to that folder")
        if self.test_size < 1:
            raise ValueError(f"--test_size must be at least 1, not {self.test_size}")
        if self.n_folds < 1:
            raise ValueError(f"--n_folds must be at least 1, not {self.n_folds}")
        if not 0 < self.val_ratio < 1:
            raise ValueError(f"--val_ratio must lie between 0 and 1, not {self.val_ratio}")
        if self.group_key in ("", "src", "tar"):
            raise ValueError(f"--group_key must name a field other than src and tar, not {self.group_key!r}")

    @property
    def draws_validation(self) -> bool:
        """Whether --val_ratio is used: folds are independent draws, not parts of one partition."""
        return self.scheme == "shuffle" or self.n_folds == 1


@dataclass(frozen=True)
class Fold:
    """Row indices of one fold, ascending."""

    train: list[int]
    val: list[int]


@dataclass(frozen=True)
class Split:
    """Row indices of the test set and the folds, ascending; the sizes that were asked for; the components."""

    test: list[int]
    folds: list[Fold]
    wanted_test: int
    wanted_val: list[int]
    components: list[list[int]]


def refuse_repeated_sources(pairs: list[Pair]) -> None:
    """DataError naming both rows for every src whose pixels stand in an earlier row, under whatever name."""
    first: dict[str, Pair] = {}
    faults = Faults()
    for pair in pairs:
        earlier = first.setdefault(pair.row["src_sha256"], pair)
        if earlier is not pair:
            faults.add(pair.where, f"{pair.src} has the same content as {earlier.src} ({earlier.where})")
    faults.raise_if_any("the same src photo more than once", "Keep one row for each src photo.")


def components_of(pairs: list[Pair], near: list[NearDuplicate]) -> list[list[int]]:
    """Rows that must stay on one side: same group, near-duplicates, or an image (src or tar) with the same content."""
    parents = list(range(len(pairs)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, pair in enumerate(pairs):
        for link in links(pair):
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
    for side in ("src", "tar"):
        yield "pixels", pair.row[f"{side}_sha256"]
        yield "file", pair.row[f"{side}_file_sha256"]


def make_split(pairs: list[Pair], near: list[NearDuplicate], config: SplitConfig) -> Split:
    """Draw the test set, then the folds. Sizes are exact whenever the components allow, else nearest, ties upwards.

    Raises DataError when there are too few pairs or components for non-empty test, training and validation sets.
    """
    components = components_of(pairs, near)
    needed = 3 if config.n_folds == 1 or config.scheme == "shuffle" else config.n_folds + 1
    if config.test_size >= len(pairs):
        raise DataError(f"--test_size {config.test_size} leaves nothing to train on: there are {len(pairs)} pairs")
    if len(components) < needed:
        raise DataError(
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

    Raises DataError when all pairs belong together, so that no part of them can be held out.
    """
    components = components_of(pairs, near)
    if len(components) < 2:
        raise DataError(f"{len(pairs)} pairs all belong together: give validation pairs of their own with --val_jsonl")
    bag = Bag(components, [_component_key(pairs, rows) for rows in components], seed)
    wanted = max(1, math.floor(ratio * len(pairs) + 0.5))
    val = set(bag.rows(bag.choose(list(range(len(components))), wanted, 1, "validation")))
    parts = [[pair for row, pair in enumerate(pairs) if (row in val) is held] for held in (False, True)]
    return parts[0], parts[1]


def _draw_kfold(bag: Bag, config: SplitConfig) -> tuple[list[int], list[list[int]], list[int]]:
    """Components of the test set, those of each validation part, and the wanted sizes of the parts.

    The first drawing of the test set stands, unless only another one lets the parts have exact sizes.
    """
    first = None
    for draw in range(TEST_DRAWS):
        test, rest = bag.draw_test(config.test_size, config.n_folds, f"test {draw}" if draw else "test")
        wanted = _even_sizes(len(bag.rows(rest)), config.n_folds)
        parts, is_exact = bag.partition(rest, wanted)
        if first is None or is_exact:
            first = test, parts, wanted
        if is_exact or not bag.can_form(wanted):
            break
    return first


def _even_sizes(count: int, parts: int) -> list[int]:
    """`count` in `parts` whole numbers that differ by at most one, the larger ones last."""
    return [count // parts + (part >= parts - count % parts) for part in range(parts)]


def _component_key(pairs: list[Pair], rows: list[int]) -> str:
    # Digests of files, not of pixels: the test set must not move when a decoder rounds differently.
    return min(f"{pairs[row].row['src_file_sha256']}{pairs[row].row['tar_file_sha256']}" for row in rows)
