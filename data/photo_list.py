"""Files and folders that a user names -> the photos to work on, each with the name of its result. Needs no torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.faults import Faults
from data.photo_files import ENDINGS
from data.walk import visible_folders


@dataclass(frozen=True)
class PhotoTask:
    """A photo and its place below the folder that was named, which its result keeps; without the ending."""

    path: Path
    name: Path


def list_photos(inputs: Sequence[Path], output_dir: Path) -> tuple[list[PhotoTask], int]:
    """Photos in the order of `inputs`, folders searched to the bottom, without `output_dir`; and how many other files lay there.

    Raises DataError naming every input that does not exist or is `output_dir`, and every two photos whose results would have
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
        raise DataError(f"{told}, but {others} other files" if others else told)
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
