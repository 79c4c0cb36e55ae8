"""Records of pairs -> train.jsonl, val.jsonl, rejected.csv, dataset_metadata.json. Everything derived, in the order of ids.

Nothing written here depends on time, machine, number of workers or absolute paths: the same photos and options give the
same bytes. A part without pairs has no JSONL. The metadata comes last.

Each pair falls to training or validation by itself: which others are there, in which order, or which were rejected, changes
nothing. A near-duplicate of a training pair (the next shot of a burst) would make validation look better than it is: such
a pair is left out of validation, and moves nowhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from common.errors import InputError
from common.exits import flagged
from common.files import write_csv, write_json, write_jsonl
from common.jsonl import open_input, parse_json
from data.decoding.raw import raw_version
from data.fingerprint import set_digest
from data.fivek.config import FivekConfig
from data.fivek.find import INPUT, TARGET, listed_keys
from data.fivek.match import IGNORED, REJECTED, UNMATCHED_INPUT, UNMATCHED_TARGET, Found, Leftover
from data.fivek.read import RAW
from data.fivek.records import SCHEMA_VERSION
from data.images import DECODER
from data.lookalikes import near_duplicate_rows

TRAIN, VAL, LEFT_OUT = "train", "val", "left_out"
HASH_DIGITS = 13  # 52 bits: exact in a float
METADATA = "dataset_metadata.json"
LIST_DIGEST = "val_list_sha256"
COLUMNS = ["key", "status", "reason", "input", "target"]
UNRECORDED = ("fivek_dir", "output_dir", "workers", "verify", "max_reject")
LICENCE_NOTE = (
    "FiveK is for research only: filesAdobe.txt lists photos under LicenseAdobe, filesAdobeMIT.txt those under "
    "LicenseAdobeMIT. Whether weights trained on them may be used commercially is not settled here."
)
RENDERING = "LibRaw: camera white balance, no brightening, sRGB curve and primaries, DefaultCrop"


def recorded_options(config: FivekConfig) -> dict:
    """The options that determine the pairs, as the metadata hold them. Raises InputError for a --val_list that cannot be read."""
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in UNRECORDED}
    options["prefer"] = ",".join(config.preferred_suffixes) or None
    options["val_list"] = options[LIST_DIGEST] = None
    if config.val_list is not None:
        with flagged("--val_list", config.val_list), open_input(config.val_list) as handle:
            options["val_list"] = Path(config.val_list).name
            options[LIST_DIGEST] = hashlib.sha256(handle.read()).hexdigest()
    return options


def refuse_other_options(config: FivekConfig) -> None:
    """InputError, naming each difference, unless the pairs in --output_dir are finished and of these options."""
    path, now = Path(config.output_dir) / METADATA, recorded_options(config)
    try:
        recorded = parse_json(path.read_text(encoding="utf-8"))["config"]
        # What an older version did not record yet, it did as the default says.
        before = {**recorded_options(FivekConfig()), **recorded}
        before["prefer"] = ",".join(FivekConfig(prefer=before["prefer"]).preferred_suffixes) or None
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: the pairs are not finished") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the metadata of a FiveK folder ({error})") from error
    # A list is compared by its lines, wherever it lies; of an older folder only its name is known.
    now.pop("val_list" if before[LIST_DIGEST] is not None else LIST_DIGEST)
    changed = [f"  {name}: {before[name]} before, {value} now" for name, value in now.items() if before[name] != value]
    if changed:
        advice = "use the same options, name another --output_dir, or run without --check to make the pairs again"
        raise InputError("\n".join([f"{config.output_dir} was made with other options:", *changed, advice]))


def write_dataset(config: FivekConfig, found: Found, records: dict[str, dict]) -> dict:
    """Write the four files into --output_dir and return the metadata. `records`: one for each file pair up to --limit.

    Raises InputError when --val_list cannot be read.
    """
    folder = Path(config.output_dir)
    pairs, leftovers = _sort_out(records)
    parts = split_pairs(pairs, config)
    rows: dict[str, list[dict]] = {TRAIN: [], VAL: []}
    for record in pairs:
        if parts[record["key"]] == LEFT_OUT:
            leftovers.append(_leftover(record, LEFT_OUT, "looks like a training pair"))
        else:
            rows[parts[record["key"]]].append(record["row"])
    leftovers += found.leftovers
    metadata = _metadata(config, found, pairs, rows, leftovers, len(records))
    for part in (TRAIN, VAL):
        if rows[part]:
            write_jsonl(folder / f"{part}.jsonl", rows[part])
        else:
            (folder / f"{part}.jsonl").unlink(missing_ok=True)
    table = sorted((dataclasses.asdict(leftover) for leftover in leftovers), key=lambda row: tuple(row.values()))
    write_csv(folder / "rejected.csv", COLUMNS, table)
    write_json(folder / METADATA, metadata)
    return metadata


def _sort_out(records: dict[str, dict]) -> tuple[list[dict], list[Leftover]]:
    """The records of usable pairs by key; and the rejected ones, with those whose photo is there under an earlier key."""
    pairs, rejected = [], []
    first_with: dict[str, str] = {}
    for key, record in sorted(records.items()):
        if record["status"] == REJECTED:
            rejected.append(_leftover(record, REJECTED, record["reason"]))
        elif (first := first_with.setdefault(record["row"]["src_sha256"], key)) != key:
            rejected.append(_leftover(record, REJECTED, f"the same photo as {first}"))
        else:
            pairs.append(record)
    return pairs, rejected


def _leftover(record: dict, status: str, reason: str) -> Leftover:
    return Leftover(record["key"], status, reason, record["input_file"]["path"], record["target_file"]["path"])


def split_pairs(records: list[dict], config: FivekConfig) -> dict[str, str]:
    """Key of each record -> TRAIN, VAL, or LEFT_OUT: validation pairs that look like a training pair."""
    listed = None
    if config.val_list:
        with flagged("--val_list", config.val_list), open_input(config.val_list) as handle:
            listed = listed_keys(handle.read().decode("utf-8-sig", "replace"))
    parts = {}
    for record in records:
        key = record["key"]
        if listed is not None:
            validates = key in listed
        else:
            day = record["captured"][:10] if config.split_by == "day" else ""  # `YYYY:MM:DD`, or "" if unknown
            validates = hash_share(config.seed, day or key) < config.val_ratio
        parts[key] = VAL if validates else TRAIN
    sides = [parts[record["key"]] for record in records]
    for hit in near_duplicate_rows([record["row"] for record in records], sides):
        validating = hit.first if sides[hit.first] == VAL else hit.second
        parts[records[validating]["key"]] = LEFT_OUT
    return parts


def hash_share(seed: int, text: str) -> float:
    """A number in [0, 1) made from seed and text; evenly spread over many texts."""
    return int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:HASH_DIGITS], 16) / 16**HASH_DIGITS


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
    options = recorded_options(config)
    # By the profile: the format of a raw file is its ending, of which there are many.
    has_raw = any(record[side]["profile"] == RAW for record in pairs for side in (INPUT, TARGET))
    files: Counter = Counter()
    for leftover in leftovers:
        files[leftover.status] += bool(leftover.input) + bool(leftover.target)
    return {
        "schema_version": SCHEMA_VERSION,
        "config": options,
        "pairs": len(pairs),
        **{part: {"count": len(rows[part]), "digest": set_digest(rows[part])} for part in (TRAIN, VAL)},
        "rejected_pairs": lost,
        "reject_rate": round(lost / max(1, lost + len(pairs)), 6),
        # What became of every image file; the kinds add up to `found`.
        "files": {
            "found": found.files,
            "in_pairs": 2 * sum(map(len, rows.values())),
            **{name: files[name] for name in (REJECTED, UNMATCHED_INPUT, UNMATCHED_TARGET, IGNORED, LEFT_OUT)},
            "other_experts": found.other_experts,
            "beyond_limit": 2 * (len(found.pairs) - tried),
        },
        "reasons": _counted(leftover.reason for leftover in leftovers if leftover.status == REJECTED),
        "licences": _counted(record["licence"] for record in pairs),
        "licence_note": LICENCE_NOTE,
        "inputs": _counted(record["input"]["format"] for record in pairs),
        "raw_rendering": {"rawpy": raw_version(), "parameters": RENDERING} if has_raw else None,
        "input_profiles": _counted(record["input"]["profile"] for record in pairs),
        "target_profiles": _counted(record["target"]["profile"] for record in pairs),
        "geometry": _counted(record["geometry"] for record in pairs),
        "warnings": {record["key"]: record["warnings"] for record in pairs if record["warnings"]},
        "correlation": _spread([record["correlation"] for record in pairs]),
        "saturation": {
            role: _spread([record["saturation"][index] for record in pairs])
            for index, role in enumerate(("src", "tar"))
        },
        "decoder": DECODER,
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": round(statistics.median(values), 4), "max": max(values)}
