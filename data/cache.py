"""Pairs -> one memory-mapped file of decoded, resized pixels, and the same pixels on a GPU, where batches are cut from them.

The file, a pack, is built once and read by all folds, epochs, workers and processes. It holds uint8 planes (3, H, W), source then
target of one pair after the other. Its name is a digest of what it holds, so that another resolution, fit, photo or decoder is
another pack. The index beside it is written last and has a checksum for every entry. Batches made on the GPU are bit for bit
those of data/loader.py, without a loader process and without a copy of a pixel on the host.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from common import signals
from common.errors import InputError
from common.files import atomic_output, remove_stale_temporaries, write_json
from common.jsonl import parse_json
from common.locks import FolderLock
from common.log import alive
from common.memory import usable_cpus
from common.workers import in_threads
from data.dataset import EvaluationPairs, SampleKey, TrainingPairs, decoded_pair, frame_size
from data.fingerprint import row_digest
from data.images import DECODER
from data.manifest import Pair
from data.transforms import lattice, toned

FORMAT = 2
GIB = 2**30
# FUSE, GlusterFS and 9p without shared mappings.
NO_MMAP = (errno.ENODEV, errno.EOPNOTSUPP, errno.ENOSYS)
SPARE_BYTES = 2 * GIB  # left free for checkpoints when `auto` decides
WAIT_SECONDS = 6 * 3600.0  # another process may be building the pack
GPU_SHARE = 0.25  # of the free memory of the device, before training takes its own
CHUNK = 2**28  # bytes a copy to the device: a stop signal is seen in between

Size = tuple[int, int]  # width, height
Wanted = dict[str, tuple[Pair, Size]]
Entries = dict[str, list[int]]  # the index of a pack: name -> start, length, checksum
Log = Callable[[str], None]


class PairCache:
    """Access to the pixels of one pack. Calling it with a pair and a size gives what `decoded_pair` gives, in microseconds.

    pixels: the whole pack, uint8 (bytes,), of the file `path`. entries: start, length and checksum of each pair in it.
    """

    def __init__(self, pixels: torch.Tensor, entries: Entries, path: Path):
        self.pixels = pixels
        self.entries = entries
        self.path = path

    def __call__(self, pair: Pair, size: Size) -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target of `pair` at `size`: uint8 (3, H, W) views of the pack."""
        width, height = size
        start, length = self.start_of(pair, size), 3 * width * height
        src, tar = self.pixels[start : start + 2 * length].view(2, 3, height, width)
        return src, tar

    def is_sound(self) -> bool:
        """Whether every entry still has its checksum; all is read, from the mapping that this run has used: another process may
        have deleted the file since, or built it anew. Raises Stopped."""
        return _are_sound(self.pixels.numpy(), self.entries)

    def start_of(self, pair: Pair, size: Size) -> int:
        """Where the pair begins in `pixels`: planes of the source, then of the target."""
        return self.entries[entry_name(pair, size)][0]


def open_cache(pairs: Iterable[Pair], resolution: int, fit: str, mode: str, folder: Path, log: Log) -> PairCache | None:
    """The pack of `pairs` at training and evaluation size, built in `folder` when it is not there or not sound.

    Its pixels are mapped read-only: writing to them or to a view of them ends the process. mode `auto` gives None, with a log
    line, when the disk is short; `disk` raises InputError then. Processes that want the same pack wait for the one that builds it.
    Raises OSError (disk full), Stopped; nothing half-built stays.
    """
    wanted = wanted_entries(pairs, resolution, fit)
    name = hashlib.sha256(json.dumps([FORMAT, DECODER, sorted(wanted)]).encode()).hexdigest()[:16]
    path = folder / f"{name}.pack"
    try:
        # Without the lock: processes that share a pack check it at the same time.
        entries = _sound_entries(path, wanted.keys())
        if entries is None:
            with FolderLock(folder, log, wait=WAIT_SECONDS):
                entries = _sound_entries(path, wanted.keys()) or _rebuilt_entries(path, wanted, mode, log)
    except OSError as error:
        if error.errno not in NO_MMAP:
            raise
        reason = f"the file system of {folder} maps no files into memory ({error.strerror})"
        if mode == "disk":
            raise InputError(f"--cache disk: {reason}; use --cache_dir on a local disk, or --cache off") from None
        log(f"⚠️  --cache auto: {reason}: photos are decoded anew in every epoch; --cache_dir on a local disk helps")
        return None
    if entries is None:
        return None
    log(f"Cache: {_count_pairs(wanted)} pairs in {path}")
    with warnings.catch_warnings():
        # Torch has no read-only tensors and says so; a writable mapping would count as memory of this process.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return PairCache(torch.from_numpy(np.memmap(path, np.uint8, mode="r")), entries, path)


