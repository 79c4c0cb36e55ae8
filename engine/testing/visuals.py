"""Batches of images -> pictures to look at: source | output | target side by side, as JPEG, and what is to be said of each."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common import signals
from common.errors import InputError, OutOfMemory, Stopped
from common.files import TEMPORARY, sync_folder, write_bytes
from common.log import RunLog
from data.images import decode, jpeg
from data.manifest import Pair
from engine.enhancing.restore import restore_photo
from engine.inference import Restore
from engine.testing.judgement import Judgement, judge

SUFFIX = "_comparison.jpg"
SIDES = ("source", "output", "target")
STEM_BYTES = 180  # File systems allow 255 bytes; the rest is for a number and the suffix.
QUALITY, SMALL_QUALITY = 95, 85
VISUALS = "visuals"
PICTURES = 24  # that the report holds itself
PANEL_WIDTH = (
    640  # pixels, in the report; at --resolution 384 a photo of 3:2 is 576 wide: it stands there as it was scored
)


@dataclass(frozen=True)
class Picture:
    """What the report shows of the photo `index`.

    jpeg: its SIDES beside each other, small, or None where only `file` has them; crops: the region where the output is
    worst, of all sides, pixel by pixel. size: (width, height) of one side as it was scored. file: of visuals/, relative to
    the output folder. native: name of a side -> its file at the photo's own size, native_size in pixels.
    """

    index: int
    size: tuple[int, int]
    judgement: Judgement
    jpeg: bytes | None
    crops: bytes | None
    file: str | None = None
    native: dict[str, str] | None = None
    native_size: tuple[int, int] | None = None


class VisualsFolder:
    """Gathers pictures while photos are scored: small ones of the worst photos and, on request, all as they were scored.

    Files go to a temporary folder inside `output_dir` and move to visuals/ with publish(), so that an interrupted run
    leaves the pictures of the former one. A context manager; use it under the lock on `output_dir`. "Worst" is the
    least gain over the untouched photo.
    """

    def __init__(self, output_dir: Path, pairs: list[Pair], save_all: bool):
        self.folder = output_dir / VISUALS
        self.pairs = pairs
        self.names = visual_names(pairs) if save_all else []
        self.native: list[str] = []
        self.worst: dict[int, float] = {}
        self.taken: dict[int, Picture] = {}
        self._temporary = output_dir / f"{TEMPORARY}{VISUALS}"

    def __enter__(self) -> VisualsFolder:
        shutil.rmtree(self._temporary, ignore_errors=True)
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(
        self, indices: list[int], src: torch.Tensor, restored: torch.Tensor, tar: torch.Tensor, gains: list[float]
    ) -> None:
        """Take one batch: float images (B, 3, H, W) in [0, 1] and each restored one's gain over its source in dB."""
        for row, index in enumerate(indices):
            picture, judgement = strip(src[row], restored[row], tar[row]), judge(restored[row], tar[row])
            file = f"{VISUALS}/{self.names[index]}" if self.names else None
            if file:
                write_bytes(self._temporary / self.names[index], jpeg(picture, QUALITY))
            self.worst[index] = gains[row]
            small, crops = jpeg(thumbnail(picture), SMALL_QUALITY), jpeg(crop_strip(picture, judgement.box), QUALITY)
            size = (picture.width // len(SIDES), picture.height)
            self.taken[index] = Picture(index, size, judgement, small, crops, file)
        self.worst = dict(sorted(self.worst.items(), key=lambda item: (item[1], item[0])))
        for index in list(self.worst)[PICTURES:]:
            # Of the others, visuals/ has the pictures, or nobody.
            if self.taken[index].jpeg is not None:
                self.taken[index] = replace(self.taken[index], jpeg=None, crops=None)

    def add_native(self, restorers: dict[str, Restore], device: torch.device, log: RunLog) -> None:
        """Restore every photo at its own size, and write its sides, each to a file of its own.

        A photo for which there is no memory is told, and goes without. Raises InputError for a photo that cannot be read, and
        Stopped between photos.
        """
        for index, pair in enumerate(self.pairs):
            if signals.requested():
                raise Stopped(f"{signals.requested()} received while restoring photos at full size")
            source, target = decode(pair.src_path), decode(pair.tar_path)
            try:
                output = restore_photo(source, restorers, None, None, device)
            except (OutOfMemory, InputError) as fault:
                log(f"⚠️  {pair.src}: no picture at full size: {fault}")
                continue
            stem = self.names[index].removesuffix(SUFFIX)
            names = {side: f"{stem}_native_{side}.jpg" for side in SIDES}
            for name, pixels in zip(names.values(), (source, output, target), strict=True):
                write_bytes(self._temporary / name, jpeg(Image.fromarray(pixels), QUALITY))
            self.native += names.values()
            files = {side: f"{VISUALS}/{name}" for side, name in names.items()}
            size = (source.shape[1], source.shape[0])
            self.taken[index] = replace(self.taken[index], native=files, native_size=size)

    def publish(self) -> None:
        """Move the pictures to visuals/, and delete there what an earlier evaluation left."""
        fresh = [*self.names, *self.native]
        for pattern in (f"*{SUFFIX}", *(f"*_native_{side}.jpg" for side in SIDES)):
            for stale in self.folder.glob(pattern):
                if stale.name not in fresh:
                    stale.unlink()
        if fresh:
            self.folder.mkdir(exist_ok=True)
            for name in fresh:
                (self._temporary / name).replace(self.folder / name)
            sync_folder(self.folder)
        elif self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def pictures(self) -> list[Picture]:
        """Of every photo what there is, the worst first."""
        return [self.taken[index] for index in self.worst]


def visual_names(pairs: list[Pair]) -> list[str]:
    """A file name for each pair: `<src stem>_comparison.jpg`; a stem that is taken gets `_2`, `_3`, ...

    Upper and lower case count as the same: on some file systems they are one name.
    """
    stems = [pair.stem.encode("utf-8", "replace")[:STEM_BYTES].decode("utf-8", "ignore") for pair in pairs]
    reserved = {stem.casefold() for stem in stems}  # a photo really called x_2 keeps its name
    taken: set[str] = set()
    names = []
    for stem in stems:
        candidate, number = stem, 1
        while candidate.casefold() in taken or (number > 1 and candidate.casefold() in reserved):
            number += 1
            candidate = f"{stem}_{number}"
        taken.add(candidate.casefold())
        names.append(candidate + SUFFIX)
    return names


def strip(src: torch.Tensor, restored: torch.Tensor, tar: torch.Tensor) -> Image.Image:
    """Three (3, H, W) images in [0, 1] -> one picture of 3W x H: source | output | target."""
    return Image.fromarray(np.concatenate([to_bytes(image) for image in (src, restored, tar)], axis=1))


def crop_strip(picture: Image.Image, box: tuple[int, int, int]) -> Image.Image:
    """The square `box` (left, top, side) of each side of a strip, beside each other, pixel by pixel."""
    left, top, side = box
    width = picture.width // len(SIDES)
    crops = Image.new("RGB", (len(SIDES) * side, side))
    for number in range(len(SIDES)):
        start = number * width + left
        crops.paste(picture.crop((start, top, start + side, top + side)), (number * side, 0))
    return crops


def to_bytes(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) float -> (H, W, 3) uint8: clamped to [0, 1] and rounded, so that 1.004 is white and not black."""
    return (image.detach().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def thumbnail(picture: Image.Image, panel_width: int = PANEL_WIDTH) -> Image.Image:
    """The strip with each of its panels at most `panel_width` pixels wide."""
    width = min(picture.width, len(SIDES) * panel_width)
    if width < picture.width:
        size = (width, max(1, round(picture.height * width / picture.width)))
        return picture.resize(size, Image.Resampling.LANCZOS)
    return picture
