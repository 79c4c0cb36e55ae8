"""Pairs JSONL, or a folder of `*_src.*` and `*_tar.*` images -> Pair objects with resolved paths.

Opens no image and needs no torch.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import Faults, InputError
from common.jsonl import open_input, parse_json, read_jsonl, twin_hint
from data.folders import PLAIN_ENDINGS, READ_KINDS, SHOWN, LeftOut, photos_below

METADATA = "split_metadata.json"
DEFAULT_GROUP_KEY = "group"
UNIT = "unit"  # field of the rows that a split wrote: what it kept together has one value
ROLES = ("src", "tar")
PREFERRED = PLAIN_ENDINGS - {".avif", ".jfif"}
LONG_NAME = {"src": "source", "tar": "target"}
FOLD_NAME = re.compile(r"fold_[0-9]+")

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Pair:
    """One photo as shot (src) and as retouched (tar).

    src, tar: as written in the JSONL. group: what must stay on one side of a split, or None. row: the JSON object.
    file, line: where the row stands (line 0: found in a folder). src_path, tar_path: absolute.
    """

    src: str
    tar: str
    group: str | None
    row: dict
    file: str
    line: int
    src_path: Path
    tar_path: Path

    @property
    def stem(self) -> str:
        """File name of src without folder and suffix."""
        return self.src_path.stem

    @property
    def where(self) -> str:
        """`file:line` for messages; for a pair found in a folder, the name of its src."""
        return f"{self.file}:{self.line}" if self.line else str(Path(self.file) / self.src)


def read_pairs(
    path: str | Path,
    base_dir: str | Path | None = None,
    *,
    group_key: str | None = None,
    warn: Warn | None = None,
    keep_repeated: bool = False,
) -> list[Pair]:
    """Read a pairs JSONL in the order of its lines.

    Relative paths resolve against `base_dir`, else the base directory that split_metadata.json records (beside the
    file, or one folder up from `fold_K`), else the file's folder. The field `group_key` names a row's group; without it, the
    field that the same split_metadata.json records, else `group`. `warn` is called once for each relative path that leaves
    that folder. keep_repeated: a src that stands in several rows is no fault (an audit shows it).

    Raises InputError with all bad rows (`file:line: reason`): bad JSON, missing keys, wrong types, missing images, a row
    twice, one src with two tars; and when the file is missing, not UTF-8 or has no row.
    """
    base = find_base_dir(path, base_dir)
    faults = Faults()
    reader = _RowReader(str(path), base, group_key or find_group_key(path), faults, warn, keep_repeated)
    pairs = [pair for line, row in read_jsonl(path, faults) if (pair := reader.pair(row, line)) is not None]
    faults.raise_if_any(f"{path}: rows that cannot be used")
    if not pairs:
        raise InputError(f'{path} has no rows; write one {{"src": ..., "tar": ...}} a line')
    return pairs


def usable_pairs(path: str | Path, base_dir: str | Path) -> list[Pair]:
    """The rows of `path` that can still be used, without complaint about the others: to reuse digests, nothing else."""
    faults = Faults()
    reader = _RowReader(str(path), Path(base_dir).resolve(), DEFAULT_GROUP_KEY, faults, None)
    return [pair for line, row in read_jsonl(path, faults) if (pair := reader.pair(row, line)) is not None]


def pairs_from_folder(folder: str | Path, skip: str | Path | None = None) -> tuple[list[Pair], list[LeftOut]]:
    """Pair `NAME_src.*` with `NAME_tar.*` in each folder below `folder`, sorted by name; rows hold relative paths. And what else is
    there, but in the output folder `skip`, with the reason why it makes no pair.

    A raw file, HEIC, AVIF or .jfif gives way to another kind of the same name beside it, as a camera writes both. Raises
    InputError that lists every image without its partner and every name with two candidates.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is {'a file, not a folder' if folder.exists() else 'missing'}")
    base = folder.resolve()
    inside = skip is not None and base in Path(skip).resolve().parents
    photos, left_out = photos_below(base, Path(skip) if skip is not None and inside else None)
    candidates: dict[tuple[str, str], dict[str, list[str]]] = {}
    faults = Faults()
    for name in sorted(path.relative_to(base).as_posix() for path in photos):
        if name.encode("utf-8", "ignore").decode("utf-8") != name:
            faults.add(str(folder), f"{name!a}: the name is not UTF-8; rename the file")
            continue
        stem, _, role = Path(name).stem.rpartition("_")
        if stem and role.lower() in ROLES:
            found = candidates.setdefault((str(Path(name).parent), stem), {role: [] for role in ROLES})
            found[role.lower()].append(name)
        else:
            left_out.append(LeftOut(name, "its name ends in neither _src nor _tar"))
    pairs = []
    near = {str(Path(entry.path).with_suffix("")).casefold(): entry for entry in reversed(left_out)}
    for found in candidates.values():
        for role in ROLES:
            found[role], given_way = _preferred(found[role])
            left_out += [LeftOut(name, f"{found[role][0]} beside it is taken") for name in given_way]
        if len(found["src"]) == len(found["tar"]) == 1:
            src, tar = found["src"][0], found["tar"][0]
            pairs.append(Pair(src, tar, None, {"src": src, "tar": tar}, str(folder), 0, base / src, base / tar))
            continue
        missing = next((role for role in ROLES if not found[role]), None)
        names = found["src"] + found["tar"]
        reason = (
            f"no _{missing} image beside it{_near_name(names[0], missing, near)}"
            if missing
            else "which two are a pair?"
        )
        faults.add(str(folder), f"{', '.join(names)}: {reason}")
    faults.raise_if_any(f"{folder}: images that make no pair")
    if not pairs:
        told = "".join(f"\n  {entry.path}: {entry.reason}" for entry in left_out[:SHOWN])
        more = f"\n  ... and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
        raise InputError(f"{folder} holds no NAME_src.* and NAME_tar.* photos ({READ_KINDS}){told}{more}")
    return pairs, sorted(left_out)