def entry_name(pair: Pair, size: Size) -> str:
    """The name of an entry: content of both images, and size."""
    return f"{row_digest(pair.row)}:{size[0]}x{size[1]}"


def wanted_entries(pairs: Iterable[Pair], resolution: int, fit: str) -> Wanted:
    """Every pair at its training size and, where that differs, at its evaluation size: which fold it is in does not matter."""
    wanted = {}
    for pair in pairs:
        for enlarge in (True, False):
            size = frame_size(pair, resolution, fit, enlarge)
            wanted[entry_name(pair, size)] = (pair, size)
    return wanted


def _count_pairs(wanted: Wanted) -> int:
    """How many pairs of different content; one may have two entries."""
    return len({row_digest(pair.row) for pair, _ in wanted.values()})


def _sound_entries(path: Path, wanted: Set[str]) -> Entries | None:
    """The index of a pack whose every entry has its checksum; None when it must be built. Reading all warms the page cache."""
    index = path.with_suffix(".json")
    if not (path.exists() and index.exists()):
        return None
    try:
        entries = parse_json(index.read_text(encoding="utf-8"))
        sound = entries.keys() == wanted and _are_sound(np.memmap(path, np.uint8, mode="r"), entries)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_MMAP:
            raise
        return None
    return entries if sound else None


def _are_sound(pixels: np.ndarray, entries: Entries) -> bool:
    def is_sound(entry: list[int]) -> bool:
        signals.check()
        alive()
        start, length, checksum = entry
        return zlib.crc32(pixels[start : start + length]) == checksum  # type: ignore[arg-type]  # arrays are buffers

    with ThreadPoolExecutor(usable_cpus()) as pool:
        return all(pool.map(is_sound, entries.values()))


def _rebuilt_entries(path: Path, wanted: Wanted, mode: str, log: Log) -> Entries | None:
    """The index of the pack after it was built; None when the disk has no room for it. Call it under the folder's lock."""
    index = path.with_suffix(".json")
    if path.exists() and index.exists():
        log(f"⚠️  {path} is damaged and is built anew")
    for worthless in (path, index):
        worthless.unlink(missing_ok=True)
    remove_stale_temporaries(path.parent)
    lengths = {name: 2 * 3 * math.prod(size) for name, (_, size) in wanted.items()}
    total, free = sum(lengths.values()), shutil.disk_usage(path.parent).free
    if free < total + SPARE_BYTES:
        short = f"the cache needs {total / GIB:.2f} GiB, {free / GIB:.2f} GiB are free at {path.parent}"
        if mode == "disk":
            raise InputError(f"--cache disk: {short}; choose another --cache_dir, or --cache off")
        log(f"⚠️  --cache auto: {short}: photos are decoded anew in every epoch")
        return None
    log(f"Cache: decoding {_count_pairs(wanted)} pairs into {path}, {total / GIB:.2f} GiB, once")
    # Other packs may belong to other runs, so they stay.
    others = [other.stat().st_size for other in path.parent.glob("*.pack")]
    if others:
        size = f"{len(others)}, {sum(others) / GIB:.2f} GiB"
        log(f"Cache: packs of other photos or settings beside it: {size}; delete what no run needs")
    entries = _build(path, wanted, lengths)
    write_json(index, entries)
    return entries


def _build(path: Path, wanted: Wanted, lengths: dict[str, int]) -> Entries:
    """Decode every entry, in threads, into a file that appears whole; its index.

    Raises InputError naming an image that cannot be decoded, Stopped.
    """
    # In order of their names: every fold would build the same file.
    starts = dict(
        zip(sorted(lengths), np.cumsum([0, *(lengths[name] for name in sorted(lengths))]).tolist(), strict=False)
    )
    checksums: dict[str, int] = {}
    with atomic_output(path) as temporary:
        with open(temporary, "wb") as handle:
            # The blocks now, not as they are written: a full disk is an error here, and would kill the process there.
            os.posix_fallocate(handle.fileno(), 0, sum(lengths.values()))
        pixels = np.memmap(temporary, np.uint8, mode="r+")

        def fill(name: str) -> int:
            content = torch.stack(decoded_pair(*wanted[name])).numpy().reshape(-1)
            pixels[starts[name] : starts[name] + lengths[name]] = content
            return zlib.crc32(content)  # type: ignore[arg-type]  # arrays are buffers

        for name, checksum in in_threads(fill, wanted, usable_cpus(), "Decoding"):
            if isinstance(checksum, InputError):
                raise checksum
            checksums[name] = checksum
        pixels.flush()
    return {name: [start, lengths[name], checksums[name]] for name, start in starts.items()}


