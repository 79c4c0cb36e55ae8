"""Records of pairs -> train.jsonl, val.jsonl, rejected.csv, dataset_metadata.json. Everything derived, in the order of ids.

Nothing written here depends on time, machine, number of workers or absolute paths: the same photos and options give the
same bytes. A side without pairs has no JSONL. The metadata comes last.

MERGED: Pairs -> training or validation, each by itself: who else is there, in which order, or who was rejected, changes nothing.

A near-duplicate of a training pair (the next shot of a burst) would make validation look better than it is: such a pair is
left out of validation, and moves nowhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
from collections import Counter
from pathlib import Path

from common.files import write_csv, write_json, write_jsonl
from common.jsonl import open_input
from data.fingerprint import near_duplicates, set_digest
from data.fivek.config import FivekConfig
from data.fivek.find import parse_file_name
from data.fivek.match import IGNORED, REJECTED, UNMATCHED_INPUT, UNMATCHED_TARGET, Found, Leftover
from data.fivek.records import SCHEMA_VERSION, raw_version
from data.images import DECODER

METADATA = "dataset_metadata.json"
COLUMNS = ["key", "status", "reason", "input", "target"]
UNRECORDED = ("fivek_dir", "output_dir", "workers", "verify", "max_reject")
LICENCE_NOTE = (
    "FiveK is for research only: filesAdobe.txt lists photos under LicenseAdobe, filesAdobeMIT.txt those under "
    "LicenseAdobeMIT. Whether weights trained on them may be used commercially is not settled here."
)
RENDERING = "LibRaw: camera white balance, no brightening, sRGB curve and primaries, DefaultCrop"


def write_dataset(config: FivekConfig, found: Found, records: dict[str, dict]) -> dict:
    """Write the four files into --output_dir and return the metadata. `records`: one for each candidate up to --limit."""
    folder = Path(config.output_dir)
    pairs, rejected = _sort_out(found, records)
    sides = split_pairs(pairs, config)
    rows = {side: [record["row"] for record in pairs if sides[record["key"]] == side] for side in (TRAIN, VAL)}
    left_out = [
        _leftover(record, LEFT_OUT, "looks like a training pair")
        for record in pairs
        if sides[record["key"]] == LEFT_OUT
    ]
    leftovers = [*found.leftovers, *rejected, *left_out]
    metadata = _metadata(config, found, pairs, rows, leftovers, len(records))
    for side in (TRAIN, VAL):
        if rows[side]:
            write_jsonl(folder / f"{side}.jsonl", rows[side])
        else:
            (folder / f"{side}.jsonl").unlink(missing_ok=True)
    table = sorted((dataclasses.asdict(leftover) for leftover in leftovers), key=lambda row: tuple(row.values()))
    write_csv(folder / "rejected.csv", COLUMNS, table)
    write_json(folder / METADATA, metadata)
    return metadata


def _sort_out(found: Found, records: dict[str, dict]) -> tuple[list[dict], list[Leftover]]:
    """The records of usable pairs by key; and the rejected ones, with those whose photo is there under an earlier key."""
    pairs, rejected = [], []
    first_with: dict[str, str] = {}
    for key in sorted(records):
        record = records[key]
        if record["status"] == REJECTED:
            rejected.append(_leftover(record, REJECTED, record["reason"]))
            continue
        first = first_with.setdefault(record["row"]["src_sha256"], key)
        if first == key:
            pairs.append(record)
        else:
            rejected.append(_leftover(record, REJECTED, f"the same photo as {first}"))
    return pairs, rejected


def _leftover(record: dict, status: str, reason: str) -> Leftover:
    return Leftover(record["key"], status, reason, record["input_file"]["path"], record["target_file"]["path"])


def _metadata(
    config: FivekConfig,
    found: Found,
    pairs: list[dict],
    rows: dict[str, list[dict]],
    leftovers: list[Leftover],
    tried: int,
) -> dict:
    # A rejected file whose photo has another file is no lost photo.
    lost = sum(leftover.status == REJECTED and bool(leftover.input and leftover.target) for leftover in leftovers)
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in UNRECORDED}
    options["val_list"] = None if config.val_list is None else Path(config.val_list).name
    return {
        "schema_version": SCHEMA_VERSION,
        "config": options,
        "pairs": len(pairs),
        **{side: {"count": len(rows[side]), "digest": set_digest(rows[side])} for side in (TRAIN, VAL)},
        "rejected_pairs": lost,
        "reject_rate": round(lost / max(1, lost + len(pairs)), 6),
        "files": _files(found, leftovers, rows, tried),
        "reasons": _counted(leftover.reason for leftover in leftovers if leftover.status == REJECTED),
        "licences": _counted(record["licence"] for record in pairs),
        "licence_note": LICENCE_NOTE,
        "inputs": _counted(record["input"]["format"] for record in pairs),
        "raw_rendering": {"rawpy": raw_version(), "parameters": RENDERING} if _has_raw(pairs) else None,
        "input_profiles": _counted(record["input"]["profile"] for record in pairs),
        "target_profiles": _counted(record["target"]["profile"] for record in pairs),
        "geometry": _counted(record["geometry"] for record in pairs),
        "warnings": {record["key"]: record["warnings"] for record in pairs if record["warnings"]},
        "correlation": _spread([record["correlation"] for record in pairs]),
        "saturation": {
            name: _spread([record["saturation"][side] for record in pairs]) for side, name in ((0, "src"), (1, "tar"))
        },
        "decoder": DECODER,
    }


def _files(found: Found, leftovers: list[Leftover], rows: dict[str, list[dict]], tried: int) -> dict[str, int]:
    """What became of every image file; the kinds add up to `found`."""
    kinds: Counter = Counter()
    for leftover in leftovers:
        kinds[leftover.status] += bool(leftover.input) + bool(leftover.target)
    named = {status: kinds[status] for status in (REJECTED, UNMATCHED_INPUT, UNMATCHED_TARGET, IGNORED, LEFT_OUT)}
    in_pairs = 2 * sum(map(len, rows.values()))
    return {
        "found": found.files,
        "in_pairs": in_pairs,
        **named,
        "other_experts": found.other_experts,
        "beyond_limit": 2 * (len(found.candidates) - tried),
    }


def _has_raw(pairs: list[dict]) -> bool:
    return any(record["input"]["format"] == "dng" for record in pairs)


def _counted(values) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": round(statistics.median(values), 4), "max": max(values)}


TRAIN, VAL, LEFT_OUT = "train", "val", "left_out"
HASH_DIGITS = 13  # 52 bits: exact in a float


def hash_share(seed: int, text: str) -> float:
    """A number in [0, 1) made from seed and text; evenly spread over many texts."""
    return int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:HASH_DIGITS], 16) / 16**HASH_DIGITS


def read_val_list(path: str) -> set[str]:
    """The keys in a file with one id or file name a line; blank lines are skipped. InputError when it cannot be read."""
    with open_input(path) as handle:
        lines = handle.read().decode("utf-8-sig", "replace").splitlines()
    return {parse_file_name(line.strip()).key for line in lines if line.strip()}


def split_pairs(records: list[dict], config: FivekConfig) -> dict[str, str]:
    """Key of each record -> TRAIN, VAL, or LEFT_OUT: validation pairs that look like a training pair."""
    listed = read_val_list(config.val_list) if config.val_list else None
    sides = {record["key"]: _side(record, config, listed) for record in records}
    for first, second in _lookalikes(records):
        keys = {sides[record["key"]]: record["key"] for record in (first, second)}
        if keys.keys() == {TRAIN, VAL}:
            sides[keys[VAL]] = LEFT_OUT
    return sides


def day_of(record: dict) -> str:
    """The day on which a photo was taken, as `YYYY:MM:DD`; "" when its files do not say."""
    return record["captured"][:10]


def _side(record: dict, config: FivekConfig, listed: set[str] | None) -> str:
    if listed is not None:
        return VAL if record["key"] in listed else TRAIN
    text = (day_of(record) if config.split_by == "day" else "") or record["key"]
    return VAL if hash_share(config.seed, text) < config.val_ratio else TRAIN


def _lookalikes(records: list[dict]) -> list[tuple[dict, dict]]:
    hashes = [
        [None if (text := record["row"][f"{side}_phash"]) is None else int(text, 16) for record in records]
        for side in ("src", "tar")
    ]
    return [(records[hit.first], records[hit.second]) for hit in near_duplicates(*hashes)]
