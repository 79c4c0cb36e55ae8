"""meta/KEY.json: what was made of one pair, from what. It is written last and is the only proof that a pair is done."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from common.files import file_digest, write_bytes, write_json
from common.jsonl import parse_json
from data.fivek.config import FivekConfig
from data.fivek.match import REJECTED, FilePair
from data.fivek.pair import Outcome, image_names, output_mtime_ns
from data.images import decoder_of

SCHEMA_VERSION = 1
PIPELINE = 1  # raise when the images of any pair, or the verdict on it, change
PAIR = "pair"
PIXEL_OPTIONS = ("min_resolution", "max_resolution", "jpeg_quality", "assume_profile", "auto_wb")


class Recipe:
    """What decides about the pixels besides the two files: options, and versions of the decoders."""

    def __init__(self, config: FivekConfig):
        self._options = {name: getattr(config, name) for name in PIXEL_OPTIONS}

    def digest(self, pair: FilePair) -> str:
        """The digest that a record of this pair carries; an optional decoder's version counts only for files that need it."""
        decoder = decoder_of(pair.input.path, pair.target.path)
        return _digest({"pipeline": PIPELINE, "decoder": decoder, **self._options})


def record_path(output_dir: Path, key: str) -> Path:
    """Where the record of a pair stands."""
    return output_dir / "meta" / f"{key}.json"


def read_record(output_dir: Path, key: str) -> dict | None:
    """The record of a pair, or None when there is none that this version understands."""
    try:
        record = parse_json(record_path(output_dir, key).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema_version") == SCHEMA_VERSION else None


def is_current(record: dict, pair: FilePair, digest: str, output_dir: Path, verify: bool) -> bool:
    """Whether a record speaks of these very files and this recipe, and the images that it names are still there.

    Images are trusted by size and time; with `verify` their content is compared.
    """
    sources = [vars(file) for file in (pair.input, pair.target)]
    if record.get("made_with") != digest or [record.get("input_file"), record.get("target_file")] != sources:
        return False
    row = record.get("row")
    if record.get("status") == REJECTED:
        return not any((output_dir / name).exists() for name in image_names(pair.key).values())
    return row is not None and all(_is_unchanged(output_dir, row, role, verify) for role in ("src", "tar"))


def store(output_dir: Path, pair: FilePair, outcome: Outcome, digest: str, licence: str) -> dict:
    """Write the images of a pair, then its record; of a rejected one only the record, if it will be rejected again."""
    path = record_path(output_dir, pair.key)
    # Without this, images of new options could for a moment stand beside the record of old ones.
    path.unlink(missing_ok=True)
    record = {
        "schema_version": SCHEMA_VERSION,
        "key": pair.key,
        "status": REJECTED if outcome.reason else PAIR,
        "reason": outcome.reason,
        "made_with": digest,
        "input_file": vars(pair.input),
        "target_file": vars(pair.target),
        **outcome.facts,
        "licence": licence,
    }
    jpegs = (outcome.src_jpeg, outcome.tar_jpeg)
    times = (output_mtime_ns(pair.input), output_mtime_ns(pair.target))
    for name, jpeg, time in zip(image_names(pair.key).values(), jpegs, times, strict=True):
        if outcome.reason:
            (output_dir / name).unlink(missing_ok=True)
        else:
            write_bytes(output_dir / name, jpeg, mtime_ns=time)
    if outcome.lasting:
        write_json(path, record)
    return record


def with_licence(output_dir: Path, record: dict, licence: str) -> dict:
    """The record with the licence that is known now, also on disk."""
    if record["licence"] == licence:
        return record
    record = {**record, "licence": licence}
    write_json(record_path(output_dir, record["key"]), record)
    return record


def _is_unchanged(output_dir: Path, row: dict, role: str, verify: bool) -> bool:
    path = output_dir / row[role]
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    if (status.st_size, status.st_mtime_ns) != (row[f"{role}_bytes"], row[f"{role}_mtime_ns"]):
        return False
    return not verify or file_digest(path) == row[f"{role}_file_sha256"]


def _digest(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