def open_resident(cache: PairCache, device: torch.device, free: int, log: Log) -> ResidentPairs | None:
    """The pack on a GPU where GPU_SHARE of its `free` bytes holds it, else None; a log line says which, and the sizes."""
    needed = cache.pixels.numel()
    sizes = f"{needed / GIB:.2f} GiB of pixels, {free / GIB:.2f} GiB free on the GPU"
    if needed > GPU_SHARE * free:
        log(f"Cache: {sizes}: more than {GPU_SHARE:.0%} of it, so loader processes make the batches")
        return None
    log(f"Cache: {sizes}: copied there, where batches are made without loader processes (--cache disk: not copied)")
    return ResidentPairs(cache, device)


class ResidentPairs:
    """The pixels of `cache` on `device`, and batches made from them. Raises Stopped while they are copied."""

    def __init__(self, cache: PairCache, device: torch.device):
        self.pixels = torch.empty(cache.pixels.shape, dtype=torch.uint8, device=device)
        for target, source in zip(self.pixels.split(CHUNK), cache.pixels.split(CHUNK), strict=True):
            signals.check()
            target.copy_(source)
        self.cache = PairCache(self.pixels, cache.entries, cache.path)

    @property
    def advice(self) -> str:
        """What to tell a user whose batch did not fit beside the pixels."""
        return f"--cache disk takes {self.pixels.numel() / GIB:.2f} GiB of decoded photos off the GPU."

    def training_batches(self, dataset: TrainingPairs, keys: Iterable[list[SampleKey]]) -> Iterator[dict]:
        """What `data.loader.training_batches` yields for the same dataset and keys."""
        return (self.training_batch(dataset, batch) for batch in keys)

    def training_batch(self, dataset: TrainingPairs, keys: list[SampleKey]) -> dict:
        """{"src", "tar": uint8 (B, 3, R, R) on the device, "index": int64 (B,) on the host}."""
        length, device = dataset.resolution, self.pixels.device
        draws = [dataset.draw(key) for key in keys]
        places = []
        for key, draw in zip(keys, draws, strict=True):
            width, height = dataset.size_of(key.index)
            offset = self.cache.start_of(dataset.pairs[key.index], (width, height))
            places.append((offset, width * height, *lattice(draw, width, length)))
        start, plane, first, down, across = (
            column.view(-1, 1, 1, 1) for column in torch.tensor(places).to(device, non_blocking=True).unbind(1)
        )
        step = torch.arange(length, device=device)
        channel = torch.arange(3, device=device).view(1, 3, 1, 1)
        source = start + channel * plane + (first + step.view(1, 1, -1, 1) * down + step * across)
        src, tar = self.pixels[source], self.pixels[source + 3 * plane]
        tables = [draw.tables for draw in draws if draw.tables is not None]  # of every draw, or of none
        if tables:
            src = toned(src, torch.from_numpy(np.stack(tables)).to(device, non_blocking=True))
        return {"src": src, "tar": tar, "index": torch.tensor([key.index for key in keys])}

    def frames(self, dataset: EvaluationPairs, batches: list[list[int]]) -> ResidentFrames:
        """What `data.loader.evaluation_loader` makes of the same dataset and batches."""
        return ResidentFrames(self.cache, dataset, batches)


class ResidentFrames:
    """Whole frames in the given batches of indices, each of one frame size; can be iterated again and again."""

    def __init__(self, cache: PairCache, dataset: EvaluationPairs, batches: list[list[int]]):
        self.cache = cache
        self.dataset = dataset
        self.batches = batches

    def __iter__(self) -> Iterator[dict]:
        for batch in self.batches:
            pairs = [self.cache(self.dataset.pairs[index], self.dataset.size_of(index)) for index in batch]
            src, tar = (torch.stack(images) for images in zip(*pairs, strict=True))
            yield {"src": src, "tar": tar, "index": torch.tensor(batch)}
