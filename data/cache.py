"""Decoded and resized pairs in one memory-mapped file: built once, read by all folds, epochs, workers and processes.

A pack holds uint8 pixels, source then target of one pair after the other; its name is a digest of what it holds, so that another
resolution, fit, photo or decoder is another pack. The index beside it is written last and has a checksum for every entry.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data import stop
from data.dataset import decoded_pair, frame_size
from data.errors import DataError
from data.files import FolderLock, atomic_output, remove_stale_temporaries, write_json
from data.fingerprint import row_digest, usable_cpus
from data.images import DECODER
from data.manifest import Pair

FORMAT = 1
SPARE_BYTES = 2 * 2**30  # left free for checkpoints when `auto` decides
WAIT_SECONDS = 6 * 3600.0  # another process may be building the pack
GIB = 2**30

Size = tuple[int, int]
Log = Callable[[str], None]


class PairCache:
    """Read access to one pack. Calling it with a pair and a size gives what `decoded_pair` gives, in microseconds."""

    def __init__(self, path: Path, entries: dict[str, int]):
        self.entries = entries
        self.pixels = np.memmap(path, np.uint8, mode="r")

    def __call__(self, pair: Pair, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Source and target of `pair` at `size` (width, height): read-only uint8 (H, W, 3) views."""
        width, height = size
        start, length = self.entries[entry_name(pair, size)], width * height * 3
        src, tar = self.pixels[start : start + length], self.pixels[start + length : start + 2 * length]
        return src.reshape(height, width, 3), tar.reshape(height, width, 3)


def open_cache(pairs: Iterable[Pair], resolution: int, fit: str, mode: str, folder: Path, log: Log) -> PairCache | None:
    """The pack of `pairs` at training and evaluation size, built in `folder` when it is not there or not sound.

    mode `auto` gives None, with a log line, when the disk is short; `disk` raises DataError then. Processes that want the same pack
    wait for the one that builds it. Raises OSError (disk full), stop.Interrupted; nothing half-built stays.
    """
    wanted = wanted_entries(pairs, resolution, fit)
    total = sum(2 * 3 * math.prod(size) for _, size in wanted.values())
    name = hashlib.sha256(json.dumps([FORMAT, DECODER, sorted(wanted)]).encode()).hexdigest()[:16]
    path = folder / f"{name}.pack"
    if not path.exists() and not _has_room(folder, total, mode, log):
        return None
    with FolderLock(folder, wait=WAIT_SECONDS):
        entries = _sound_entries(path, wanted, log)
        if entries is None:
            log(f"Cache: decoding {len(wanted)} pairs into {path}, {total / GIB:.2f} GiB, once")
            remove_stale_temporaries(folder)
            entries = _build(path, wanted)
        else:
            log(f"Cache: {len(wanted)} pairs in {path}")
    return PairCache(path, entries)


def entry_name(pair: Pair, size: Size) -> str:
    """What an entry is called: content of both images, and size."""
    return f"{row_digest(pair.row)}:{size[0]}x{size[1]}"


def wanted_entries(pairs: Iterable[Pair], resolution: int, fit: str) -> dict[str, tuple[Pair, Size]]:
    """Every pair at its training size and, where that differs, at its evaluation size: which fold it is in does not matter."""
    wanted = {}
    for pair in pairs:
        for enlarge in (True, False):
            size = frame_size(pair, resolution, fit, enlarge)
            wanted[entry_name(pair, size)] = (pair, size)
    return wanted


def _has_room(folder: Path, total: int, mode: str, log: Log) -> bool:
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free >= total + SPARE_BYTES:
        return True
    message = f"the cache needs {total / GIB:.2f} GiB, {free / GIB:.2f} GiB are free at {place}"
    if mode == "disk":
        raise DataError(f"--cache disk: {message}; choose another --cache_dir, or --cache off")
    log(f"⚠️  --cache auto: {message}: photos are decoded anew in every epoch")
    return False


def _sound_entries(path: Path, wanted: dict[str, tuple[Pair, Size]], log: Log) -> dict[str, int] | None:
    """Offsets of a pack whose every entry has its checksum; None when it must be built. Reading all warms the page cache."""
    index = path.with_suffix(".json")
    if not (path.exists() and index.exists()):
        return None
    try:
        rows = json.loads(index.read_text(encoding="utf-8"))
        pixels = np.memmap(path, np.uint8, mode="r")
        sound = rows.keys() == wanted.keys() and all(
            zlib.crc32(pixels[start : start + length]) == checksum for start, length, checksum in rows.values()
        )
    except (ValueError, TypeError, AttributeError, OSError):
        sound = False
    if sound:
        return {name: row[0] for name, row in rows.items()}
    log(f"⚠️  {path} is damaged and is built anew")
    return None


def _build(path: Path, wanted: dict[str, tuple[Pair, Size]]) -> dict[str, int]:
    """Decode every entry, in threads, into a file that appears whole; then its index. Offsets by entry."""
    lengths = {name: 2 * 3 * math.prod(size) for name, (_, size) in wanted.items()}
    starts = dict(zip(lengths, np.cumsum([0, *lengths.values()]).tolist(), strict=False))
    path.with_suffix(".json").unlink(missing_ok=True)
    with atomic_output(path) as temporary:
        with open(temporary, "wb") as handle:
            handle.truncate(sum(lengths.values()))
        pixels = np.memmap(temporary, np.uint8, mode="r+")

        def fill(name: str) -> tuple[str, list[int]]:
            stop.check()
            content = np.concatenate([image.reshape(-1) for image in decoded_pair(*wanted[name])])
            pixels[starts[name] : starts[name] + lengths[name]] = content
            return name, [starts[name], lengths[name], zlib.crc32(content)]

        pool = ThreadPoolExecutor(usable_cpus())
        try:
            done = tqdm(pool.map(fill, wanted), "Decoding", len(wanted), disable=not sys.stderr.isatty())
            rows = dict(done)
        finally:
            pool.shutdown(cancel_futures=True)
        pixels.flush()
    write_json(path.with_suffix(".json"), rows)
    return starts
