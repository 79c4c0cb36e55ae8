"""A pack of decoded pairs on the device itself: batches are cut, flipped, turned and toned there, bit for bit as the loader's.

In: a PairCache, copied once. Out: what the loaders of data/loader.py yield, with "src" and "tar" on the device; no process, no
copy of a pixel on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from data import stop
from data.cache import GIB, PairCache
from data.dataset import EvaluationPairs, SampleKey, TrainingPairs
from data.transforms import lattice, toned

SHARE = 0.25  # of the free memory of the device, before training takes its own
CHUNK = 2**28  # bytes a copy: a stop signal is seen in between


class ResidentPairs:
    """The pixels of `cache` on `device`, and batches made from them. Raises stop.Interrupted while it is filled."""

    def __init__(self, cache: PairCache, device: torch.device):
        self.cache = cache
        self.pixels = torch.empty(cache.pixels.shape, dtype=torch.uint8, device=device)
        for target, source in zip(self.pixels.split(CHUNK), cache.pixels.split(CHUNK), strict=True):
            stop.check()
            target.copy_(source)

    @property
    def advice(self) -> str:
        """What to tell a user whose batch did not fit beside the pixels."""
        return f"--cache disk takes {self.pixels.numel() / GIB:.2f} GiB of decoded photos off the GPU."

    def training_batches(self, dataset: TrainingPairs, keys: Iterable[list[SampleKey]]) -> Iterator[dict]:
        """What `data.loader.training_batches` yields for the same dataset and keys."""
        return (self.training_batch(dataset, batch) for batch in keys)

    def training_batch(self, dataset: TrainingPairs, keys: list[SampleKey]) -> dict:
        """{"src", "tar": uint8 (B, 3, R, R) on the device, "index": int64 (B,) on the host}."""
        side, device = dataset.resolution, self.pixels.device
        draws = [dataset.draw(key) for key in keys]
        places = []
        for key, draw in zip(keys, draws, strict=True):
            width, height = dataset.size_of(key.index)
            start = self.cache.start_of(dataset.pairs[key.index], (width, height))
            places.append((start, width * height, *lattice(draw, width, side)))
        start, plane, first, down, across = (
            column.view(-1, 1, 1, 1) for column in torch.tensor(places).to(device, non_blocking=True).unbind(1)
        )
        step = torch.arange(side, device=device)
        channel = torch.arange(3, device=device).view(1, 3, 1, 1)
        source = start + channel * plane + (first + step.view(1, 1, -1, 1) * down + step * across)
        src, tar = self.pixels[source], self.pixels[source + 3 * plane]
        if draws[0].tables is not None:
            tables = torch.from_numpy(np.stack([draw.tables for draw in draws]))
            src = toned(src, tables.to(device, non_blocking=True))
        return {"src": src, "tar": tar, "index": torch.tensor([key.index for key in keys])}

    def frames(self, dataset: EvaluationPairs, batches: list[list[int]]) -> ResidentFrames:
        """What `data.loader.evaluation_loader` makes of the same dataset and batches."""
        return ResidentFrames(self, dataset, batches)


class ResidentFrames:
    """Whole frames in the given batches of indices, each of one frame size; can be iterated again and again."""

    def __init__(self, resident: ResidentPairs, dataset: EvaluationPairs, batches: list[list[int]]):
        self.resident = resident
        self.dataset = dataset
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict]:
        for batch in self.batches:
            src, tar = torch.stack([self._pair(index) for index in batch], dim=1)
            yield {"src": src, "tar": tar, "index": torch.tensor(batch)}

    def _pair(self, index: int) -> torch.Tensor:
        """Source and target as one view: uint8 (2, 3, H, W)."""
        width, height = self.dataset.size_of(index)
        start = self.resident.cache.start_of(self.dataset.pairs[index], (width, height))
        return self.resident.pixels[start : start + 6 * width * height].view(2, 3, height, width)


def open_resident(
    cache: PairCache, device: torch.device, free: int, log: Callable[[str], None]
) -> ResidentPairs | None:
    """The pack on a GPU where SHARE of its `free` bytes holds it, else None; a log line says which, and the sizes."""
    needed = cache.pixels.numel()
    sizes = f"{needed / GIB:.2f} GiB of pixels, {free / GIB:.2f} GiB free on the GPU"
    if needed > SHARE * free:
        log(f"Cache: {sizes}: more than {SHARE:.0%} of it, so loader processes make the batches")
        return None
    log(f"Cache: {sizes}: copied there, where batches are made without loader processes (--cache disk: not copied)")
    return ResidentPairs(cache, device)
