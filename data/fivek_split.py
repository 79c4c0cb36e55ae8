"""Pairs -> training or validation, each by itself: who else is there, in which order, or who was rejected, changes nothing.

A near-duplicate of a training pair (the next shot of a burst) would make validation look better than it is: such a pair is
left out of validation, and moves nowhere.
"""

from __future__ import annotations

import hashlib

from data.fivek_names import parse_file_name
from data.fivek_options import FivekConfig
from data.jsonl import open_input
from data.phash import near_duplicates

TRAIN, VAL, LEFT_OUT = "train", "val", "left_out"
HASH_DIGITS = 13  # 52 bits: exact in a float


def hash_share(seed: int, text: str) -> float:
    """A number in [0, 1) made from seed and text; evenly spread over many texts."""
    return int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:HASH_DIGITS], 16) / 16**HASH_DIGITS


def read_val_list(path: str) -> set[str]:
    """The keys in a file with one id or file name a line; blank lines are skipped. DataError when it cannot be read."""
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
