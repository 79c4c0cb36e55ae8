"""Folder with a copy of FiveK -> every image file in it, with its photo and side of the pair; licence lists. Opens no image.

The 5000 photos are called `aNNNN-<camera name>`, each id once; what follows the id is not unique. Copies found on disk
differ in folder names and endings (`_input`, `.tif_GT`, `_C`), write `%20` for spaces, or keep the id alone. The side of a
file is what its own ending says, else the deepest folder above it that names one, else (a raw file) input. A `pairs.jsonl` at
the top decides for the files it lists.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from common.errors import Faults, InputError
from common.files import visible_folders
from common.jsonl import read_jsonl
from data.decoding.raw import is_raw
from data.folders import PHOTO_ENDINGS, escaped, readable, why_no_photo

LICENCE_LISTS = {"filesadobe.txt": "LicenseAdobe", "filesadobemit.txt": "LicenseAdobeMIT"}
PAIRS = "pairs.jsonl"
LONGEST_NAME = 200  # bytes: `_src.jpg` must still fit into 255, and lower case may be longer

INPUT, TARGET = "input", "target"
SIDE_ENDINGS = {"_input": INPUT, "_src": INPUT, "_gt": TARGET, "_output": TARGET, "_tar": TARGET, "_target": TARGET}
FORMAT_ENDING = re.compile(r"\.(tiff?|dng|jpe?g|png)$")
EXPERT_ENDING = re.compile(r"_([a-e])$")
FIVEK = re.compile(r"(a\d{4})(?:[-_ ](.*))?", re.DOTALL)

INPUT_FOLDERS = frozenset({"raw", "raws", "rawphotos", "dng", "dngs", "source", "sources", "src"})
TARGET_FOLDERS = frozenset({"output", "outputs", "target", "targets", "tar", "gt", "groundtruth", "expert", "experts"})
EXPERT_FOLDER = re.compile(r"(?:expert|tiff16|tiff8|fivek)([a-e])$")


class Side(NamedTuple):
    """INPUT or TARGET; for a target, the expert "A" to "E" when the name says which."""

    side: str
    expert: str | None = None


class PhotoName(NamedTuple):
    """key: what pairs match by, `aNNNN` or else the whole name. name: the camera's part of a FiveK name, if present.

    side: what the ending of the file name says about it, or None.
    """

    key: str
    name: str | None
    side: Side | None


@dataclass(frozen=True)
class SourceFile:
    """path: relative to the folder that was searched, POSIX. suffix: lower case. size in bytes."""

    path: str
    suffix: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class SidedFile:
    """A file whose photo and side are known. key and name: as in PhotoName, but a pairs.jsonl may decide about the key."""

    file: SourceFile
    key: str
    name: str | None
    side: Side


@dataclass
class Scan:
    """What lies in the folder. refused, ignored, and others, which are no images: (path, reason).

    folders: per folder, how many files of what kind.

    licences: key of each photo that a licence list names -> the licence.
    """

    files: list[SidedFile] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)
    folders: dict[str, Counter] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)


def scan_folder(fivek_dir: str | Path, skip: Path) -> Scan:
    """Look through `fivek_dir`, leaving out what lies in `skip`.

    Raises InputError when it is no folder, or when its pairs.jsonl has bad rows.
    """
    root = Path(fivek_dir)
    if not root.is_dir():
        raise InputError(
            f"--fivek_dir {root} is {'a file, not a folder' if root.exists() else 'missing'}; name the folder that holds "
            "the FiveK photos"
        )
    scan = Scan()
    listed = _listed_sides(root)
    unentered: list[tuple[Path, str]] = []
    for folder, names in visible_folders(root, skip, unentered):
        relative = folder.relative_to(root)
        side = None
        for part in relative.parts:
            side = _nearer(side_of_folder(part), side)
        for name in names:
            if name.lower() in LICENCE_LISTS:
                text = (folder / name).read_text(encoding="utf-8", errors="replace")
                scan.licences |= dict.fromkeys(listed_keys(text), LICENCE_LISTS[name.lower()])
            elif Path(name).suffix.lower() in PHOTO_ENDINGS:
                _sort_in(scan, folder / name, (relative / name).as_posix(), side, listed)
            elif name != PAIRS:
                scan.others.append((readable(folder / name, root), why_no_photo(folder / name) or ""))
        if relative.suffix.lower() in PHOTO_ENDINGS:
            scan.ignored.append((readable(folder, root), "a folder, not an image"))
    scan.others += [(readable(folder, root) + "/", reason) for folder, reason in unentered]
    return scan


def _listed_sides(root: Path) -> dict[str, tuple[Side, str]]:
    """Path -> (side, key) for the files that a pairs.jsonl at the top lists, as {input, target} or {src, tar}."""
    path = root / PAIRS
    if not path.is_file():
        return {}
    faults = Faults()
    listed: dict[str, tuple[Side, str]] = {}
    for line, row in read_jsonl(path, faults):
        names: list[Any] = [row.get(long, row.get(short)) for long, short in (("input", "src"), ("target", "tar"))]
        if not all(isinstance(name, str) and name for name in names):
            faults.add(f"{path}:{line}", 'needs "input" and "target", each a path')
            continue
        names = [os.path.normpath(name) for name in names]
        for name, side in zip(names, (INPUT, TARGET), strict=True):
            if not (root / name).is_file():
                faults.add(f"{path}:{line}", f"{side} {name} does not exist below {root}")
            listed[name] = (Side(side), parse_file_name(PurePosixPath(names[0]).stem).key)
    faults.raise_if_any(f"{path}: rows that cannot be used")
    return listed


def _sort_in(
    scan: Scan, location: Path, path: str, folder_side: Side | None, listed: dict[str, tuple[Side, str]]
) -> None:
    """Note one image file, at `path` below the searched folder, as usable, refused or ignored."""
    name = PurePosixPath(path).name
    if name.startswith("._"):
        scan.ignored.append((escaped(path), "macOS side data (AppleDouble), not an image"))
        return
    if reason := why_no_photo(location):
        (scan.others if name.startswith(".") else scan.refused).append((escaped(path), reason))
        return
    status = location.stat()
    if escaped(path) != path or len(os.fsencode(name)) > LONGEST_NAME:
        reason = "the path is not UTF-8" if escaped(path) != path else f"a name of more than {LONGEST_NAME} bytes"
        scan.refused.append((escaped(path), f"{reason}; rename it"))
        return
    photo = parse_file_name(PurePosixPath(path).stem)
    suffix = PurePosixPath(path).suffix.lower()
    counts = scan.folders.setdefault(PurePosixPath(path).parent.as_posix(), Counter())
    if "xyz" in path.lower() and suffix == ".png":
        counts["16-bit XYZ"] += 1
        scan.refused.append((path, "16-bit XYZ values, not RGB; use the JPG folder beside it"))
        return
    side: Side | None
    if path in listed:
        side, key = listed[path]
    else:
        side, key = _nearer(photo.side, folder_side) or (Side(INPUT) if is_raw(path) else None), photo.key
    if side is None:
        counts["unknown"] += 1
        scan.ignored.append((path, "neither its name nor a folder above it says input or expert"))
        return
    counts[side.side if side.expert is None else f"expert {side.expert}"] += 1
    file = SourceFile(path, suffix, status.st_size, status.st_mtime_ns)
    scan.files.append(SidedFile(file, key, photo.name, side))


def _nearer(near: Side | None, far: Side | None) -> Side | None:
    """The nearer name wins; the expert may stand in the farther one (`expertC/output/`)."""
    if near is None or far is None:
        return near or far
    return far if near == Side(TARGET) and far.side == TARGET else near


def listed_keys(text: str) -> set[str]:
    """The keys in a list with one id or file name a line; blank lines are skipped."""
    return {parse_file_name(line.strip()).key for line in text.splitlines() if line.strip()}


def side_of_folder(name: str) -> Side | None:
    """What the name of one folder says about the files below it, or None."""
    text = re.sub(r"[^a-z0-9]", "", name.casefold())
    if text in INPUT_FOLDERS or "input" in text or "original" in text:
        return Side(INPUT)
    expert = EXPERT_FOLDER.search(text) or re.fullmatch("([a-e])", text)
    if expert is not None:
        return Side(TARGET, expert[1].upper())
    return Side(TARGET) if text in TARGET_FOLDERS or "label" in text else None


def parse_file_name(stem: str) -> PhotoName:
    """Read a file name without its last suffix. Known endings are cut off until none is left; the last one names the side."""
    plain = unquote(stem)
    # A slash can stand in no file name: `%2F` there is not an escape.
    text = unicodedata.normalize("NFC", stem if "/" in plain or "\0" in plain else plain).casefold()
    side = None
    while True:
        ending = next((ending for ending in SIDE_ENDINGS if text.endswith(ending) and text != ending), None)
        match = FIVEK.fullmatch(text)
        # Only behind a FiveK id: `kitchen_a` and `kitchen_b` are two photos.
        expert = EXPERT_ENDING.search(text) if match else None
        if ending:
            side, text = side or Side(SIDE_ENDINGS[ending]), text.removesuffix(ending)
        elif expert:
            side, text = side or Side(TARGET, expert[1].upper()), text[: expert.start()]
        elif FORMAT_ENDING.search(text) and not FORMAT_ENDING.fullmatch(text):
            text = FORMAT_ENDING.sub("", text)
        else:
            return PhotoName(text, None, side) if match is None else PhotoName(match[1], match[2] or None, side)
