"""Photo files -> restored photo files: one after the other, what is done skipped, what is broken listed."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common import signals
from common.errors import InputError, OutOfMemory, Stopped
from common.files import write_bytes
from common.log import RunLog
from data.photo_files import KINDS, Photo, photo_bytes, read_photo, with_size
from engine.enhancing.config import EnhanceConfig
from engine.enhancing.restore import restore_photo
from engine.enhancing.sheet import before_and_after, picture_path
from engine.enhancing.tasks import PhotoTask, is_done, remove_former, result_path
from engine.inference import Restore

FORMATS = {"jpeg": "JPEG", "png": "PNG", "tiff": "TIFF"}


@dataclass(frozen=True)
class Enhancement:
    """What every photo of a run goes through. settings: of `settings_of`. side: of `side_seen`."""

    config: EnhanceConfig
    settings: dict[str, Any]
    restorers: dict[str, Restore]
    side: int | None
    device: torch.device
    output_dir: Path
    overwrite: bool


@dataclass(frozen=True)
class Result:
    """A restored photo: the content of a file of `kind`, the before-and-after picture (JPEG), and its size in words."""

    kind: str
    content: bytes
    picture: bytes
    size: str


def enhance_all(tasks: list[PhotoTask], run: Enhancement, log: RunLog) -> list[str]:
    """Write the result of every task; returns what is wrong with each photo that could not be enhanced, in order.

    A result that is there already is left as it is, unless `run.overwrite`. Raises Stopped between photos, and InputError for
    a result that was made with other settings, by an earlier run or by one beside this.
    """
    todo = [task for task in tasks if run.overwrite or not is_done(task, run.output_dir, run.settings)]
    if len(todo) < len(tasks):
        log(f"{len(tasks) - len(todo)} of {len(tasks)} photos are done already and stay as they are")
    bar = tqdm(total=len(tasks), initial=len(tasks) - len(todo), unit="photo", disable=not sys.stderr.isatty())
    faults, spent = [], []
    for number, task in enumerate(todo, start=1):
        _stop_when_asked(len(spent), run.overwrite)
        started = time.monotonic()
        try:
            result = _enhanced(task, run)
        except InputError as fault:
            faults.append(str(fault))
            log(f"⚠️  {fault}")
        else:
            size = _written(task, run, result)
            spent.append(time.monotonic() - started)
            left = sum(spent) / len(spent) * (len(todo) - number)
            log(f"[{number}/{len(todo)}] {task.path}: {size}, {spent[-1]:.1f} s, {left / 60:.0f} min left")
        bar.update()
    bar.close()
    return faults


def _stop_when_asked(made: int, overwrite: bool) -> None:
    if signals.requested():
        begins_anew = "the same command begins anew, as it has --overwrite"
        again = begins_anew if overwrite else "run the same command again for the rest"
        raise Stopped(f"{signals.requested()} received after {made} photos; {again}")


def _enhanced(task: PhotoTask, run: Enhancement) -> Result:
    """The restored photo as file content. InputError names a photo that cannot be enhanced."""
    photo = read_photo(task.path)
    kind = _kind_of(photo, run.config.format)
    try:
        restored = restore_photo(photo.pixels, run.restorers, run.side, run.config.max_side, run.device)
        picture = before_and_after(photo.pixels, restored, json.dumps(run.settings))
        if kind == "JPEG" and restored.dtype == np.uint16:
            restored = np.rint(restored / 257.0).astype(np.uint8)
        height, width = restored.shape[:2]
        content = photo_bytes(restored, kind, with_size(photo.exif, width, height), run.config.jpeg_quality)
    except InputError as fault:
        raise InputError(f"{task.path}: {fault}") from None
    except OutOfMemory as failure:
        raise InputError(f"{task.path}: {failure}; --scale training and --max_side need less") from failure
    return Result(kind, content, picture, f"{width} x {height}")


def _written(task: PhotoTask, run: Enhancement, result: Result) -> str:
    """Write the result and its picture for the sheet, unless a process beside this one has; says what was done."""
    if run.overwrite:
        remove_former(task, run.output_dir)  # first: a result of other settings must never stand beside the new picture
    elif is_done(task, run.output_dir, run.settings):
        return "made by another process"
    write_bytes(picture_path(run.output_dir, task.name), result.picture)
    write_bytes(result_path(task, result.kind, run.output_dir), result.content)
    return result.size


def _kind_of(photo: Photo, asked: str) -> str:
    """JPEG, PNG or TIFF for --format."""
    return FORMATS[asked] if asked != "same" else photo.kind if photo.kind in KINDS else "JPEG"
