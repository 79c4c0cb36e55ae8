"""Several networks -> one restored photo, and the records of all of them from one pass over the photos.

The ensemble is the mean of the clamped outputs. Networks run one after another on each batch, so what stays in memory
is the batch, one output and the running sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch

from darkir.architectures import Network
from darkir.engine.errors import OutOfMemory, lacks_memory
from darkir.engine.evaluation import Restore, frames, identity, restorer
from darkir.engine.metrics import photo_records
from darkir.engine.runtime import Precision
from data.manifest import Pair

IDENTITY, ENSEMBLE = "identity", "ensemble"
# Dimensions of (B, 3, H, W) to turn over: as shot, left-right, upside down, both.
FLIPS = ((), (3,), (2,), (2, 3))


class Named(Protocol):
    """What is scored: a network and its name."""

    name: str
    network: Network


OnRestored = Callable[[list[int], torch.Tensor, torch.Tensor, torch.Tensor, list[float]], None]


def make_restorers(
    models: Sequence[Named], tta: bool, precision: Precision, device: torch.device
) -> dict[str, Restore]:
    """Move the networks to `device` and give one restoring function for each: (B, 3, H, W) in [0, 1] in and out."""
    restorers = {}
    for model in models:
        restore = restorer(model.network.to(device, memory_format=torch.channels_last), precision)
        restorers[model.name] = with_flips(restore) if tta else restore
    return restorers


def with_flips(restore: Restore) -> Restore:
    """`--tta`: the mean of the outputs for the four flips of a photo, each flipped back. Four forward passes."""

    def restore_flips(src: torch.Tensor) -> torch.Tensor:
        return sum(restore(src.flip(dims)).flip(dims) for dims in FLIPS) / len(FLIPS)

    return restore_flips


def restored_by_each(restorers: dict[str, Restore], src: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, restored (B, 3, H, W) in [0, 1]) for every network, then the ensemble when there are several."""
    total = torch.zeros_like(src) if len(restorers) > 1 else None
    for name, restore in restorers.items():
        try:
            restored = restore(src)
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            size = f"{len(src)} x {src.shape[3]} x {src.shape[2]} pixels"
            raise OutOfMemory(f"{name}: no memory on {src.device} for a batch of {size}") from error
        if total is not None:
            total += restored
        yield name, restored
    if total is not None:
        yield ENSEMBLE, total.div_(len(restorers))


def score_all(
    restorers: dict[str, Restore],
    loader: Iterable[dict],
    pairs: list[Pair],
    device: torch.device,
    on_restored: OnRestored,
) -> dict[str, list[dict]]:
    """Score the untouched photo, every network and the ensemble.

    Returns name -> [{"src", "psnr", "ssim", "l1"}] in the order of `pairs`. `on_restored(indices, src, restored, tar,
    psnr)` gets each batch with the final output: the ensemble's, or the only network's.
    Raises Stopped between batches, RunFailed when an output is not finite, DataError for frames too small for SSIM.
    """
    names = [IDENTITY, *restorers, *([ENSEMBLE] if len(restorers) > 1 else [])]
    records: dict[str, list[dict]] = {name: [{}] * len(pairs) for name in names}
    for src, tar, indices in frames(loader, device):
        photos = [pairs[index] for index in indices]
        for name, restored in [(IDENTITY, identity(src)), *restored_by_each(restorers, src)]:
            scored = photo_records(restored, tar, photos, name)
            for index, record in zip(indices, scored, strict=True):
                records[name][index] = record
        on_restored(indices, src, restored, tar, [record["psnr"] for record in scored])
    return records
