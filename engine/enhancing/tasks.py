"""Files and folders that a user names -> the photos to enhance, each with the name of its result, and whether that is done.

What a result was made with stands in OUTPUT/sheet/NAME.json, which is written before it: results of other settings are refused.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from common.errors import Faults, InputError
from common.exits import flagged
from common.jsonl import parse_json
from common.lists import SHOWN
from data.decoding.unread import READ_KINDS
from data.folders import LeftOut, photos_below
from data.images import decode, read_file
from data.photo_files import KINDS
from engine.enhancing.sheet import SHEET, SHEET_IMAGE, picture_path

LONGEST_NAME = 235  # of 255 bytes: the rest is for the endings of its result and of its part of the contact sheet


@dataclass(frozen=True)
class PhotoTask:
    """A photo and its place below the folder that was named, which its result keeps; without the ending."""

    path: Path
    name: Path

    @property
    def folded(self) -> str:
        """Equal for names that some file system takes for one: not all distinguish upper and lower case."""
        return str(self.name).casefold()


def list_photos(inputs: Sequence[Path], output_dir: Path) -> tuple[list[PhotoTask], list[LeftOut]]:
    """Photos in the order of `inputs`, folders searched to the bottom, without `output_dir`; and what else lay there.

    Raises InputError naming every input that does not exist or is `output_dir`, and every two photos whose results would have
    one name; and when there is no photo.
    """
    tasks: list[PhotoTask] = []
    others: list[LeftOut] = []
    faults = Faults()
    for given in inputs:
        with flagged("--input", given):
            if os.path.realpath(given) == os.path.realpath(output_dir):
                faults.add(f"--input {given}", "is the --output folder too; name another --output")
            elif given.is_dir():
                photos, left_out = photos_below(given, output_dir)
                others += [LeftOut((given / entry.path).as_posix(), entry.reason) for entry in left_out]
                tasks += [PhotoTask(path, path.relative_to(given).with_suffix("")) for path in photos]
            elif given.exists():
                tasks.append(PhotoTask(given, Path(given.stem)))
            else:
                faults.add(f"--input {given}", "does not exist")
    once: dict[tuple[str, Path], PhotoTask] = {}  # a photo may lie in a folder of the inputs and be named besides
    for task in tasks:
        once.setdefault((os.path.realpath(task.path), task.name), task)
    # Photos of one name but different endings (a camera's DNG and JPEG) get the ending into the name: P1_dng, P1_jpg.
    count = Counter(task.folded for task in once.values())
    tasks = [
        PhotoTask(task.path, task.name.with_name(task.path.name.replace(".", "_"))) if count[task.folded] > 1 else task
        for task in once.values()
    ]
    taken: dict[str, Path] = {}
    for task in tasks:
        other = taken.setdefault(task.folded, task.path)
        if other != task.path:
            faults.add(str(task.path), f"its result would have the name of that of {other}; enhance them apart")
    faults.raise_if_any("photos and folders of --input that cannot be used")
    if not tasks:
        told = f"--input {' '.join(map(str, inputs))} holds no photo ({READ_KINDS})"
        named = "".join(f"\n  {entry.path}: {entry.reason}" for entry in others[:SHOWN])
        raise InputError(f"{told}, but {len(others)} other files{named}" if others else told)
    return tasks, others


def result_path(task: PhotoTask, kind: str, output_dir: Path) -> Path:
    """Where a photo's result goes when it is written as `kind`."""
    return output_dir / task.name.with_name(task.name.name + KINDS[kind])


def settings_path(task: PhotoTask, output_dir: Path) -> Path:
    """Where the settings of a photo's result stand: beside its before-and-after picture."""
    return picture_path(output_dir, task.name).with_suffix(".json")


def folders_of(tasks: list[PhotoTask], output_dir: Path) -> set[Path]:
    """Every folder into which the results of `tasks`, their parts of the contact sheet and the sheet itself are written."""
    written = [(output_dir / task.name, settings_path(task, output_dir)) for task in tasks]
    return {output_dir, *(path.parent for paths in written for path in paths)}


