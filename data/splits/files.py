"""A split -> a folder: test.jsonl, fold_K/{train,val}.jsonl and split_metadata.json. Written, proved, checked again later.

The metadata is removed first and written last, after the files have been read back and proved, so that a folder with
metadata is always a whole one. The proof: nothing stands in two parts, everything is there. No image is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from common.errors import Faults, InputError
from common.files import jsonl_text, remove_stale_temporaries, write_json, write_text
from common.jsonl import open_input, parse_jsonl, read_jsonl
from data.config import SplitConfig
from data.fingerprint import set_digest
from data.images import DECODER
from data.lookalikes import ALIKE, MAX_BITS, NearDuplicate, near_duplicate_rows
from data.manifest import FOLD_NAME, METADATA, UNIT, Pair, read_metadata, read_pairs, usable_pairs
from data.splits.split import Split, links

SCHEMA_VERSION = 1
TEST = "test.jsonl"
WHOLE = (TEST, "fold_1/train.jsonl", "fold_1/val.jsonl")  # together they hold every row


def write_split_folder(folder: Path, base_dir: Path, pairs: list[Pair], split: Split, metadata: dict) -> bool:
    """Write the split to `folder`, replacing an earlier one, and prove it from the written files; `metadata` of split_metadata.

    False when the same split is there already, which then stays untouched.

    Raises InputError when the proof fails (then no metadata is left), OSError when writing fails.
    """
    files = {TEST: split.test}
    for number, fold in enumerate(split.folds, start=1):
        files |= {f"fold_{number}/train.jsonl": fold.train, f"fold_{number}/val.jsonl": fold.val}
    units = split.unit_names(pairs)
    contents = {name: jsonl_text({**pairs[row].row, UNIT: units[row]} for row in rows) for name, rows in files.items()}
    digests = {name: _digest(text.encode("utf-8")) for name, text in contents.items()}
    metadata = metadata | {"files": digests, "verified": True}
    former = _former_metadata(folder)
    if _says_the_same(former, metadata) and all(_has_digest(folder, *entry) for entry in digests.items()):
        return False  # jobs may be reading it
    for place in (folder, *folder.glob("fold_*/")):
        remove_stale_temporaries(place)
    (folder / METADATA).unlink(missing_ok=True)
    _remove_former_folds(folder, former, digests)
    for name, text in contents.items():
        write_text(folder / name, text)
    prove_split(folder, base_dir, pairs, metadata)
    write_json(folder / METADATA, metadata)
    return True


def _former_metadata(folder: Path) -> dict:
    """The metadata of the split that stands in `folder`; empty when there is none that can be read."""
    try:
        return read_metadata(folder / METADATA)
    except InputError:
        return {}


def _says_the_same(former: dict, metadata: dict) -> bool:
    """Whether two metadata are of one split, whatever command and versions made them."""
    return {**former, "created_with": None} == {**metadata, "created_with": None}


def _has_digest(folder: Path, name: str, digest: object) -> bool:
    return (folder / name).is_file() and _digest(_content(folder / name)) == digest


def _remove_former_folds(folder: Path, former: dict, files: dict[str, str]) -> None:
    """Remove what the former split wrote and this one does not: by name and digest, so that nobody else's file goes."""
    recorded = former.get("files")
    for name, digest in recorded.items() if isinstance(recorded, dict) else ():
        path = folder / str(name)
        if name in files or not FOLD_NAME.fullmatch(path.parent.name) or path.parent.parent != folder:
            continue
        if _has_digest(folder, name, digest):
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