def _preferred(names: list[str]) -> tuple[list[str], list[str]]:
    """The files to choose from, and those that give way to them."""
    plain = [name for name in names if Path(name).suffix.lower() in PREFERRED]
    return (plain, [name for name in names if name not in plain]) if plain else (names, [])


def _near_name(name: str, missing: str, near: dict[str, LeftOut]) -> str:
    """What was left out, but may be the partner of `name`: of an ending that is not read. near: by name, small, without ending."""
    found = near.get(f"{name.rpartition('_')[0]}_{missing}".casefold())
    return f", but {found.path}: {found.reason}" if found else ""


def find_base_dir(path: str | Path, base_dir: str | Path | None = None) -> Path:
    """The absolute folder against which relative paths in the JSONL `path` resolve; InputError when it is no folder."""
    if base_dir is not None:
        base, source = Path(base_dir), "--base_dir"
    else:
        base, source = Path(path).absolute().parent, f"folder of {Path(path).absolute()}"
        if metadata := _metadata_beside(path):
            base, source = metadata.parent / read_metadata(metadata)["base_dir"], f"base_dir of {metadata}"
    if not base.is_dir():
        raise InputError(
            f"{source} {base} is {'not a folder' if base.exists() else 'missing'}; name the folder with --base_dir"
        )
    return base.resolve()


def find_group_key(path: str | Path) -> str:
    """The row field by which the split that the JSONL `path` belongs to keeps rows together; `group` where none is recorded."""
    metadata = _metadata_beside(path)
    try:
        groups = read_metadata(metadata).get("groups") if metadata else None
    except InputError:
        return DEFAULT_GROUP_KEY  # --base_dir does without that file, and find_base_dir has told everyone else
    key = groups.get("key") if isinstance(groups, dict) else None
    return key if isinstance(key, str) and key else DEFAULT_GROUP_KEY


def _metadata_beside(path: str | Path) -> Path | None:
    """The split_metadata.json that the JSONL `path` belongs to, or None."""
    here = Path(path).absolute().parent
    # One folder up only from fold_K: a dataset may lie in a folder beside somebody's splits.
    folders = (here, here.parent) if FOLD_NAME.fullmatch(here.name) else (here,)
    return next((folder / METADATA for folder in folders if (folder / METADATA).is_file()), None)


def read_metadata(path: Path) -> dict:
    """The content of a split_metadata.json; InputError when it is no JSON object with a `base_dir`."""
    with open_input(path) as handle:
        try:
            metadata = parse_json(handle.read().decode("utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({error}); run create_data_splits.py again") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("base_dir"), str):
        raise InputError(f"{path} has no base_dir; run create_data_splits.py again")
    return metadata


