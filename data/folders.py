"""A folder -> the photos in and below it, and whatever was left out, with the reason. Every script that is given a folder looks
through it in this way. Opens no image.

Files are told by their endings. Folders that a NAS, a camera's card or a system makes hold thumbnails, snapshots and what was
deleted: they are not entered, nor are hidden ones. A linked folder is entered, and every real folder once: a loop of links ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.files import visible_folders, write_csv
from common.lists import SHOWN
from common.log import RunLog
from data.decoding.heif import HEIF_ENDINGS
from data.decoding.raw import RAW_ENDINGS
from data.decoding.unread import READ_KINDS

JPEG_ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"})
PLAIN_ENDINGS = JPEG_ENDINGS | {".png", ".tif", ".tiff", ".webp", ".bmp", ".avif"}
PHOTO_ENDINGS = PLAIN_ENDINGS | HEIF_ENDINGS | RAW_ENDINGS
LEFT_OUT = "left_out.csv"
HEAD = b"path,reason\n"


class LeftOut(NamedTuple):
    """path: below the folder that was named, POSIX, a folder's with a / behind; bytes that are not UTF-8 as escapes."""

    path: str
    reason: str


def photos_below(base: Path, skip: Path | None = None) -> tuple[list[Path], list[LeftOut]]:
    """The photo files below `base`, but not in `skip`, folder by folder, sorted; and what else is there, sorted by path.

    Raises InputError when `base` itself cannot be listed.
    """
    photos, left_out = [], []
    unentered: list[tuple[Path, str]] = []
    for folder, names in visible_folders(base, skip, unentered):
        for name in names:
            reason = why_no_photo(folder / name)
            if reason is None:
                photos.append(folder / name)
            else:
                left_out.append(LeftOut(readable(folder / name, base), reason))
    left_out += [LeftOut(readable(folder, base) + "/", reason) for folder, reason in unentered]
    return photos, sorted(left_out)


def why_no_photo(path: Path) -> str | None:
    """Why a file of a folder is not taken for a photo, by its name and kind of file; None when it is."""
    suffix = path.suffix.lower()
    if path.name.startswith("._"):
        return "macOS side data (AppleDouble), not an image"
    if path.name.startswith("."):
        return "a hidden file"
    if suffix not in PHOTO_ENDINGS:
        return f"{suffix or 'a file without an ending'} is not read ({READ_KINDS} are)"
    try:
        is_file = path.is_file()
    except OSError:
        is_file = False
    return None if is_file else "not a regular file, or its link leads nowhere"


def readable(path: Path, base: Path) -> str:
    """`path` relative to `base`, as `escaped` writes it."""
    return escaped(path.relative_to(base).as_posix())


def escaped(name: str) -> str:
    """A file's name as JSON and CSV can hold it: bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def report_left_out(left_out: Sequence[LeftOut], folder: Path, log: RunLog) -> None:
    """Name what was left out: up to five in the log, all of them in `folder`/left_out.csv.

    The list of an earlier run is replaced, or removed where nothing is left out; somebody else's file of that name stays.
    """
    path, where = folder / LEFT_OUT, ""
    if path.exists() and not path.read_bytes().startswith(HEAD):
        log(f"⚠️  {path} is no list of this toolkit and stays as it is")
    elif left_out:
        write_csv(path, list(LeftOut._fields), (entry._asdict() for entry in left_out))
        where = f", each with the reason in {path}"
    else:
        path.unlink(missing_ok=True)
    if not left_out:
        return
    log(f"Left out: {len(left_out)} files and folders{where}")
    for entry in left_out[:SHOWN]:
        log(f"  {entry.path}: {entry.reason}")
    if len(left_out) > SHOWN:
        log(f"  ... and {len(left_out) - SHOWN} more")
