"""Photo files -> restored photo files: one after the other, what is done skipped, what is broken listed."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from darkir.engine.enhanced_files import is_done, remove_former, result_path
from darkir.engine.ensemble import restored_by_each
from darkir.engine.errors import RunRefused, Stopped
from darkir.engine.evaluation import Restore
from darkir.engine.members import Member
from darkir.engine.runlog import RunLog
from darkir.engine.sheet import before_and_after, picture_path
from darkir.local_colour import carry_over
from darkir.options import require
from data import stop
from data.errors import DataError
from data.files import write_bytes, write_json
from data.images import fit_crop_size
from data.loader import MIN_RESOLUTION, DataConfig
from data.photo_files import Photo, read_photo, with_size
from data.photo_list import PhotoTask
from data.photo_writers import KINDS, photo_bytes

RECORD = "enhanced.json"
FORMATS = {"jpeg": "JPEG", "png": "PNG", "tiff": "TIFF"}


@dataclass(frozen=True)
class EnhanceConfig:
    """How photos become restored photos."""

    scale: Literal["native", "training"] = field(
        default="native",
        metadata={
            "help": "native: the networks see every pixel of the photo; training: they see a copy of the size that they were "
            "trained at, and its change of tones and colours is carried over to the full photo: many times faster"
        },
    )
    max_side: int | None = field(
        default=None, metadata={"help": "shrink larger photos to this long side in pixels; default: native size"}
    )
    tta: bool = field(
        default=False, metadata={"help": "average each network over the four flips of a photo: four times the time"}
    )
    mixed_precision: bool = field(
        default=False, metadata={"help": "run the networks in 16 bit: bf16 where the device has it, else fp16"}
    )
    format: Literal["same", "jpeg", "png", "tiff"] = field(
        default="same",
        metadata={
            "help": "same: JPEG, PNG and TIFF stay what they are, others become JPEG; 16 bits stay 16 bits but in JPEG"
        },
    )
    jpeg_quality: int = field(default=95, metadata={"help": "1 to 100; colour is not subsampled"})

    def __post_init__(self):
        require(self.max_side is None or self.max_side >= MIN_RESOLUTION, f"--max_side {self.max_side}: too small")
        require(1 <= self.jpeg_quality <= 100, f"--jpeg_quality {self.jpeg_quality}: must be 1 to 100")


def training_resolution(members: list[Member], scale: str, log: RunLog) -> int | None:
    """The short side at which the networks see a photo, None for native; RunRefused when the models differ in it."""
    if scale == "native":
        log("--scale native: the networks see whole photos at full size")
        return None
    recorded = {member.name: member.recorded("resolution") for member in members}
    sides = {side or DataConfig.resolution for side in recorded.values()}
    if len(sides) > 1:
        told = ", ".join(f"{name}: {side}" for name, side in recorded.items())
        raise RunRefused(
            f"--scale training: the models were trained at different resolutions ({told}); use --scale native"
        )
    side = sides.pop()
    unknown = [name for name, known in recorded.items() if known is None]
    if unknown:
        log(f"⚠️  {', '.join(unknown)} records no training resolution: {side} is assumed")
    log(
        f"--scale training: the networks see photos with a short side of {side}; their change is carried over to full size"
    )
    return side


@torch.inference_mode()
def restore_photo(
    pixels: np.ndarray, restorers: dict[str, Restore], side: int | None, max_side: int | None, device: torch.device
) -> np.ndarray:
    """(H, W, 3) uint8 or uint16 sRGB -> the ensemble's restored photo, the same dtype, H and W at most `max_side`.

    Raises DataError when the output is not finite.
    """
    top = np.iinfo(pixels.dtype).max
    src = torch.from_numpy(pixels.astype(np.float32)).to(device).permute(2, 0, 1)[None].div_(top)
    height, width = src.shape[-2:]
    if max_side is not None and max(height, width) > max_side:
        src = _resized(src, *(max(1, round(length * max_side / max(height, width))) for length in (width, height)))
    if side is None or min(src.shape[-2:]) <= side:
        restored = _ensemble(restorers, src)
    else:
        small = _resized(src, *fit_crop_size(src.shape[-1], src.shape[-2], side, enlarge=False))
        restored = carry_over(src, small, _ensemble(restorers, small))
    if not restored.sum().isfinite():
        raise DataError("the networks' output is not finite; leave out --mixed_precision, or take other weights")
    restored = restored.clamp_(0.0, 1.0).mul_(top).round_()[0].permute(1, 2, 0).cpu().numpy()
    return restored.astype(pixels.dtype)


def _resized(x: torch.Tensor, width: int, height: int) -> torch.Tensor:
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp_(0.0, 1.0)


def _ensemble(restorers: dict[str, Restore], src: torch.Tensor) -> torch.Tensor:
    *_, (_, restored) = restored_by_each(restorers, src)
    return restored


def kind_of(photo: Photo, asked: str) -> str:
    """JPEG, PNG or TIFF for --format."""
    return FORMATS[asked] if asked != "same" else photo.kind if photo.kind in KINDS else "JPEG"


def settings_of(config: EnhanceConfig, members: list[Member]) -> dict:
    """What decides the pixels and names of the results, as plain types."""
    return dataclasses.asdict(config) | {"models": sorted(member.sha256 for member in members)}


def enhance_all(
    tasks: list[PhotoTask],
    output_dir: Path,
    config: EnhanceConfig,
    settings: dict,
    restorers: dict[str, Restore],
    side: int | None,
    device: torch.device,
    overwrite: bool,
    log: RunLog,
) -> list[str]:
    """Write the result of every task; returns what is wrong with each photo that could not be enhanced, in order.

    A result that is there already is left as it is, unless `overwrite`. settings: of `settings_of`. Raises Stopped between
    photos, and RunRefused for a result that was made with other settings, by an earlier run or by one beside this.
    """
    faults, spent, made = [], 0.0, 0
    bar = tqdm(total=len(tasks), unit="photo", disable=not sys.stderr.isatty())
    todo = [task for task in tasks if overwrite or not is_done(task, output_dir, settings)]
    write_json(output_dir / RECORD, settings)
    if len(todo) < len(tasks):
        log(f"{len(tasks) - len(todo)} of {len(tasks)} photos are done already and stay as they are")
        bar.update(len(tasks) - len(todo))
    for number, task in enumerate(todo, start=1):
        if stop.requested():
            again = (
                "the same command begins anew, as it has --overwrite"
                if overwrite
                else "run the same command again for the rest"
            )
            raise Stopped(f"{stop.requested()} received after {made} photos; {again}")
        started = time.monotonic()
        try:
            size = _enhance(task, output_dir, config, settings, restorers, side, device, overwrite)
        except DataError as fault:
            faults.append(str(fault))
            log(f"⚠️  {fault}")
        else:
            made += 1
            spent += time.monotonic() - started
            left = spent / made * (len(todo) - number)
            log(
                f"[{number}/{len(todo)}] {task.path}: {size}, {time.monotonic() - started:.1f} s, {left / 60:.0f} min left"
            )
        bar.update()
    bar.close()
    return faults


def _enhance(
    task: PhotoTask,
    output_dir: Path,
    config: EnhanceConfig,
    settings: dict,
    restorers: dict[str, Restore],
    side: int | None,
    device: torch.device,
    overwrite: bool,
) -> str:
    photo = read_photo(task.path)
    kind = kind_of(photo, config.format)
    try:
        restored = restore_photo(photo.pixels, restorers, side, config.max_side, device)
        picture = before_and_after(photo.pixels, restored, json.dumps(settings))
        if kind == "JPEG" and restored.dtype == np.uint16:
            restored = np.rint(restored / 257.0).astype(np.uint8)
        height, width = restored.shape[:2]
        content = photo_bytes(restored, kind, with_size(photo.exif, width, height), config.jpeg_quality)
    except DataError as fault:
        raise DataError(f"{task.path}: {fault}") from None
    if overwrite:
        remove_former(task, output_dir)  # first: a result of other settings must never stand beside the new picture
    elif is_done(task, output_dir, settings):
        return "made by another process"
    write_bytes(picture_path(output_dir, task.name), picture)
    write_bytes(result_path(task, kind, output_dir), content)
    return f"{width} x {height}"