class _RowReader:
    """Turns the objects of one JSONL into pairs; remembers what it has seen, to find rows that stand twice."""

    def __init__(
        self,
        file: str,
        base: Path,
        group_key: str,
        faults: Faults,
        warn: Warn | None,
        keep_repeated: bool = False,
    ):
        self.file, self.base, self.group_key, self.faults, self.warn = file, base, group_key, faults, warn
        self.keep_repeated = keep_repeated
        self._first_of_src: dict[Path, tuple[Path, int]] = {}  # tar and line where a src stands first
        self._real_folders: dict[str, Path] = {}

    def pair(self, row: dict, line: int) -> Pair | None:
        """The row as a Pair, or None after its faults have been noted."""
        where = f"{self.file}:{line}"
        before = self.faults.count
        src_path, tar_path = (self._path(row, key, where) for key in ("src", "tar"))
        group = row.get(self.group_key)
        if isinstance(group, bool) or not isinstance(group, (str, int, type(None))) or group == "":
            self.faults.add(where, f"{self.group_key} must be a name or a whole number, not {json.dumps(group)[:40]}")
        if self.faults.count > before or src_path is None or tar_path is None:
            return None
        first_tar, first_line = self._first_of_src.setdefault(src_path, (tar_path, line))
        repeated = first_line != line and not self.keep_repeated
        if repeated and first_tar == tar_path:
            self.faults.add(where, f"the same src and tar as line {first_line}; remove one of the rows")
        elif repeated:
            self.faults.add(where, f"the same src as line {first_line} with another tar; keep the tar that you want")
        name = None if group is None else str(group)
        return Pair(row["src"], row["tar"], name, row, self.file, line, src_path, tar_path)

    def _path(self, row: dict, key: str, where: str) -> Path | None:
        reason = _text_fault(row, key)
        if reason:
            self.faults.add(where, reason)
            return None
        folder, slash, name = row[key].rpartition("/")
        if folder + slash not in self._real_folders:
            # Resolved once a folder, not once a file: a manifest may have a hundred thousand rows.
            self._real_folders[folder + slash] = Path(os.path.realpath(self.base / (folder + slash)))
        path = self._real_folders[folder + slash] / name
        reason = _missing(path, row[key])
        if reason:
            self.faults.add(where, f"{key} {reason}")
        elif self.warn and not row[key].startswith("/") and not path.is_relative_to(self.base):
            self.warn(f"{where}: {key} {row[key]!r} lies outside the base directory {self.base}")
        return path


def _text_fault(row: dict, key: str) -> str | None:
    """What is wrong with the text under `key`, or None."""
    if key not in row:
        near = {name.lower(): name for name in row if name not in ("src", "tar", "group")}
        close = [name for wanted in (LONG_NAME[key], key) for name in difflib.get_close_matches(wanted, near, 1)]
        return f"no key {key!r}" + (f" (did you mean {near[close[0]]!r}?)" if close else f"; keys: {sorted(row)}")
    if not isinstance(row[key], str):
        return f"{key} must be a path in quotes, not {json.dumps(row[key])[:40]}"
    if not row[key].strip():
        return f"{key} is empty"
    try:
        os.fsencode(row[key])
    except UnicodeEncodeError:
        name = sys.getfilesystemencoding()
        return f"{key} {row[key]!a} cannot be a file name in the locale's encoding ({name}); set LC_ALL=C.UTF-8"
    return f"{key} holds a NUL character" if "\0" in row[key] else None


def _missing(path: Path, written: str) -> str | None:
    """Why `path` is no file, or None when it is one."""
    try:
        if path.is_file():
            return None
        exists = path.exists()
    except (OSError, RuntimeError) as error:
        return f"{written!r} cannot be used as a path: {error}"
    if exists:
        return f"{path} is {'a folder' if path.is_dir() else 'no regular file'}, not an image"
    if written.startswith("~"):
        return f"{written!r} does not exist; write the home folder out, '~' is not expanded"
    if "\\" in written or re.match(r"[A-Za-z]:", written):
        return f"{written!r} does not exist; it looks like a Windows path: use / and a path of this machine"
    return f"{path} does not exist{twin_hint(path)}"