def refuse_clashes(tasks: list[PhotoTask], output_dir: Path) -> None:
    """InputError naming every photo whose result would replace a photo of --input or a part of the contact sheet, whose part
    of the contact sheet would replace a photo or have the name of a folder, or whose name is too long.
    """
    inputs = {_place(task.path): task.path for task in tasks}
    folders = {str(folder).casefold() for task in tasks for folder in task.name.parents}
    faults = Faults()
    for task in tasks:
        beside = (picture_path(output_dir, task.name), settings_path(task, output_dir))
        for path in (*(result_path(task, kind, output_dir) for kind in KINDS), *beside):
            if photo := inputs.get(_place(path)):
                faults.add(str(task.path), f"its result in --output {output_dir} would replace or hide {photo}")
                break
        for path in beside:
            if task.folded + path.suffix in folders:
                faults.add(
                    str(task.path), f"the contact sheet needs {path} for it, where a folder of photos has its place"
                )
        if len(os.fsencode(task.name.name)) > LONGEST_NAME:
            faults.add(
                str(task.path), f"its name is longer than {LONGEST_NAME} bytes, which leaves no room for an ending"
            )
        first, *deeper = task.name.parts
        if re.fullmatch(SHEET_IMAGE, first) if not deeper else first.casefold() == SHEET:
            faults.add(str(task.path), f"the contact sheet has the name {task.name} in --output {output_dir}")
    faults.raise_if_any("photos that cannot be enhanced into this folder", "choose another --output, or rename them")


def state_of(task: PhotoTask, output_dir: Path, settings: dict[str, Any]) -> Literal["missing", "stale", "done"]:
    """What is there of a photo's result: stale when the photo has changed since, or when the result is no whole image.

    Raises InputError when it was made with other settings, or when the photo has changed and somebody has retouched the result.
    """
    path = next((path for kind in KINDS if (path := result_path(task, kind, output_dir)).exists()), None)
    if path is None:
        return "missing"
    recorded = _recorded(task, output_dir)
    changed = [name for name, value in settings.items() if name not in recorded or recorded[name] != value]
    if changed:
        how = f"with other settings ({', '.join(changed)})" if recorded else "elsewhere, or with unknown settings"
        raise InputError(f"{path} was made {how}: choose another --output, or make it again with --overwrite")
    # A former version recorded neither.
    is_of_photo = recorded.get("source_sha256") in (None, source_digest(task))
    if recorded.get("result_bytes") in (None, path.stat().st_size):
        return "done" if is_of_photo else "stale"
    try:
        decode(path)
    except InputError:
        return "stale"
    if not is_of_photo:
        raise InputError(
            f"{path} was retouched, and its photo has changed since: move it away, or replace it with --overwrite"
        )
    return "done"


def source_digest(task: PhotoTask) -> str:
    """sha256 of the photo's file, as its result's settings record it; empty when it cannot be read."""
    try:
        return hashlib.sha256(read_file(task.path)).hexdigest()
    except InputError:
        return ""


def remove_former(task: PhotoTask, output_dir: Path) -> None:
    """Remove the results of the photo, of any kind, that a run of this script made."""
    if _recorded(task, output_dir):
        for kind in KINDS:
            result_path(task, kind, output_dir).unlink(missing_ok=True)


def _recorded(task: PhotoTask, output_dir: Path) -> dict[str, Any]:
    """The settings that the photo's result was made with; empty when no run of this script made one."""
    try:
        text = settings_path(task, output_dir).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        text = _comment_of_former_version(task, output_dir)
    try:
        recorded = parse_json(text)
    except ValueError:
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _comment_of_former_version(task: PhotoTask, output_dir: Path) -> bytes:
    """For folders of a former version, which wrote the settings as the JPEG comment of the picture; else nothing."""
    try:
        with Image.open(picture_path(output_dir, task.name), formats=("JPEG",)) as picture:
            return picture.info.get("comment", b"")
    except (FileNotFoundError, NotADirectoryError, UnidentifiedImageError):
        return b""


def _place(path: Path) -> str:
    """Equal for paths that some file system takes for one: not all distinguish upper and lower case."""
    return os.path.realpath(path).casefold()
