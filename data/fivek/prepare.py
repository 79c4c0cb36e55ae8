"""File pairs that were found -> images and records of all of them: what is done already is kept, the rest is made; and the log.

Only this process, which holds the lock on --output_dir, writes; workers hand it bytes.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections import Counter
from pathlib import Path

from common.errors import InputError
from common.files import remove_stale_temporaries
from common.log import RunLog, progress_bar
from common.memory import usable_cpus, usable_memory
from common.workers import Lost, run_tasks
from data.decoding.raw import RAW_INSTALL, has_rawpy, is_raw
from data.fivek.config import FivekConfig
from data.fivek.dataset import LEFT_OUT, METADATA, TRAIN, VAL
from data.fivek.match import REJECTED, FilePair, Found
from data.fivek.pair import Outcome, make_pair
from data.fivek.records import Recipe, is_current, read_record, store, with_licence

LINE_EVERY = 100
WORKER_MEMORY = 500 * 10**6  # bytes; a pair of 16-bit TIFF files of 12 megapixels
SECONDS_PER_PAIR = 600
BYTES_PER_PIXEL = 0.47  # 1.3 MB for 2048 x 1365 at quality 95, 4:4:4
LARGEST_GAIN = 4  # of an image over its source file, which may be a strongly compressed JPEG
SHOWN = 5
DULL = 1.2


def report_found(config: FivekConfig, found: Found, log: RunLog) -> None:
    """What was found, with everything that the user may have meant otherwise. InputError when raw files need rawpy."""
    log(f"FiveK: {len(found.pairs)} photos with input and rendition by expert {config.expert} in {config.fivek_dir}")
    suffixes = Counter(pair.input.suffix for pair in found.pairs)
    log(f"Inputs: {', '.join(f'{count} {suffix}' for suffix, count in sorted(suffixes.items()))}")
    raws = [pair.input.path for pair in found.pairs if is_raw(pair.input.path)]
    if len(raws) not in (0, len(found.pairs)):
        log("warning: some inputs are raw files, some are not: two renderings are mixed")
    if found.generic_targets:
        log(f"Taken as expert {config.expert}: {found.generic_targets} targets in folders that name no expert")
    others = Counter(leftover.status for leftover in found.leftovers)
    log(f"Not used: {', '.join(f'{count} {status}' for status, count in sorted(others.items())) or 'nothing'}")
    if raws and not has_rawpy():
        raise InputError(f"{len(raws)} inputs are raw files ({raws[0]}, ...): {RAW_INSTALL}")


def prepare_pairs(config: FivekConfig, found: Found, log: RunLog) -> dict[str, dict]:
    """Make what is not there yet; the record of every file pair up to --limit, by key. Called under the lock.

    Raises Stopped, OSError (disk full); what is finished by then stays finished.
    """
    folder, recipe = Path(config.output_dir), Recipe(config)
    for place in (folder, folder / "images", folder / "meta"):
        remove_stale_temporaries(place)
    records, todo, outdated = {}, [], 0
    for pair in found.pairs[: config.limit]:
        record = read_record(folder, pair.key)
        if record and is_current(record, pair, recipe.digest(pair), folder, config.verify):
            records[pair.key] = with_licence(folder, record, found.licences[pair.key])
        else:
            outdated += record is not None
            todo.append(pair)
    log(f"Done before: {len(records)}. To make: {len(todo)}" + (f", {outdated} of them again" if outdated else ""))
    if not todo:
        return records
    check_space(config, todo)
    # Their presence says that the folder is whole, and that rows speak of the images that are there.
    for name in (METADATA, "train.jsonl", "val.jsonl"):
        (folder / name).unlink(missing_ok=True)
    return records | _make_all(config, found, todo, recipe, log)


def check_space(config: FivekConfig, todo: list[FilePair]) -> None:
    """InputError when the disk lacks the space that the images may take."""
    largest = BYTES_PER_PIXEL * config.max_resolution**2 * 2 / 3
    files = [file for pair in todo for file in (pair.input, pair.target)]
    needed = sum(min(largest, LARGEST_GAIN * file.size) for file in files)
    free = shutil.disk_usage(config.output_dir).free
    if needed > free:
        raise InputError(
            f"--output_dir {config.output_dir}: {needed / 1e9:.1f} GB are needed for {len(todo)} pairs, {free / 1e9:.1f} "
            "GB are free; make room, or lower --max_resolution"
        )


def default_workers() -> int:
    """One a CPU, fewer when memory is short."""
    return max(1, min(usable_cpus(), usable_memory() // WORKER_MEMORY))


def _make_all(config: FivekConfig, found: Found, todo: list[FilePair], recipe: Recipe, log: RunLog) -> dict[str, dict]:
    """Make and store all of `todo`: under a bar with rate and time left on a terminal, else one line a hundred pairs."""
    records: dict[str, dict] = {}
    rejected, start = 0, time.monotonic()
    make = functools.partial(make_pair, config=config)
    workers = min(config.workers or default_workers(), len(todo))
    with progress_bar(len(todo), "FiveK", "pair") as bar:
        for pair, outcome in run_tasks(make, todo, workers, SECONDS_PER_PAIR):
            if isinstance(outcome, Lost):
                outcome = Outcome({}, outcome.reason, lasting=False)
            licence = found.licences[pair.key]
            records[pair.key] = store(Path(config.output_dir), pair, outcome, recipe.digest(pair), licence)
            rejected += bool(outcome.reason)
            bar.update()
            done = len(records)
            if bar.disable and (done % LINE_EVERY == 0 or done == len(todo)):
                rate = done / max(1e-9, time.monotonic() - start)
                left = time.strftime("%H:%M:%S", time.gmtime((len(todo) - done) / rate))
                log(f"FiveK {done}/{len(todo)}: {rate:.1f} pairs/s, {left} left, {rejected} rejected")
    return records


def report_dataset(config: FivekConfig, metadata: dict, records: dict[str, dict], log: RunLog) -> bool:
    """Tell what came out; whether that is within --max_reject."""
    rejected = [record for _, record in sorted(records.items()) if record["status"] == REJECTED]
    for record in rejected[:SHOWN]:
        log(f"  rejected {record['key']}: {record['reason']}")
    if len(rejected) > SHOWN:
        log(f"  ... and {len(rejected) - SHOWN} more, see rejected.csv")
    rate = f"{100 * metadata['reject_rate']:.1f} % rejected, {100 * config.max_reject:g} % allowed"
    log(f"Pairs: {metadata['pairs']}, {metadata['rejected_pairs']} rejected ({rate})")
    counts = {part: metadata[part]["count"] for part in (TRAIN, VAL)}
    left_out = metadata["files"][LEFT_OUT] // 2
    log(f"Split: {counts[TRAIN]} train, {counts[VAL]} val, {left_out} left out of val as lookalikes")
    for part, count in counts.items():
        if not count and metadata["pairs"]:
            log(f"warning: no pair fell to {part}, so there is no {part}.jsonl; change --val_ratio or --val_list")
    weak = sorted(metadata["warnings"])
    if weak:
        more = f", ..., all in {METADATA}" if len(weak) > SHOWN else ""
        log(f"warning: {len(weak)} pairs match only weakly, look at them: {', '.join(weak[:SHOWN])}{more}")
    saturation = metadata["saturation"]
    if metadata["pairs"] and saturation["src"]["median"]:
        ratio = saturation["tar"]["median"] / saturation["src"]["median"]
        log(f"Colour: targets are {ratio:.2f} times as saturated as inputs (FiveK in true sRGB: 1.6 to 2.6)")
        if ratio < DULL and metadata["target_profiles"].get("none") and metadata["config"]["assume_profile"] == "srgb":
            log("warning: dull targets without a profile may be ProPhoto data; compare with --assume_profile prophoto")
    log(f"Licences: {', '.join(f'{name} {count}' for name, count in metadata['licences'].items())}; research only")
    log(f"Wrote {config.output_dir}: images/, train.jsonl, val.jsonl, rejected.csv, {METADATA}")
    return bool(metadata["pairs"]) and metadata["reject_rate"] <= config.max_reject
