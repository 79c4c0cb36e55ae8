"""Folder with a copy of FiveK -> every image file in it, with photo and side; licence lists. Opens no image.

The layouts found on disk differ in folder names and endings; the side of a file is what its own ending says, else the
deepest folder above it that names one, else (DNG) input. A `pairs.jsonl` at the top decides for the files it lists.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data.errors import DataError
from data.faults import Faults
from data.fivek_names import INPUT, TARGET, PhotoName, Side, parse_file_name, side_of_folder
from data.jsonl import read_jsonl
from data.walk import visible_folders

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".dng", ".webp"})
LICENCE_LISTS = {"filesadobe.txt": "LicenseAdobe", "filesadobemit.txt": "LicenseAdobeMIT"}
PAIRS = "pairs.jsonl"
LONGEST_NAME = 200  # bytes; `_src.jpg` and the mark of a temporary file must still fit into 255


@dataclass(frozen=True)
class SourceFile:
    """path: relative to the folder that was searched, POSIX. suffix: lower case. size in bytes."""

    path: str
    suffix: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class SidedFile:
    """A file whose photo and side are known."""

    file: SourceFile
    name: PhotoName
    side: Side


@dataclass
class Scan:
    """What lies in the folder. refused and ignored: (path, reason). folders: per folder, how many files of what kind."""

    files: list[SidedFile] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    folders: dict[str, Counter] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    licence_lists: list[str] = field(default_factory=list)


def scan_folder(fivek_dir: str | Path, skip: Path) -> Scan:
    """Look through `fivek_dir`, leaving out what lies in `skip`.

    Raises DataError when it is no folder, or when its pairs.jsonl has bad rows.
    """
    root = Path(fivek_dir)
    if not root.is_dir():
        raise DataError(
            f"--fivek_dir {root} is {'a file, not a folder' if root.exists() else 'missing'}; name the folder that holds "
            "the FiveK photos"
        )
    scan = Scan()
    listed = _listed_sides(root)
    for folder, names in visible_folders(root, skip):
        relative = folder.relative_to(root)
        side = _side_of_path(relative)
        for name in names:
            if name.lower() in LICENCE_LISTS:
                _read_licences(folder / name, scan)
            elif Path(name).suffix.lower() in SUFFIXES:
                _sort_in(scan, folder, relative, name, side, listed)
        if relative.suffix.lower() in SUFFIXES:
            scan.ignored.append((readable(relative.as_posix()), "a folder, not an image"))
    return scan


def readable(path: str) -> str:
    """A path that JSON and CSV can hold: bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _sort_in(
    scan: Scan, folder: Path, relative: Path, name: str, side: Side | None, listed: dict[str, tuple[str, str]]
) -> None:
    path = (relative / name).as_posix()
    counts = scan.folders.setdefault(relative.as_posix(), Counter())
    status = _status(folder / name)
    if name.startswith("."):
        if name.startswith("._"):
            scan.ignored.append((readable(path), "macOS side data (AppleDouble), not an image"))
        return
    if status is None:
        scan.refused.append((readable(path), "not a regular file, or its link leads nowhere"))
        return
    if readable(path) != path or len(os.fsencode(name)) > LONGEST_NAME:
        reason = "the path is not UTF-8" if readable(path) != path else f"a name of more than {LONGEST_NAME} bytes"
        scan.refused.append((readable(path), f"{reason}; rename it"))
        return
    photo = parse_file_name(PurePosixPath(name).stem)
    suffix = PurePosixPath(name).suffix.lower()
    if "xyz" in path.lower() and suffix == ".png":
        counts["16-bit XYZ"] += 1
        scan.refused.append((path, "16-bit XYZ values, not RGB; use the JPG folder beside it"))
        return
    if path in listed:
        side, photo = Side(listed[path][0]), photo._replace(key=listed[path][1])
    else:
        side = _decide(photo.side, side) or (Side(INPUT) if suffix == ".dng" else None)
    if side is None:
        counts["unknown"] += 1
        scan.ignored.append((path, "neither its name nor a folder above it says input or expert"))
        return
    counts[side.side if side.expert is None else f"expert {side.expert}"] += 1
    scan.files.append(SidedFile(SourceFile(path, suffix, status.st_size, status.st_mtime_ns), photo, side))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat() if path.is_file() else None
    except OSError:
        return None


def _side_of_path(relative: Path) -> Side | None:
    side = None
    for name in relative.parts:
        side = _decide(side_of_folder(name), side)
    return side


def _decide(near: Side | None, far: Side | None) -> Side | None:
    """The nearer name wins; the expert may stand in the farther one (`expertC/output/`)."""
    if near is None or far is None:
        return near or far
    return far if near == Side(TARGET) and far.side == TARGET else near


def _read_licences(path: Path, scan: Scan) -> None:
    scan.licence_lists.append(path.name)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip():
            scan.licences[parse_file_name(line.strip()).key] = LICENCE_LISTS[path.name.lower()]


def _listed_sides(root: Path) -> dict[str, tuple[str, str]]:
    """Path -> (side, key) for the files that a pairs.jsonl at the top lists, as {input, target} or {src, tar}."""
    path = root / PAIRS
    if not path.is_file():
        return {}
    faults = Faults()
    listed: dict[str, tuple[str, str]] = {}
    for line, row in read_jsonl(path, faults):
        names = [row.get(long, row.get(short)) for long, short in (("input", "src"), ("target", "tar"))]
        if not all(isinstance(name, str) and name for name in names):
            faults.add(f"{path}:{line}", 'needs "input" and "target", each a path')
            continue
        names = [os.path.normpath(name) for name in names]
        for name, side in zip(names, (INPUT, TARGET), strict=True):
            if not (root / name).is_file():
                faults.add(f"{path}:{line}", f"{side} {name} does not exist below {root}")
            listed[name] = (side, parse_file_name(PurePosixPath(names[0]).stem).key)
    faults.raise_if_any(f"{path}: rows that cannot be used")
    return listed
