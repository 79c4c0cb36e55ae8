"""Batches of images -> pictures to look at: input | output | ground truth side by side, as JPEG."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.files import TEMPORARY, sync_folder, write_bytes
from data.images import jpeg
from data.manifest import Pair

SUFFIX = "_comparison.jpg"
STEM_BYTES = 180  # File systems allow 255 bytes; the rest is for a number and the suffix.
QUALITY, SMALL_QUALITY = 95, 85
VISUALS = "visuals"
PICTURES = 24  # in the report
PANEL_WIDTH = 400  # pixels, in the report


class VisualsFolder:
    """Gathers pictures while photos are scored: small ones of the worst photos and, on request, all at full size.

    Full-size files go to a temporary folder inside `output_dir` and move to visuals/ with publish(), so that an
    interrupted run leaves the pictures of the former one. A context manager; use it under the lock on `output_dir`.
    """

    def __init__(self, output_dir: Path, pairs: list[Pair], save_all: bool):
        self.folder = output_dir / VISUALS
        self.names = visual_names(pairs) if save_all else []
        self.worst: dict[int, tuple[float, bytes]] = {}
        self._temporary = output_dir / f"{TEMPORARY}{VISUALS}"

    def __enter__(self) -> VisualsFolder:
        shutil.rmtree(self._temporary, ignore_errors=True)
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(
        self, indices: list[int], src: torch.Tensor, restored: torch.Tensor, tar: torch.Tensor, psnr: list[float]
    ) -> None:
        """Take one batch: float images (B, 3, H, W) in [0, 1] and the PSNR in dB of each restored one."""
        for row, index in enumerate(indices):
            picture = strip(src[row], restored[row], tar[row])
            if self.names:
                write_bytes(self._temporary / self.names[index], jpeg(picture, QUALITY))
            self.worst[index] = (psnr[row], thumbnail(picture))
        self.worst = dict(sorted(self.worst.items(), key=lambda item: (item[1][0], item[0]))[:PICTURES])

    def publish(self) -> None:
        """Move the full-size pictures to visuals/, and delete there what an earlier evaluation left."""
        for stale in self.folder.glob(f"*{SUFFIX}"):
            if stale.name not in self.names:
                stale.unlink()
        if self.names:
            self.folder.mkdir(exist_ok=True)
            for name in self.names:
                (self._temporary / name).replace(self.folder / name)
            sync_folder(self.folder)
        elif self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def thumbnails(self) -> list[dict]:
        """[{"index", "jpeg": bytes, "file": full-size picture relative to output_dir or None}], worst PSNR first."""
        return [
            {"index": index, "jpeg": small, "file": f"{VISUALS}/{self.names[index]}" if self.names else None}
            for index, (_, small) in self.worst.items()
        ]


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
    """Three (3, H, W) images in [0, 1] -> one picture of 3W x H: input | output | ground truth."""
    return Image.fromarray(np.concatenate([to_bytes(image) for image in (src, restored, tar)], axis=1))


def to_bytes(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) float -> (H, W, 3) uint8: clamped to [0, 1] and rounded, so that 1.004 is white and not black."""
    return (image.detach().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def thumbnail(picture: Image.Image) -> bytes:
    """JPEG bytes of the strip with each of its panels at most PANEL_WIDTH pixels wide."""
    width = min(picture.width, 3 * PANEL_WIDTH)
    if width < picture.width:
        size = (width, max(1, round(picture.height * width / picture.width)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return jpeg(picture, SMALL_QUALITY)
