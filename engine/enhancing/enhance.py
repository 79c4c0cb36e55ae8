"""Photo files -> restored photo files: one after the other, what is done skipped, what is broken listed."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import signals
from common.errors import InputError, OutOfMemory, Stopped
from common.files import json_bytes, remove_stale_temporaries, write_bytes
from common.log import RunLog, progress_bar
from data.config import DataConfig
from data.images import read_file
from data.photo_files import KINDS, photo_bytes, photo_of, with_size
from engine.enhancing.config import EnhanceConfig
from engine.enhancing.restore import restore_photo
from engine.enhancing.sheet import before_and_after, picture_path
from engine.enhancing.tasks import PhotoTask, folders_of, remove_former, result_path, settings_path, state_of
from engine.inference import Restore
from engine.models import TrainedModel, recorded_by_all

FORMATS = {"jpeg": "JPEG", "png": "PNG", "tiff": "TIFF"}
NATIVE = "--scale training cannot serve both: use --scale native"


@dataclass(frozen=True)
class Enhancement:
    """What every photo of a run goes through. settings: of `settings_of`. short_side: of `short_side_seen`."""

    config: EnhanceConfig
    settings: dict[str, Any]
    restorers: dict[str, Restore]
    short_side: int | None
    device: torch.device
    output_dir: Path
    overwrite: bool


def settings_of(config: EnhanceConfig, models: list[TrainedModel]) -> dict[str, Any]:
    """What decides the pixels and names of the results, as plain types."""
    return dataclasses.asdict(config) | {"models": sorted(model.sha256 for model in models)}


def short_side_seen(config: EnhanceConfig, models: list[TrainedModel], log: RunLog) -> int | None:
    """The short side in pixels at which the networks see a photo, None for its own size; logged.

    Raises InputError when --scale training has no one meaning for these models.
    """
    if config.scale == "native":
        log("--scale native: the networks see whole photos at full size")
        return None
    if recorded_by_all("fit", models, NATIVE) == "squash":
        raise InputError("--scale training: models of --fit squash saw squares, which no photo has; use --scale native")
    short_side = recorded_by_all("resolution", models, NATIVE)
    if short_side is None:
        short_side = DataConfig.resolution
        log(f"⚠️  --scale training: the models record no training resolution; {short_side} is assumed")
    log(
        f"--scale training: the networks see photos with a short side of {short_side}; their change is carried over to full "
        "size"
    )
    return short_side


def enhance_all(tasks: list[PhotoTask], run: Enhancement, log: RunLog) -> list[str]:
    """Write the result of every task; returns what is wrong with each photo that could not be enhanced, in order.

    A result that is there already is left as it is, unless `run.overwrite`. Raises Stopped between photos, and InputError for
    a result that was made with other settings, by an earlier run or by one beside this.
    """
    states = ["missing" if run.overwrite else state_of(task, run.output_dir, run.settings) for task in tasks]
    todo = [task for task, state in zip(tasks, states, strict=True) if state != "done"]
    if len(todo) < len(tasks):
        log(f"{len(tasks) - len(todo)} of {len(tasks)} photos are done already and stay as they are")
    for place in folders_of(tasks, run.output_dir):
        remove_stale_temporaries(place)
    if "stale" in states:
        log(f"{states.count('stale')} results are made again: their photos have changed, or they are not whole")
    faults: list[str] = []
    spent: list[float] = []
    with progress_bar(len(tasks), unit="photo", initial=len(tasks) - len(todo)) as bar:
        for number, task in enumerate(todo, start=1):
            if signals.requested():
                again = "run the same command again for the rest"
                if run.overwrite:
                    again = "the same command begins anew, as it has --overwrite"
                raise Stopped(f"{signals.requested()} received after {len(spent)} photos; {again}")
            started = time.monotonic()
            try:
                files, size = _enhanced(task, run)
            except InputError as fault:
                faults.append(str(fault))
                log(f"⚠️  {fault}")
            else:
                if not _write(task, run, files):
                    size = "made by another process"
                spent.append(time.monotonic() - started)
                left = sum(spent) / len(spent) * (len(todo) - number)
                log(f"[{number}/{len(todo)}] {task.path}: {size}, {spent[-1]:.1f} s, {left / 60:.0f} min left")
            bar.update()
    return faults


def _enhanced(task: PhotoTask, run: Enhancement) -> tuple[dict[Path, bytes], str]:
    """The files of a photo (settings, picture for the sheet, result) and the result's size in words.

    Raises InputError naming a photo that cannot be enhanced.
    """
    source = read_file(task.path)
    photo = photo_of(source, task.path)
    kind = FORMATS.get(run.config.format, photo.kind if photo.kind in KINDS else "JPEG")
    try:
        restored = restore_photo(photo.pixels, run.restorers, run.short_side, run.config.max_side, run.device)
        picture = before_and_after(photo.pixels, restored)
        if kind == "JPEG" and restored.dtype == np.uint16:
            restored = np.rint(restored / 257.0).astype(np.uint8)
        height, width = restored.shape[:2]
        content = photo_bytes(restored, kind, with_size(photo.exif, width, height), run.config.jpeg_quality)
    except InputError as fault:
        raise InputError(f"{task.path}: {fault}") from None
    except OutOfMemory as failure:
        raise InputError(f"{task.path}: {failure}; --scale training and --max_side need less") from failure
    record = run.settings | {"source_sha256": hashlib.sha256(source).hexdigest(), "result_bytes": len(content)}
    files = {
        settings_path(task, run.output_dir): json_bytes(record),
        picture_path(run.output_dir, task.name): picture,
        result_path(task, kind, run.output_dir): content,
    }
    return files, f"{width} x {height}"


def _write(task: PhotoTask, run: Enhancement, files: dict[Path, bytes]) -> bool:
    """Write the files, the result last; False when a process beside this one has made them."""
    state = "stale" if run.overwrite else state_of(task, run.output_dir, run.settings)
    if state == "done":
        return False
    if state == "stale":
        remove_former(
            task, run.output_dir
        )  # first: a result of other settings, or of another kind, must never stay beside it
    for path, content in files.items():
        write_bytes(path, content)
    return True