def split_metadata(
    config: SplitConfig,
    argv: list[str],
    base_dir: Path,
    pairs: list[Pair],
    near: list[NearDuplicate],
    split: Split,
    dropped: list[str] | None = None,
) -> dict:
    """What split_metadata.json says of a split, but for the digests of its files.

    dropped: the src names that --drop left out of `pairs`, None without that flag. Raises InputError for a folder name that is not
    UTF-8.
    """
    relative = Path(os.path.relpath(base_dir, Path(config.output_dir).resolve())).as_posix()
    try:
        relative = os.fsencode(relative).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"the folder name {relative!a} is not UTF-8 and cannot be recorded; rename it") from None
    versions = {"python": platform.python_version(), "numpy": np.__version__, "pillow": PIL.__version__}
    folds: list[dict[str, Any]] = []
    for number, fold in enumerate(split.folds, start=1):
        train, val = ([pairs[row].row for row in part] for part in (fold.train, fold.val))
        folds.append({"fold": number, "train": len(train), "val": len(val)})
        folds[-1] |= {"train_units": split.count_units(fold.train), "val_units": split.count_units(fold.val)}
        folds[-1] |= {"train_digest": set_digest(train), "val_digest": set_digest(val)}
    return {
        "schema_version": SCHEMA_VERSION,
        "created_with": {"argv": [_plain(word) for word in argv], "versions": versions},
        "seed": config.seed,
        "scheme": config.scheme,
        "n_folds": config.n_folds,
        "val_ratio": config.val_ratio,
        "base_dir": relative,
        "total_pairs": len(pairs),
        "test": {
            "count": len(split.test),
            "units": split.count_units(split.test),
            "digest": set_digest(pairs[row].row for row in split.test),
        },
        "folds": folds,
        "groups": {
            "key": config.group_key,
            "named": len({pair.group for pair in pairs} - {None}),
            "kept_together": len(split.components),
            "largest": max(len(rows) for rows in split.components),
        },
        "near_duplicates": {
            "mode": config.near_duplicates,
            "max_bits": MAX_BITS,
            "min_likeness": ALIKE,
            "pairs": [
                {"src": [pairs[hit.first].src, pairs[hit.second].src]}
                | {"src_bits": hit.src_bits, "tar_bits": hit.tar_bits}
                | {"src_likeness": hit.src_likeness, "tar_likeness": hit.tar_likeness}
                for hit in near
            ],
        },
        "decoder": DECODER,
        "config": _recorded_options(config, dropped),
    }


def prove_split(folder: Path, base_dir: Path, pairs: list[Pair], metadata: dict) -> None:
    """Re-read the split files in `folder` and check them against `pairs`, the input, and against `metadata`.

    Disjoint parts by path, pixels, file, group, unit and (when they are kept together) near-duplicates; every pair in each
    fold; kfold: every pair outside the test set validated once; sizes and digests. Raises InputError with all faults.
    """
    faults = Faults()
    group_key = metadata["groups"]["key"]

    def read_set(path: Path, count: int, digest: str) -> list[Pair]:
        rows = read_pairs(path, base_dir, group_key=group_key)
        if not rows or len(rows) != count or set_digest(pair.row for pair in rows) != digest:
            reason = f"{len(rows)} rows that do not agree with {count} rows and the digest of the metadata"
            faults.add(str(path), reason)
        return rows

    everything = sorted((pair.src, pair.tar) for pair in pairs)
    test = read_set(folder / TEST, metadata["test"]["count"], metadata["test"]["digest"])
    validated: list[Path] = []
    alike: list[tuple[Pair, Pair]] | None = None
    for fold in metadata["folds"]:
        name = f"fold {fold['fold']}"
        rows = [("test", pair) for pair in test]
        for part in ("train", "val"):
            path = folder / f"fold_{fold['fold']}" / f"{part}.jsonl"
            rows += [(part, pair) for pair in read_set(path, fold[part], fold[f"{part}_digest"])]
        part_of: dict[tuple[str, str], str] = {}
        for part, pair in rows:
            paths = (("path", str(pair.src_path)), ("path", str(pair.tar_path)))
            for kind, value in (*paths, (UNIT, str(pair.row.get(UNIT))), *links(pair)):
                if part_of.setdefault((kind, value), part) != part:
                    faults.add(name, f"{kind} {value} of {pair.src} is in {part_of[kind, value]} and in {part}")
        if metadata["near_duplicates"]["mode"] == "group":
            if alike is None:
                # Once: every fold, with the test set, holds the same rows. Where two that look alike are on two sides, so are
                # two of those that are listed, for these hang together as well.
                hits = near_duplicate_rows([pair.row for _, pair in rows])
                alike = [(rows[hit.first][1], rows[hit.second][1]) for hit in hits]
            for pair, other in alike:
                here, there = (part_of.get(("path", str(each.src_path))) for each in (pair, other))
                if here != there:
                    faults.add(name, f"{pair.src} in {here} and {other.src} in {there} look the same")
        if sorted((pair.src, pair.tar) for _, pair in rows) != everything:
            faults.add(f"{name} with test", "does not hold every pair of the input exactly once")
        validated += [pair.src_path for part, pair in rows if part == "val"]
    if metadata["scheme"] == "kfold" and metadata["n_folds"] > 1:
        tested = {pair.src_path for pair in test}
        outside = sorted(pair.src_path for pair in pairs if pair.src_path not in tested)
        if sorted(validated) != outside:
            faults.add(str(folder), "the validation parts do not cover every pair outside the test set exactly once")
    faults.raise_if_any(f"{folder}: the written splits failed their check; this is a bug, please report it")


