"""Proof of a split from its written files: nothing stands on two sides, everything is there. Opens no image."""

from __future__ import annotations

from pathlib import Path

from data.faults import Faults
from data.fingerprint import near_duplicate_pairs, set_digest
from data.manifest import Pair, read_pairs
from data.splits import links


def prove_split(folder: Path, base_dir: Path, pairs: list[Pair], metadata: dict) -> None:
    """Re-read the split files in `folder` and check them against `pairs`, the input, and against `metadata`.

    Disjoint sides by path, pixels, file, group and (when they are kept together) near-duplicates; every pair in each
    fold; kfold: every pair outside the test set validated once; sizes and digests. Raises DataError with all faults.
    """
    faults = Faults()
    group_key = metadata["groups"]["key"]
    test = read_pairs(folder / "test.jsonl", base_dir, group_key=group_key)
    _check_set(faults, folder / "test.jsonl", test, metadata["test"]["count"], metadata["test"]["digest"])
    validated: list[Path] = []
    for fold in metadata["folds"]:
        sides = {"test": test}
        for part in ("train", "val"):
            path = folder / f"fold_{fold['fold']}" / f"{part}.jsonl"
            sides[part] = read_pairs(path, base_dir, group_key=group_key)
            _check_set(faults, path, sides[part], fold[part], fold[f"{part}_digest"])
        name = f"fold {fold['fold']}"
        _check_disjoint(faults, name, sides)
        if metadata["near_duplicates"]["mode"] == "group":
            _check_near_duplicates(faults, name, sides)
        _check_same(faults, f"{name} with test", [pair for rows in sides.values() for pair in rows], pairs)
        validated += [pair.src_path for pair in sides["val"]]
    if metadata["scheme"] == "kfold" and metadata["n_folds"] > 1:
        tested = {pair.src_path for pair in test}
        outside = sorted(pair.src_path for pair in pairs if pair.src_path not in tested)
        if sorted(validated) != outside:
            faults.add(str(folder), "the validation parts do not cover every pair outside the test set exactly once")
    faults.raise_if_any(f"{folder}: the written splits failed their check; this is a bug, please report it")


def _check_set(faults: Faults, path: Path, pairs: list[Pair], count: int, digest: str) -> None:
    if not pairs or len(pairs) != count or set_digest(pair.row for pair in pairs) != digest:
        faults.add(str(path), f"{len(pairs)} rows that do not agree with {count} rows and the digest of the metadata")


def _check_disjoint(faults: Faults, name: str, sides: dict[str, list[Pair]]) -> None:
    side_of: dict[tuple[str, str], str] = {}
    for side, pairs in sides.items():
        for pair in pairs:
            paths = (("path", str(pair.src_path)), ("path", str(pair.tar_path)))
            for link in (*paths, *links(pair)):
                if side_of.setdefault(link, side) != side:
                    faults.add(name, f"{link[0]} {link[1]} of {pair.src} is in {side_of[link]} and in {side}")


def _check_near_duplicates(faults: Faults, name: str, sides: dict[str, list[Pair]]) -> None:
    rows = [(side, pair) for side, pairs in sides.items() for pair in pairs]
    for hit in near_duplicate_pairs([pair for _, pair in rows]):
        (side, pair), (other_side, other) = rows[hit.first], rows[hit.second]
        if side != other_side:
            faults.add(name, f"{pair.src} in {side} and {other.src} in {other_side} look the same")


def _check_same(faults: Faults, name: str, found: list[Pair], wanted: list[Pair]) -> None:
    if sorted((pair.src, pair.tar) for pair in found) != sorted((pair.src, pair.tar) for pair in wanted):
        faults.add(name, "does not hold every pair of the input exactly once")
