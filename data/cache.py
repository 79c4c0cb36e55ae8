"""Decoded and resized pairs in one memory-mapped file: built once, read by all folds, epochs, workers and processes.

A pack holds uint8 planes (3, H, W), source then target of one pair after the other. Its name is a digest of what it holds, so that
another resolution, fit, photo or decoder is another pack. The index beside it is written last and has a checksum for every entry.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data import stop
from data.dataset import decoded_pair, frame_size
from data.errors import DataError
from data.files import FolderLock, atomic_output, remove_stale_temporaries, write_json
from data.fingerprint import row_digest, usable_cpus
from data.images import DECODER
from data.manifest import Pair

FORMAT = 2
SPARE_BYTES = 2 * 2**30  # left free for checkpoints when `auto` decides
WAIT_SECONDS = 6 * 3600.0  # another process may be building the pack
GIB = 2**30

Size = tuple[int, int]
Wanted = dict[str, tuple[Pair, Size]]
Log = Callable[[str], None]


class PairCache:
    """Read access to one pack. Calling it with a pair and a size gives what `decoded_pair` gives, in microseconds.

    pixels: the whole pack, uint8 (bytes,), mapped read-only: writing to it or to a view of it ends the process.
    """

    def __init__(self, path: Path, entries: dict[str, int]):
        self.entries = entries
        with warnings.catch_warnings():
            # Torch has no read-only tensors and says so; a writable mapping would count as memory of this process.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            self.pixels = torch.from_numpy(np.memmap(path, np.uint8, mode="r"))

    def __call__(self, pair: Pair, size: Size) -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target of `pair` at `size` (width, height): uint8 (3, H, W) views of the pack."""
        width, height = size
        start, length = self.start_of(pair, size), 3 * width * height
        src, tar = self.pixels[start : start + 2 * length].view(2, 3, height, width)
        return src, tar

    def start_of(self, pair: Pair, size: Size) -> int:
        """Where the pair begins in `pixels`: planes of the source, then of the target."""
        return self.entries[entry_name(pair, size)]


def open_cache(pairs: Iterable[Pair], resolution: int, fit: str, mode: str, folder: Path, log: Log) -> PairCache | None:
    """The pack of `pairs` at training and evaluation size, built in `folder` when it is not there or not sound.

    mode `auto` gives None, with a log line, when the disk is short; `disk` raises DataError then. Processes that want the same pack
    wait for the one that builds it. Raises OSError (disk full), stop.Interrupted; nothing half-built stays.
    """
    wanted = wanted_entries(pairs, resolution, fit)
    name = hashlib.sha256(json.dumps([FORMAT, DECODER, sorted(wanted)]).encode()).hexdigest()[:16]
    path = folder / f"{name}.pack"
    entries = _sound_entries(path, wanted)  # without the lock: processes that share a pack check it side by side
    if entries is None:
        with FolderLock(folder, wait=WAIT_SECONDS):
            entries = _sound_entries(path, wanted) or _rebuilt_entries(path, wanted, mode, log)
    if entries is None:
        return None
    log(f"Cache: {len(wanted)} pairs in {path}")
    return PairCache(path, entries)


def entry_name(pair: Pair, size: Size) -> str:
    """What an entry is called: content of both images, and size."""
    return f"{row_digest(pair.row)}:{size[0]}x{size[1]}"


def wanted_entries(pairs: Iterable[Pair], resolution: int, fit: str) -> Wanted:
    """Every pair at its training size and, where that differs, at its evaluation size: which fold it is in does not matter."""
    wanted = {}
    for pair in pairs:
        for enlarge in (True, False):
            size = frame_size(pair, resolution, fit, enlarge)
            wanted[entry_name(pair, size)] = (pair, size)
    return wanted


def _rebuilt_entries(path: Path, wanted: Wanted, mode: str, log: Log) -> dict[str, int] | None:
    """Build the pack, after saying what it takes; None when the disk has no room for it. Call it under the folder's lock."""
    if path.exists() and path.with_suffix(".json").exists():
        log(f"⚠️  {path} is damaged and is built anew")
    for worthless in (path, path.with_suffix(".json")):
        worthless.unlink(missing_ok=True)
    remove_stale_temporaries(path.parent)
    total = sum(_lengths(wanted).values())
    if not _has_room(path.parent, total, mode, log):
        return None
    log(f"Cache: decoding {len(wanted)} pairs into {path}, {total / GIB:.2f} GiB, once")
    others = list(path.parent.glob("*.pack"))
    if others:
        # They may belong to other runs, so they stay.
        size = sum(other.stat().st_size for other in others) / GIB
        log(
            f"Cache: packs of other photos or settings beside it: {len(others)}, {size:.2f} GiB; delete what no run needs"
        )
    return _build(path, wanted)


def _has_room(folder: Path, total: int, mode: str, log: Log) -> bool:
    free = shutil.disk_usage(folder).free
    if free >= total + SPARE_BYTES:
        return True
    message = f"the cache needs {total / GIB:.2f} GiB, {free / GIB:.2f} GiB are free at {folder}"
    if mode == "disk":
        raise DataError(f"--cache disk: {message}; choose another --cache_dir, or --cache off")
    log(f"⚠️  --cache auto: {message}: photos are decoded anew in every epoch")
    return False


def _sound_entries(path: Path, wanted: Wanted) -> dict[str, int] | None:
    """Offsets of a pack whose every entry has its checksum; None when it must be built. Reading all warms the page cache."""
    index = path.with_suffix(".json")
    if not (path.exists() and index.exists()):
        return None
    try:
        rows = json.loads(index.read_text(encoding="utf-8"))
        pixels = np.memmap(path, np.uint8, mode="r")

        def is_sound(row: list[int]) -> bool:
            stop.check()
            start, length, checksum = row
            return zlib.crc32(pixels[start : start + length]) == checksum

        with ThreadPoolExecutor(usable_cpus()) as pool:
            sound = rows.keys() == wanted.keys() and all(pool.map(is_sound, rows.values()))
    except (ValueError, TypeError, AttributeError, OSError):
        return None
    return {name: row[0] for name, row in rows.items()} if sound else None


def _lengths(wanted: Wanted) -> dict[str, int]:
    """Bytes of every entry."""
    return {name: 2 * 3 * math.prod(size) for name, (_, size) in wanted.items()}


def _build(path: Path, wanted: Wanted) -> dict[str, int]:
    """Decode every entry, in threads, into a file that appears whole; then its index. Offsets by entry."""
    lengths = _lengths(wanted)
    starts = dict(zip(lengths, np.cumsum([0, *lengths.values()]).tolist(), strict=False))
    with atomic_output(path) as temporary:
        with open(temporary, "wb") as handle:
            # The blocks now, not as they are written: a full disk is an error here, and would kill the process there.
            os.posix_fallocate(handle.fileno(), 0, sum(lengths.values()))
        pixels = np.memmap(temporary, np.uint8, mode="r+")

        def fill(name: str) -> tuple[str, list[int]]:
            stop.check()
            content = torch.stack(decoded_pair(*wanted[name])).numpy().reshape(-1)
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
