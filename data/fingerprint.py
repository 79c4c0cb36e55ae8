"""Pairs -> the same pairs with digests, sizes and perceptual hashes in their rows; and the rows that look the same.

Each image is read and decoded once. Digest of an image: sha256 of `WxH:` and its RGB8 bytes after the image semantics, so
that a copy in another container or with other metadata is still found. Digest of a set of rows: sha256 over the sorted
digests of the rows. Perceptual hash (pHash): the signs of the 8 x 8 lowest DCT frequencies of a 32 x 32 luma against their
median (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, section 3.2.1).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from common.errors import Faults, InputError
from common.memory import usable_cpus
from common.workers import in_threads
from data.config import MIN_SIDE
from data.images import DECODER, decode_bytes, read_file
from data.manifest import Pair

UNUSABLE = ("images that cannot be used", "Repair these images or remove their rows.")
ROW_FIELDS = ("sha256", "file_sha256", "bytes", "mtime_ns", "phash")

LUMA_LENGTH = 32
KEPT = 8
DCT = np.cos(np.pi * np.outer(np.arange(KEPT), 2 * np.arange(LUMA_LENGTH) + 1) / (2 * LUMA_LENGTH))
FLAT_STD = 2.0  # in 8-bit codes; below it the signs are those of noise
MAX_BITS = 6
MOST_ALIKE = 20  # earlier rows that a row is listed with
TILE = 2**20  # hashes compared at a time: as many as the caches of a CPU hold


@dataclass(frozen=True)
class ImagePrint:
    """What identifies an image: digests of pixels and file, perceptual hash (None: flat), size, file size and time."""

    sha256: str
    file_sha256: str
    phash: int | None
    width: int
    height: int
    bytes: int
    mtime_ns: int


def fingerprint_pairs(pairs: list[Pair], known: Iterable[Pair] = ()) -> list[Pair]:
    """Give each pair's row the fields of `row_fields`, in the order of `pairs`.

    Files whose path, size and mtime stand with this DECODER in the row itself, or in a row of `known`, are not read.
    A thread for each CPU of this process. A progress bar is shown on a terminal only.

    Raises InputError with all bad rows: broken images, pairs of two sizes, images under 11 pixels; Stopped.
    """
    prints: dict[Path, ImagePrint] = {}
    for pair in (*known, *pairs):
        for role, path in (("src", pair.src_path), ("tar", pair.tar_path)):
            recorded = _recorded_print(pair.row, role)
            if recorded is not None:
                prints[path] = recorded
    # Every image once, in order of appearance: a tar may belong to several srcs.
    paths = dict.fromkeys(path for pair in pairs for path in (pair.src_path, pair.tar_path))
    todo = [path for path in paths if not _is_current(path, prints.get(path))]
    failures: dict[Path, str] = {}
    for path, result in in_threads(fingerprint, todo, usable_cpus(), "Reading images"):
        if isinstance(result, ImagePrint):
            prints[path] = result
        else:
            failures[path] = str(result)
    faults = Faults()
    for pair in pairs:
        broken = [failures[path] for path in (pair.src_path, pair.tar_path) if path in failures]
        for reason in broken:
            faults.add(pair.where, reason)
        if not broken and (fault := _size_fault(prints[pair.src_path], prints[pair.tar_path])):
            faults.add(pair.where, f"{pair.src} and {pair.tar}: {fault}")
    faults.raise_if_any(*UNUSABLE)
    return [
        dataclasses.replace(pair, row={**pair.row, **row_fields(prints[pair.src_path], prints[pair.tar_path])})
        for pair in pairs
    ]


def _recorded_print(row: dict, role: str) -> ImagePrint | None:
    """The print of one image as `row_fields` wrote it; None when a field lacks, is of another type or decoder."""
    values: dict[str, Any] = {name: row.get(f"{role}_{name}") for name in ROW_FIELDS}
    values |= {name: row.get(name) for name in ("width", "height")}
    texts = all(isinstance(values[name], str) for name in ("sha256", "file_sha256"))
    numbers = all(type(values[name]) is int for name in ("bytes", "mtime_ns", "width", "height"))
    if row.get("decoder") != DECODER or f"{role}_phash" not in row or not texts or not numbers:
        return None
    try:
        values["phash"] = None if values["phash"] is None else int(values["phash"], 16)
    except (ValueError, TypeError):
        return None
    return ImagePrint(**values)


def _is_current(path: Path, print_: ImagePrint | None) -> bool:
    if print_ is None:
        return False
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (print_.bytes, print_.mtime_ns)


def decode_unchanged(pair: Pair, role: str) -> np.ndarray:
    """The `src` or `tar` image of a pair with a fingerprint: (H, W, 3) uint8 sRGB.

    Raises InputError naming the file when it cannot be read, or is no longer the photo that the fingerprint is of: a run that
    went on would learn from, or be scored on, something that no digest vouches for.
    """
    path, row = (pair.src_path if role == "src" else pair.tar_path), pair.row
    content = read_file(path)
    image = decode_bytes(content, path)
    same_file = len(content) == row[f"{role}_bytes"] and path.stat().st_mtime_ns == row[f"{role}_mtime_ns"]
    # Another file may hold the same pixels: copied anew, or given other metadata.
    if not same_file and _pixel_digest(image) != row[f"{role}_sha256"]:
        raise InputError(f"{path} changed since this run read it first ({pair.where}): bring the photo back")
    return image


def changed_photos(pairs: Iterable[Pair]) -> list[str]:
    """Files of `pairs` that hold another photo than their fingerprints are of, each with its path; every file is read whole.

    Raises InputError for files that cannot be read, which proves nothing about what they held; Stopped.
    """
    checks = {path: (pair, role) for pair in pairs for role, path in (("src", pair.src_path), ("tar", pair.tar_path))}

    def is_same(path: Path) -> bool:
        (pair, role), content = checks[path], read_file(path)
        if hashlib.sha256(content).hexdigest() == pair.row[f"{role}_file_sha256"]:
            return True
        try:
            return _pixel_digest(decode_bytes(content, path)) == pair.row[f"{role}_sha256"]
        except InputError:
            return False  # damaged since

    changed, faults = [], Faults()
    for path, same in in_threads(is_same, checks, usable_cpus(), "Checking images"):
        if isinstance(same, InputError):
            faults.add(checks[path][0].where, str(same))
        elif not same:
            changed.append(str(path))
    faults.raise_if_any("photos that cannot be read any more", "Bring them back and run the same command again.")
    return sorted(changed)


def _size_fault(src: ImagePrint, tar: ImagePrint) -> str | None:
    if (src.width, src.height) == (tar.width, tar.height):
        small = min(src.width, src.height) < MIN_SIDE
        return f"{src.width}x{src.height} is too small, a side needs {MIN_SIDE} pixels" if small else None
    turned = (src.width, src.height) == (tar.height, tar.width)
    hint = "; one is turned: check the EXIF orientation of both" if turned else ""
    return f"src is {src.width}x{src.height}, but tar is {tar.width}x{tar.height}{hint}"


def fingerprint(path: str | Path) -> ImagePrint:
    """Read and decode one image, once. Raises InputError naming the file."""
    try:
        # Before reading: a file that changes meanwhile then looks changed, and is read again next time.
        mtime_ns = Path(path).stat().st_mtime_ns
    except FileNotFoundError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    return fingerprint_bytes(read_file(path), path, mtime_ns)


def fingerprint_bytes(content: bytes, name: str | Path, mtime_ns: int) -> ImagePrint:
    """`fingerprint` of a file's content; `name` is for messages, `mtime_ns` the time that the file has or will get."""
    image = decode_bytes(content, name)
    height, width = image.shape[:2]
    file_digest = hashlib.sha256(content).hexdigest()
    return ImagePrint(_pixel_digest(image), file_digest, perceptual_hash(image), width, height, len(content), mtime_ns)


