"""Pairs -> the same pairs with digests, sizes and looks (perceptual hash, tone print) in their rows.

Each image is read and decoded once. Digest of an image: sha256 of `WxH:` and its RGB8 bytes after the image semantics, so
that a copy in another container or with other metadata is still found. Digest of a set of rows: sha256 over the sorted
digests of the rows. `data/perceptual.py` says what a look is, `data/lookalikes.py` finds the rows that look the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import Faults, InputError
from common.memory import usable_cpus
from common.workers import in_threads
from data.config import MIN_SIDE
from data.decoding.raw import is_raw
from data.images import decode_bytes, decoder_of, read_file
from data.manifest import Pair
from data.perceptual import Look, look_of, look_of_texts, text_of_hash, text_of_tone

UNUSABLE = ("images that cannot be used", "Repair these images or remove their rows.")
RAW_FRAME = (
    "; a raw file is developed to the camera's whole frame: export the other photo uncropped and at full size, or let "
    "prepare_fivek_robust.py make the pairs, which trims borders and scales"
)
DIGESTS = ("src_sha256", "tar_sha256", "src_file_sha256", "tar_file_sha256")  # of a row
DIGEST_FIELDS = ("sha256", "file_sha256", "bytes", "mtime_ns")


@dataclass(frozen=True)
class ImagePrint:
    """What identifies an image: digests of pixels and file, its look, size, file size and time."""

    sha256: str
    file_sha256: str
    look: Look
    width: int
    height: int
    bytes: int
    mtime_ns: int


def fingerprint_pairs(pairs: list[Pair], known: Iterable[Pair] = ()) -> list[Pair]:
    """Give each pair's row the fields of `row_fields`, in the order of `pairs`.

    Files whose path, size and mtime stand with this decoder in the row itself, or in a row of `known`, are not read.
    A thread for each CPU of this process. A progress bar is shown on a terminal only.

    Raises InputError with all bad rows: broken images, pairs of two sizes, images under 11 pixels; Stopped.
    """
    prints: dict[Path, ImagePrint] = {}
    for pair in (*known, *pairs):
        for role, path in (("src", pair.src_path), ("tar", pair.tar_path)):
            recorded = _recorded_print(pair, role)
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
            hint = RAW_FRAME if is_raw(pair.src_path) != is_raw(pair.tar_path) else ""
            faults.add(pair.where, f"{pair.src} and {pair.tar}: {fault}{hint}")
    faults.raise_if_any(*UNUSABLE)
    return [
        dataclasses.replace(
            pair,
            row=pair.row
            | row_fields(prints[pair.src_path], prints[pair.tar_path], decoder_of(pair.src_path, pair.tar_path)),
        )
        for pair in pairs
    ]


def _recorded_print(pair: Pair, role: str) -> ImagePrint | None:
    """The print of one image as `row_fields` wrote it; None when a field lacks, or is of another type or decoder."""
    row = pair.row
    values: dict[str, Any] = {name: row.get(f"{role}_{name}") for name in DIGEST_FIELDS}
    values |= {name: row.get(name) for name in ("width", "height")}
    texts = all(isinstance(values[name], str) for name in ("sha256", "file_sha256"))
    numbers = all(type(values[name]) is int for name in ("bytes", "mtime_ns", "width", "height"))
    decoder = decoder_of(pair.src_path, pair.tar_path)
    if row.get("decoder") != decoder or not has_look(row, role) or not texts or not numbers:
        return None
    return ImagePrint(**values, look=look_of_row(row, role))


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
    return ImagePrint(_pixel_digest(image), file_digest, look_of(image), width, height, len(content), mtime_ns)


def _pixel_digest(image: np.ndarray) -> str:
    digest = hashlib.sha256(f"{image.shape[1]}x{image.shape[0]}:".encode())
    digest.update(image.data)
    return digest.hexdigest()


def row_fields(src: ImagePrint, tar: ImagePrint, decoder: str) -> dict[str, str | int | None]:
    """The fields that a row carries about its two images, which have one size; decoder: `decoder_of` their files."""
    fields: dict[str, str | int | None] = {}
    for name in DIGEST_FIELDS:
        fields |= {"src_" + name: getattr(src, name), "tar_" + name: getattr(tar, name)}
    for role, image in (("src", src), ("tar", tar)):
        fields |= {f"{role}_phash": text_of_hash(image.look.phash), f"{role}_tone": text_of_tone(image.look.tone)}
    return fields | {"width": src.width, "height": src.height, "decoder": decoder}


def has_look(row: dict, role: str) -> bool:
    """Whether a row carries the look of its `src` or `tar`; rows of earlier versions have a perceptual hash alone."""
    try:
        look_of_texts(row[f"{role}_phash"], row[f"{role}_tone"])
    except (KeyError, ValueError):
        return False
    return True


def is_current(row: dict) -> bool:
    """Whether a row carries what `row_fields` of today writes: digests and looks, by the decoders that are installed."""
    named = all(isinstance(row.get(name), str) for name in ("src", "tar", *DIGESTS))
    return (
        named
        and row.get("decoder") == decoder_of(row["src"], row["tar"])
        and all(has_look(row, role) for role in ("src", "tar"))
    )


def look_of_row(row: dict, role: str) -> Look:
    """The look of `src` or `tar` that `row_fields` wrote; of a row of an earlier version the perceptual hash alone."""
    phash, tone = row[f"{role}_phash"], row.get(f"{role}_tone")
    return Look(int(phash, 16), None) if tone is None and phash is not None else look_of_texts(phash, tone)


def row_digest(row: dict) -> str:
    """sha256 over the pixel digests of src and tar of a row that has them."""
    return hashlib.sha256(f"{row['src_sha256']}:{row['tar_sha256']}".encode()).hexdigest()


def set_digest(rows: Iterable[dict]) -> str:
    """sha256 over the sorted digests of `rows`: the same for the same photos in any order."""
    return hashlib.sha256("\n".join(sorted(row_digest(row) for row in rows)).encode()).hexdigest()