def verify_splits(folder: str | Path) -> dict:
    """Check that a split folder is whole and unchanged since it was proved; return its metadata. Opens no image.

    Raises InputError naming the file that is missing or was edited.
    """
    folder = Path(folder)
    if not (folder / METADATA).is_file():
        raise InputError(f"{folder / METADATA} does not exist; make the splits with create_data_splits.py")
    metadata = read_metadata(folder / METADATA)
    if metadata.get("schema_version") != SCHEMA_VERSION or metadata.get("verified") is not True:
        raise InputError(f"{folder / METADATA} is of another version or not verified; run create_data_splits.py again")
    if not isinstance(metadata.get("files"), dict):
        raise InputError(f"{folder / METADATA} is incomplete (files); run create_data_splits.py again")
    faults = Faults()
    for name, count, digest in expected_sets(metadata):
        path = folder / name
        if not path.is_file():
            faults.add(str(path), "is missing")
            continue
        content = _content(path)
        rows = [row for _, row in parse_jsonl(io.BytesIO(content), path, faults)]
        complete = all(isinstance(row.get(key), str) for row in rows for key in ("src_sha256", "tar_sha256"))
        same = complete and len(rows) == count and set_digest(rows) == digest
        if not same or _digest(content) != metadata["files"].get(name):
            faults.add(str(path), f"was changed after {METADATA} was written")
    faults.raise_if_any(f"{folder}: not the splits that were proved", "Run create_data_splits.py again.")
    return metadata


def expected_sets(metadata: dict) -> Iterator[tuple[str, int, str]]:
    """Name, count of rows and set digest of every file that the metadata describes; InputError when it is incomplete."""
    try:
        yield TEST, metadata["test"]["count"], metadata["test"]["digest"]
        for fold in metadata["folds"]:
            for part in ("train", "val"):
                yield f"fold_{fold['fold']}/{part}.jsonl", fold[part], fold[f"{part}_digest"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{METADATA} is incomplete ({error}); run create_data_splits.py again") from None


def rows_of_split(folder: Path) -> list[dict]:
    """Every row of a split that has been verified: the test set and one fold hold all of them."""
    return [row for name in WHOLE for _, row in read_jsonl(folder / name, Faults())]


def known_pairs(folder: str | Path, base_dir: Path) -> list[Pair]:
    """Rows with digests that an earlier run left in `folder`: the test set and one fold hold every row."""
    folder = Path(folder)
    return [pair for name in WHOLE if (folder / name).is_file() for pair in usable_pairs(folder / name, base_dir)]


def changed_options(folder: str | Path, config: SplitConfig, dropped: list[str] | None = None) -> list[str]:
    """`name old -> new` for each option in which the split that stands in `folder` differs from `config`.

    dropped: as in `split_metadata`; the names count, not the file that they come from.
    """
    path = Path(folder) / METADATA
    if not path.is_file():
        return []
    before = recorded_config(read_metadata(path), path.parent)
    now = {name: value for name, value in _recorded_options(config, dropped).items() if name != "output_dir"}
    changed = [name for name, value in now.items() if before.get(name) != value]
    return [f"{name} {_brief(before.get(name))} -> {_brief(now[name])}" for name in changed]


def recorded_config(metadata: dict, folder: Path) -> dict:
    """The options that the split in `folder` was made with; InputError when they are missing."""
    config = metadata.get("config")
    if not isinstance(config, dict):
        raise InputError(f"{folder / METADATA} is incomplete (config)")
    return config


def _brief(value: object) -> str:
    """An option's value for one line of the log: of a list of names, how many and the first."""
    if not isinstance(value, list):
        return str(value)
    return f"{len(value)} names" + (f" ({value[0]}{', ...' if len(value) > 1 else ''})" if value else "")


def _recorded_options(config: SplitConfig, dropped: list[str] | None) -> dict:
    """The options as JSON can hold them; for --drop the names that it gave, whatever file they stood in."""
    options = dataclasses.asdict(config) | {"drop": dropped}
    return {name: _plain(value) if isinstance(value, str) else value for name, value in options.items()}


def _plain(text: str) -> str:
    """Text that JSON can hold, from an argument that may have bytes which are not UTF-8."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _content(path: Path) -> bytes:
    """The content of a file of the split; InputError when it cannot be read."""
    with open_input(path) as handle:
        return handle.read()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