def _pixel_digest(image: np.ndarray) -> str:
    digest = hashlib.sha256(f"{image.shape[1]}x{image.shape[0]}:".encode())
    digest.update(image.data)
    return digest.hexdigest()


def row_fields(src: ImagePrint, tar: ImagePrint) -> dict[str, str | int | None]:
    """The fields that a row carries about its two images, which have one size."""
    fields: dict[str, str | int | None] = {}
    for name in ROW_FIELDS:
        fields |= {"src_" + name: getattr(src, name), "tar_" + name: getattr(tar, name)}
    for name in ("src_phash", "tar_phash"):
        # JSON readers outside Python cut whole numbers above 2**53, so the hash is text.
        fields[name] = None if fields[name] is None else f"{fields[name]:016x}"
    return fields | {"width": src.width, "height": src.height, "decoder": DECODER}


def row_digest(row: dict) -> str:
    """sha256 over the pixel digests of src and tar of a row that has them."""
    return hashlib.sha256(f"{row['src_sha256']}:{row['tar_sha256']}".encode()).hexdigest()


def set_digest(rows: Iterable[dict]) -> str:
    """sha256 over the sorted digests of `rows`: the same for the same photos in any order."""
    return hashlib.sha256("\n".join(sorted(row_digest(row) for row in rows)).encode()).hexdigest()


