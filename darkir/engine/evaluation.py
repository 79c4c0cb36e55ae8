"""A network and whole frames -> one record of metrics an image. Validation, out-of-fold scores and the test all come from here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from darkir.engine.distributed import World
from darkir.engine.errors import Stopped
from darkir.engine.free_memory import free_bytes
from darkir.engine.metrics import METRICS, photo_records
from darkir.engine.runtime import Precision
from darkir.engine.whole_photo import strips_are_better
from darkir.network import DarkIR
from darkir.strips import restore_in_strips
from data import stop
from data.loader import start_workers
from data.manifest import Pair

Restore = Callable[[torch.Tensor], torch.Tensor]


def to_float(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, 3, H, W) -> float32 in [0, 1] on `device`; bytes travel, floats are made where they are used."""
    return images.to(device, non_blocking=True).float().div_(255.0)


def restorer(
    network: nn.Module,
    precision: Precision,
    warn: Callable[[str], None] = warnings.warn,
    free: Callable[[torch.device], int] = free_bytes,
) -> Restore:
    """A function from source (B, 3, H, W) in [0, 1] to the restored image, float32, clamped to [0, 1].

    A DarkIR takes a batch in strips, with equal results but for rounding, when one pass would not fit into the `free` bytes
    of the device, and on the CPU from half a megapixel on. When one pass runs out of CUDA memory all the same, `warn` is told, and
    that batch and all as large or larger go in strips. Raises torch.OutOfMemoryError when strips do not fit either.
    """
    too_large = math.inf  # pixels

    def restore(src: torch.Tensor) -> torch.Tensor:
        nonlocal too_large
        pixels = src.numel() // src.shape[1]
        with torch.inference_mode(), precision.autocast():
            if not strips_are_better(network, src, free(src.device)) and pixels < too_large:
                try:
                    return network(src).float().clamp(0.0, 1.0)
                except torch.OutOfMemoryError:
                    if not isinstance(network, DarkIR):
                        raise
                too_large = pixels
                size = f"{len(src)} x {src.shape[3]} x {src.shape[2]}"
                warn(f"No memory for {size} pixels in one pass: in strips from now on, which gives the same output")
            return restore_in_strips(network, src).float().clamp_(0.0, 1.0)

    return restore


def identity(src: torch.Tensor) -> torch.Tensor:
    """The baseline that leaves the photo as it is."""
    return src


def score(
    restore: Restore, loader: Iterable[dict], pairs: list[Pair], device: torch.device, world: World
) -> list[dict]:
    """Score every image: [{"src", "psnr", "ssim", "l1"}] in the order of `pairs`, on every process of `world`.

    `loader` yields this process's share of the frames. With several processes a signal is not looked at here: one that left
    would let the others wait for ever.

    Raises Stopped between batches when a signal asked for it, RunFailed for an output that is not finite, and DataError for
    frames too small for SSIM.
    """
    records: list[dict | None] = [None] * len(pairs)
    mine: list[tuple[int, dict]] = []
    for src, tar, indices in frames(loader, device, stoppable=world.size == 1):
        photos = [pairs[index] for index in indices]
        mine += zip(indices, photo_records(restore(src), tar, photos, "validation"), strict=True)
    for part in world.gather(mine):
        for index, record in part:
            records[index] = record
    return records


def frames(
    loader: Iterable[dict], device: torch.device, stoppable: bool = True
) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[int]]]:
    """Yield (source, target, indices) with the images as float32 (B, 3, H, W) in [0, 1] on `device`."""
    for batch in start_workers(loader):
        if stoppable and stop.requested():
            raise Stopped(f"{stop.requested()} received while scoring images")
        yield to_float(batch["src"], device), to_float(batch["tar"], device), batch["index"].tolist()


def mean_metrics(records: list[dict]) -> dict[str, float]:
    """Mean over images of each metric."""
    return {name: sum(record[name] for record in records) / len(records) for name in METRICS}
