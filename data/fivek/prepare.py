"""The stages of prepare_fivek_robust.py: what is there, what is done already, making the rest, telling about it.

Only this process, which holds the lock on --output_dir, writes; workers hand it bytes.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from common.errors import InputError
from common.files import remove_stale_temporaries
from common.memory import usable_cpus, usable_memory
from common.workers import Lost, run_tasks
from data.fivek.config import FivekConfig
from data.fivek.dataset import METADATA
from data.fivek.match import REJECTED, Candidate, Found
from data.fivek.pair import Outcome, make_pair
from data.fivek.records import Recipe, is_current, read_record, store, with_licence
from data.optional_readers import DNG_INSTALL, has_rawpy

Log = Callable[[str], None]
LINE_EVERY = 100
WORKER_MEMORY = 500 * 10**6  # bytes; a pair of 16-bit TIFF files of 12 megapixels
SECONDS_PER_PAIR = 600
BYTES_PER_PIXEL = 0.47  # 1.3 MB for 2048 x 1365 at quality 95, 4:4:4
LARGEST_GAIN = 4  # of an image over its source file, which may be a strongly compressed JPEG
SHOWN = 10
DULL = 1.2


def report_found(config: FivekConfig, found: Found, log: Log) -> None:
    """What was found, with everything that the user may have meant otherwise. InputError when DNG files need rawpy."""
    candidates = found.candidates
    log(f"FiveK: {len(candidates)} photos with input and rendition by expert {config.expert} in {config.fivek_dir}")
    suffixes = Counter(pair.input.suffix for pair in candidates)
    log(f"Inputs: {', '.join(f'{count} {suffix}' for suffix, count in sorted(suffixes.items()))}")
    if suffixes[".dng"] not in (0, len(candidates)):
        log("warning: some inputs are raw files, some are not: two renderings are mixed")
    if found.generic_targets:
        log(f"Taken as expert {config.expert}: {found.generic_targets} targets in folders that name no expert")
    others = Counter(leftover.status for leftover in found.leftovers)
    log(f"Not used: {', '.join(f'{count} {status}' for status, count in sorted(others.items())) or 'nothing'}")
    if suffixes[".dng"] and not has_rawpy():
        raise InputError(f"{suffixes['.dng']} inputs are DNG files ({candidates[0].input.path}, ...). {DNG_INSTALL}")


def prepare_pairs(config: FivekConfig, found: Found, log: Log) -> dict[str, dict]:
    """Make what is not there yet; the record of every candidate up to --limit, by key. Called under the lock.

    Raises Stopped, OSError (disk full); what is finished by then stays finished.
    """
    folder, recipe = Path(config.output_dir), Recipe(config)
    for place in (folder, folder / "images", folder / "meta"):
        remove_stale_temporaries(place)
    records, todo, outdated = {}, [], 0
    for candidate in found.candidates[: config.limit]:
        record = read_record(folder, candidate.key)
        if record and is_current(record, candidate, recipe.digest(candidate), folder, config.verify):
            records[candidate.key] = with_licence(folder, record, found.licences[candidate.key])
        else:
            outdated += record is not None
            todo.append(candidate)
    log(f"Done before: {len(records)}. To make: {len(todo)}" + (f", {outdated} of them again" if outdated else ""))
    if not todo:
        return records
    check_space(config, todo)
    # Their presence says that the folder is whole, and that rows speak of the images that are there.
    for name in (METADATA, "train.jsonl", "val.jsonl"):
        (folder / name).unlink(missing_ok=True)
    return records | _make_all(config, found, todo, recipe, log)


def check_space(config: FivekConfig, todo: list[Candidate]) -> None:
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


def report_dataset(config: FivekConfig, metadata: dict, records: dict[str, dict], log: Log) -> bool:
    """Tell what came out; whether that is within --max_reject."""
    rejected = [record for _, record in sorted(records.items()) if record["status"] == REJECTED]
    for record in rejected[:SHOWN]:
        log(f"  rejected {record['key']}: {record['reason']}")
    if len(rejected) > SHOWN:
        log(f"  ... and {len(rejected) - SHOWN} more, see rejected.csv")
    rate = f"{100 * metadata['reject_rate']:.1f} % rejected, {100 * config.max_reject:g} % allowed"
    log(f"Pairs: {metadata['pairs']}, {metadata['rejected_pairs']} rejected ({rate})")
    sizes = {side: metadata[side]["count"] for side in ("train", "val")}
    log(
        f"Split: {sizes['train']} train, {sizes['val']} val, {metadata['files']['left_out'] // 2} left out of val as lookalikes"
    )
    for side, count in sizes.items():
        if not count and metadata["pairs"]:
            log(f"warning: no pair fell to {side}, so there is no {side}.jsonl; change --val_ratio or --val_list")
    weak = sorted(metadata["warnings"])
    if weak:
        log(f"warning: {len(weak)} pairs match only weakly, look at them: {', '.join(weak[:SHOWN])}")
    _report_colour(metadata, log)
    log(f"Licences: {', '.join(f'{name} {count}' for name, count in metadata['licences'].items())}; research only")
    log(f"Wrote {config.output_dir}: images/, train.jsonl, val.jsonl, rejected.csv, {METADATA}")
    return bool(metadata["pairs"]) and metadata["reject_rate"] <= config.max_reject


def _report_colour(metadata: dict, log: Log) -> None:
    saturation = metadata["saturation"]
    if not metadata["pairs"] or not saturation["src"]["median"]:
        return
    ratio = saturation["tar"]["median"] / saturation["src"]["median"]
    log(f"Colour: targets are {ratio:.2f} times as saturated as inputs (FiveK in true sRGB: 1.6 to 2.6)")
    if ratio < DULL and metadata["target_profiles"].get("none") and metadata["config"]["assume_profile"] == "srgb":
        log("warning: dull targets without a profile may be ProPhoto data; compare with --assume_profile prophoto")


def _make_all(config: FivekConfig, found: Found, todo: list[Candidate], recipe: Recipe, log: Log) -> dict[str, dict]:
    records = {}
    workers = min(config.workers or default_workers(), len(todo))
    with _Progress(len(todo), log) as progress:
        for candidate, outcome in run_tasks(_Maker(config), todo, workers, SECONDS_PER_PAIR):
            if isinstance(outcome, Lost):
                outcome = Outcome({}, outcome.reason, lasting=False)
            licence = found.licences[candidate.key]
            records[candidate.key] = store(
                Path(config.output_dir), candidate, outcome, recipe.digest(candidate), licence
            )
            progress.step(bool(outcome.reason))
    return records


class _Maker:
    """make_pair with its options, as a worker calls it."""

    def __init__(self, config: FivekConfig):
        self.config = config

    def __call__(self, candidate: Candidate) -> Outcome:
        return make_pair(candidate, self.config)


class _Bar(tqdm):
    monitor_interval = 0  # no watching thread: workers are forked


class _Progress:
    """A bar with rate and time left on a terminal, else one line a hundred pairs."""

    def __init__(self, total: int, log: Log):
        self.total, self.log = total, log
        self.done = self.rejected = 0
        self.start = time.monotonic()
        self.bar = _Bar(total=total, desc="FiveK", unit="pair", disable=not sys.stderr.isatty())

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def step(self, rejected: bool) -> None:
        """One more pair is done."""
        self.done += 1
        self.rejected += rejected
        self.bar.update()
        if self.bar.disable and (self.done % LINE_EVERY == 0 or self.done == self.total):
            rate = self.done / max(1e-9, time.monotonic() - self.start)
            left = time.strftime("%H:%M:%S", time.gmtime((self.total - self.done) / rate))
            self.log(f"FiveK {self.done}/{self.total}: {rate:.1f} pairs/s, {left} left, {self.rejected} rejected")