def perceptual_hash(image: np.ndarray) -> int | None:
    """64-bit hash of (H, W, 3) uint8 sRGB; None when the image is flat (luma varies by less than 2 codes)."""
    small = Image.fromarray(image).convert("L").resize((LUMA_LENGTH, LUMA_LENGTH), Image.Resampling.BOX)
    luma = np.asarray(small, dtype=np.float64)
    if luma.std() < FLAT_STD:
        return None
    frequencies = (DCT @ luma @ DCT.T).ravel()
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")


class NearDuplicate(NamedTuple):
    """Two rows by index (first < second), and how many bits their src and tar hashes differ."""

    first: int
    second: int
    src_bits: int
    tar_bits: int


def near_duplicate_rows(rows: list[dict], sides: list[str] | None = None) -> list[NearDuplicate]:
    """Which of `rows`, which carry hashes, look the same in src and in tar, as `near_duplicates` lists them."""
    src_hashes, tar_hashes = (
        [None if row[name] is None else int(row[name], 16) for row in rows] for name in ("src_phash", "tar_phash")
    )
    return near_duplicates(src_hashes, tar_hashes, sides)


def near_duplicates(
    src_hashes: list[int | None], tar_hashes: list[int | None], sides: list[str] | None = None
) -> list[NearDuplicate]:
    """Rows whose src and tar hashes both differ by at most 6 bits, two by two and in order; a flat image is like no other.

    sides: one name a row; only rows of different sides are compared. A row is listed with the first MOST_ALIKE rows before it
    that are like it and, for each cluster that it joins, with one row of it. So thousands of copies make a short list, in which
    every row that is like another one stands, and what hangs together does.
    """
    kept = [row for row, hashes in enumerate(zip(src_hashes, tar_hashes, strict=True)) if None not in hashes]
    numbers = np.array(kept, dtype=np.int64)
    src = np.array([src_hashes[row] for row in kept], dtype=np.uint64)
    tar = np.array([tar_hashes[row] for row in kept], dtype=np.uint64)
    side = None if sides is None else np.array([sides[row] for row in kept])
    cluster = np.arange(len(kept))  # rows that the hits so far link have one number
    step = max(1, TILE // max(1, len(kept)))
    found: list[NearDuplicate] = []
    for start in range(0, len(kept), step):
        stop = min(start + step, len(kept))
        close = np.bitwise_count(src[start:stop, None] ^ src[None, :stop]) <= MAX_BITS
        # Few rows pass this first test, so that the others cost little. Flat: numpy is ten times as fast at it.
        later, earlier = np.divmod(np.flatnonzero(close), stop)
        later += start
        alike = (earlier < later) & (np.bitwise_count(tar[later] ^ tar[earlier]) <= MAX_BITS)
        if side is not None:
            alike &= side[later] != side[earlier]
        later, earlier = later[alike], earlier[alike]
        rows, places = np.unique(later, return_index=True)
        for row, others in zip(rows, np.split(earlier, places)[1:], strict=True):
            listed = _listed(row, others, cluster)
            bits = (np.bitwise_count(hashes[listed] ^ hashes[row]).tolist() for hashes in (src, tar))
            found += map(NearDuplicate, numbers[listed].tolist(), [kept[row]] * len(listed), *bits)
    return sorted(found)


def _listed(row: int, others: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Which of `others`, the rows before `row` that are like it, it is listed with; `cluster` is told that `row` links them."""
    first = cluster[others[0]]
    elsewhere = others[cluster[others] != first]
    joined, places = np.unique(cluster[elsewhere], return_index=True)
    cluster[row] = first
    if len(joined):
        cluster[np.isin(cluster, joined)] = first
    return np.union1d(others[:MOST_ALIKE], elsewhere[places])
