"""Which results of an output folder are done, made with what, and which photos cannot have theirs there."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from darkir.engine.errors import RunRefused
from darkir.engine.sheet import SHEET, SHEET_IMAGE, made_with
from data.faults import Faults
from data.photo_list import PhotoTask
from data.photo_writers import KINDS

LONGEST_NAME = 235  # of 255 bytes: the rest is for the ending of a temporary file


def result_path(task: PhotoTask, kind: str, output_dir: Path) -> Path:
    """Where a photo's result goes when it is written as `kind`."""
    return output_dir / task.name.with_name(task.name.name + KINDS[kind])


def refuse_clashes(tasks: list[PhotoTask], output_dir: Path) -> None:
    """DataError naming every photo whose result would replace a photo of --input or a part of the contact sheet, or whose
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
    """Whether an earlier run made the photo's result; RunRefused when that was made with other settings.

    The before-and-after picture, which says with what settings, is written before the result.
    """
    path = next((path for kind in KINDS if (path := result_path(task, kind, output_dir)).exists()), None)
    if path is None:
        return False
    recorded = _recorded(task, output_dir)
    changed = [name for name, value in settings.items() if name not in recorded or recorded[name] != value]
    if changed:
        how = f"with other settings ({', '.join(changed)})" if recorded else "elsewhere, or with unknown settings"
        raise RunRefused(f"{path} was made {how}: choose another --output, or make it again with --overwrite")
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
