"""Files and folders that a user names -> the photos to work on, each with the name of its result. Needs no torch.

MERGED: Which results of an output folder are done, made with what, and which photos cannot have theirs there.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import Faults, InputError
from common.files import visible_folders
from data.photo_files import ENDINGS, KINDS
from engine.enhancing.sheet import SHEET, SHEET_IMAGE, made_with


@dataclass(frozen=True)
class PhotoTask:
    """A photo and its place below the folder that was named, which its result keeps; without the ending."""

    path: Path
    name: Path


def list_photos(inputs: Sequence[Path], output_dir: Path) -> tuple[list[PhotoTask], int]:
    """Photos in the order of `inputs`, folders searched to the bottom, without `output_dir`; and how many other files lay there.

    Raises InputError naming every input that does not exist or is `output_dir`, and every two photos whose results would have
    one name; and when there is no photo.
    """
    tasks, others, faults = [], 0, Faults()
    for given in inputs:
        if os.path.realpath(given) == os.path.realpath(output_dir):
            faults.add(f"--input {given}", "is the --output folder too; name another --output")
        elif given.is_dir():
            found = [folder / name for folder, names in visible_folders(given, output_dir) for name in names]
            photos = [path for path in found if path.suffix.lower() in ENDINGS and not path.name.startswith(".")]
            others += len(found) - len(photos)
            tasks += [PhotoTask(path, path.relative_to(given).with_suffix("")) for path in photos]
        elif given.exists():
            tasks.append(PhotoTask(given, Path(given.stem)))
        else:
            faults.add(f"--input {given}", "does not exist")
    once: dict[tuple[str, Path], PhotoTask] = {}  # a photo may lie in a folder of the inputs and be named besides
    for task in tasks:
        once.setdefault((os.path.realpath(task.path), task.name), task)
    tasks = _told_apart(list(once.values()))
    taken: dict[str, Path] = {}
    for task in tasks:
        other = taken.setdefault(_same(task), task.path)
        if other != task.path:
            faults.add(str(task.path), f"its result would have the name of that of {other}; enhance them apart")
    faults.raise_if_any("photos and folders of --input that cannot be used")
    if not tasks:
        told = f"--input {' '.join(map(str, inputs))} holds no photo ({', '.join(ENDINGS)})"
        raise InputError(f"{told}, but {others} other files" if others else told)
    return tasks, others


def _told_apart(tasks: list[PhotoTask]) -> list[PhotoTask]:
    """Photos of one name but different endings (a camera's DNG and JPEG) get the ending into the name: P1_dng, P1_jpg."""
    count = Counter(map(_same, tasks))
    return [
        PhotoTask(task.path, task.name.with_name(task.path.name.replace(".", "_"))) if count[_same(task)] > 1 else task
        for task in tasks
    ]


def _same(task: PhotoTask) -> str:
    """Equal for names that some file system takes for one: not all tell upper from lower case."""
    return str(task.name).casefold()


def shard_of(tasks: list[PhotoTask], shard: str | None) -> list[PhotoTask]:
    """The part `i/n` of the tasks, i from 1 to n: every n-th. Raises ValueError for anything else."""
    if shard is None:
        return tasks
    number, separator, count = shard.partition("/")
    if not (separator and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard {shard}: must be i/n with i from 1 to n, such as 2/8")
    return tasks[int(number) - 1 :: int(count)]


LONGEST_NAME = 235  # of 255 bytes: the rest is for the ending of a temporary file


def result_path(task: PhotoTask, kind: str, output_dir: Path) -> Path:
    """Where a photo's result goes when it is written as `kind`."""
    return output_dir / task.name.with_name(task.name.name + KINDS[kind])


def refuse_clashes(tasks: list[PhotoTask], output_dir: Path) -> None:
    """InputError naming every photo whose result would replace a photo of --input or a part of the contact sheet, or whose
    name is too long.
    """
    inputs = {_place(task.path): task.path for task in tasks}
    faults = Faults()
    for task in tasks:
        for kind in KINDS:
            if photo := inputs.get(_place(result_path(task, kind, output_dir))):
                faults.add(str(task.path), f"its result in --output {output_dir} would replace or hide {photo}")
                break
        if len(os.fsencode(task.name.name)) > LONGEST_NAME:
            faults.add(
                str(task.path), f"its name is longer than {LONGEST_NAME} bytes, which leaves no room for an ending"
            )
        first, *deeper = task.name.parts
        if re.fullmatch(SHEET_IMAGE, first) if not deeper else first.casefold() == SHEET:
            faults.add(str(task.path), f"the contact sheet has the name {task.name} in --output {output_dir}")
    faults.raise_if_any("photos that cannot be enhanced into this folder", "choose another --output, or rename them")


def is_done(task: PhotoTask, output_dir: Path, settings: dict[str, Any]) -> bool:
    """Whether an earlier run made the photo's result; InputError when that was made with other settings.

    The before-and-after picture, which says with what settings, is written before the result.
    """
    path = next((path for kind in KINDS if (path := result_path(task, kind, output_dir)).exists()), None)
    if path is None:
        return False
    recorded = _recorded(task, output_dir)
    changed = [name for name, value in settings.items() if name not in recorded or recorded[name] != value]
    if changed:
        how = f"with other settings ({', '.join(changed)})" if recorded else "elsewhere, or with unknown settings"
        raise InputError(f"{path} was made {how}: choose another --output, or make it again with --overwrite")
    return True


def remove_former(task: PhotoTask, output_dir: Path) -> None:
    """Remove the results of the photo, of any kind, that a run of this script made."""
    if _recorded(task, output_dir):
        for kind in KINDS:
            result_path(task, kind, output_dir).unlink(missing_ok=True)


def _recorded(task: PhotoTask, output_dir: Path) -> dict[str, Any]:
    """The settings that the photo's picture says; empty without a picture of ours."""
    try:
        recorded = json.loads(made_with(output_dir, task.name) or "{}")
    except ValueError:
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _place(path: Path) -> str:
    """Equal for paths that some file system takes for one: not all tell upper from lower case."""
    return os.path.realpath(path).casefold()
