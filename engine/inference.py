"""A network and whole frames -> one record of metrics an image: validation, out-of-fold scores and the test come from here.

First one network, in one pass or, where memory is short, in strips, which is equal but for rounding. Then several: the
ensemble is the mean of the clamped outputs, and all are scored in one pass over the photos. Networks run one after another
on each batch, so what stays in memory is the batch, one output and the running sum.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import nn

from common import signals
from common.errors import OutOfMemory, Stopped, lacks_memory
from common.log import alive
from darkir.network import DarkIR
from darkir.strips import restore_in_strips
from data.loader import start_workers
from data.manifest import Pair
from engine.distributed import World
from engine.metrics import METRICS, Score, photo_records
from engine.runtime import Precision, free_bytes

# Peak of the one-pass form: so many residual streams (width x pixels, float32) and the libraries' work areas. 11.5 streams are
# counted in the last decoder block, where the widest features take two each. On the CPU bench/bench_whole_photo.py measured
# 740 to 840 MiB at 752 x 500 pixels (--height, --width) and 2360 to 2480 at 1504 x 1000, against 850 and 2640 by 13 streams;
# with --kept, the allocator of the scripts that keep what is freed, 4110 at 1504 x 1000. CUDA's is the count with some room,
# not measured.
CUDA_STREAMS, CPU_STREAMS = 13, 23
WORK_AREAS = 256 * 2**20
# On the CPU a batch goes in strips from so many bytes of residual stream on (half a megapixel of DarkIR-m): a sixth of the
# memory in about the same time, and in less than half of it where glibc gives freed memory back (bench/bench_whole_photo.py).
CPU_STRIPS_FROM = 64 * 2**20

IDENTITY, ENSEMBLE = "identity", "ensemble"
# Dimensions of (B, 3, H, W) to turn over: as shot, left-right, upside down, both.
FLIPS = ((), (3,), (2,), (2, 3))

Restore = Callable[[torch.Tensor], torch.Tensor]
OnRestored = Callable[[list[int], torch.Tensor, torch.Tensor, torch.Tensor, list[float]], None]


class Named(Protocol):
    """What is scored: a network and its name."""

    @property
    def name(self) -> str: ...

    @property
    def network(self) -> nn.Module: ...


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
            assert isinstance(network, DarkIR)  # nothing else comes this far
            return restore_in_strips(network, src).float().clamp_(0.0, 1.0)

    return restore


def strips_are_better(network: nn.Module, src: torch.Tensor, free: int) -> bool:
    """Whether a batch (B, 3, H, W) should go in strips, with `free` bytes left on its device. Only DarkIR can."""
    if not isinstance(network, DarkIR):
        return False
    stream, on_cpu = stream_bytes(network, src), src.device.type == "cpu"
    one_pass = stream * (CPU_STREAMS if on_cpu else CUDA_STREAMS) + WORK_AREAS
    # The widest features have twice the stream's channels; libraries count their numbers in 32 bits, or did until lately.
    too_many = 2 * stream // 4 >= 2**31
    return one_pass > free or too_many or (on_cpu and stream >= CPU_STRIPS_FROM)


def stream_bytes(network: DarkIR, src: torch.Tensor) -> int:
    """Bytes of the widest residual stream for (B, 3, H, W) images, the padding included."""
    batch, _, height, width = src.shape
    padded = (height + -height % network.multiple) * (width + -width % network.multiple)
    return 4 * network.config.width * batch * padded


def identity(src: torch.Tensor) -> torch.Tensor:
    """The baseline that leaves the photo as it is."""
    return src


def frames(
    loader: Iterable[dict], device: torch.device, stoppable: bool = True
) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[int]]]:
    """Yield (source, target, indices) with the images as float32 (B, 3, H, W) in [0, 1] on `device`.

    Raises Stopped between batches after a signal, if `stoppable`.
    """
    for batch in start_workers(loader):
        if stoppable and signals.requested():
            raise Stopped(f"{signals.requested()} received while scoring images")
        alive()
        yield to_float(batch["src"], device), to_float(batch["tar"], device), batch["index"].tolist()


def score(
    restore: Restore, loader: Iterable[dict], pairs: list[Pair], device: torch.device, world: World
) -> list[dict]:
    """Score every image: [{"src", "psnr", "ssim", "l1"}] in the order of `pairs`, on every process of `world`.

    `loader` yields this process's share of the frames. With several processes a signal is not looked at here: one that left
    would let the others wait for ever.

    Raises Stopped between batches after a signal, RunFailed for an output that is not finite, and InputError for frames too
    small for SSIM.
    """
    mine: list[tuple[int, dict]] = []
    for src, tar, indices in frames(loader, device, stoppable=world.size == 1):
        photos = [pairs[index] for index in indices]
        mine += zip(indices, photo_records(restore(src), tar, photos, "validation"), strict=True)
    records: list[dict] = [{}] * len(pairs)
    for part in world.gather(mine):
        for index, record in part:
            records[index] = record
    return records


def mean_metrics(records: list[dict]) -> dict[str, float]:
    """Mean over images of each metric."""
    return {name: sum(record[name] for record in records) / len(records) for name in METRICS}


def make_restorers(
    models: Sequence[Named], tta: bool, precision: Precision, device: torch.device, warn: Callable[[str], None]
) -> dict[str, Restore]:
    """Move the networks to `device` and give one restoring function for each: (B, 3, H, W) in [0, 1] in and out.

    `warn` is told as by `restorer`.
    """
    restorers = {}
    for model in models:
        # torch's stubs lack memory_format beside a device.
        network = model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        restore = restorer(network, precision, warn)
        restorers[model.name] = with_flips(restore) if tta else restore
    return restorers


def with_flips(restore: Restore) -> Restore:
    """`--tta`: the mean of the outputs for the four flips of a photo, each flipped back. Four forward passes."""

    def restore_flips(src: torch.Tensor) -> torch.Tensor:
        total = sum(restore(src.flip(dims)).flip(dims) for dims in FLIPS)
        assert isinstance(total, torch.Tensor)  # not the 0 of an empty sum
        return total / len(FLIPS)

    return restore_flips


def restored_by_each(restorers: dict[str, Restore], src: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, restored (B, 3, H, W) in [0, 1]) for every network, then the ensemble when there are several.

    Raises OutOfMemory, naming the network, when the batch does not fit.
    """
    total = torch.zeros_like(src) if len(restorers) > 1 else None
    for name, restore in restorers.items():
        try:
            restored = restore(src)
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            size = f"{len(src)} x {src.shape[3]} x {src.shape[2]} pixels"
            raise OutOfMemory(f"{name}: no memory on {src.device} for a batch of {size}") from error
        alive()
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
    lpips: Score | None = None,
) -> dict[str, list[dict]]:
    """Score the untouched photo, every network and, when there are several, their ensemble.

    Returns name -> [{"src", every one of METRICS and COLOUR, and LPIPS with `lpips`}] in the order of `pairs`.
    `on_restored(indices, src, restored, tar, gains)` gets each batch with the final output: the ensemble's, or the only network's,
    and its PSNR above the source's, in dB.
    Raises Stopped between batches after a signal, RunFailed for an output that is not finite, OutOfMemory for a batch that
    does not fit, and InputError for frames too small for SSIM.
    """
    names = [IDENTITY, *restorers, *([ENSEMBLE] if len(restorers) > 1 else [])]
    records: dict[str, list[dict]] = {name: [{}] * len(pairs) for name in names}
    for src, tar, indices in frames(loader, device):
        photos = [pairs[index] for index in indices]
        for name, restored in itertools.chain([(IDENTITY, src)], restored_by_each(restorers, src)):
            scored = photo_records(restored, tar, photos, name, colour=True, lpips=lpips)
            for index, record in zip(indices, scored, strict=True):
                records[name][index] = record
        untouched = (records[IDENTITY][index]["psnr"] for index in indices)
        gains = [record["psnr"] - psnr for record, psnr in zip(scored, untouched, strict=True)]
        on_restored(indices, src, restored, tar, gains)
    return records
