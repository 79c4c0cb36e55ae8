"""The rows of one run -> its batches: made on the GPU where the decoded pairs fit, else by loader processes from pack or files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, default_collate

from common.errors import InputError, Stopped
from common.lists import SHOWN, shortened, write_lines
from common.log import RunLog
from data.cache import PairCache, ResidentFrames, ResidentPairs, open_cache, open_resident
from data.dataset import EvaluationPairs, Source, TrainingPairs, decoded_pair
from data.fingerprint import changed_photos
from data.loader import BatchKeys, EpochPlan, Mixing, equal_size_batches, evaluation_loader, training_batches
from engine.distributed import World
from engine.runtime import free_bytes
from engine.training.config import Options
from engine.training.plans import FoldPlan


class Feed:
    """Batches {"src", "tar": uint8 (B, 3, H, W), "index": (B,)} of one process, the same whatever they are made from.

    frames: the validation photos, one by one; validation: the same in batches of one size.
    """

    def __init__(
        self,
        plan: FoldPlan,
        options: Options,
        epoch_plan: EpochPlan,
        device: torch.device,
        world: World,
        source: Source,
        resident: ResidentPairs | None = None,
    ):
        data, train = options.data, options.train
        self.epoch_plan, self.train, self.world, self.resident = epoch_plan, train, world, resident
        self.folder = plan.folder
        self.workers, self.pin, self.source = data.num_workers, device.type == "cuda", source
        pairs = [*plan.train, *plan.mix]
        self.samples = TrainingPairs(
            pairs, data.resolution, data.fit, data.preprocess, train.seed, source, epoch_plan.draws
        )
        self.frames = EvaluationPairs(plan.val, data.resolution, data.fit, source)
        batches = world.share(equal_size_batches(self.frames, train.batch_size))
        self.validation: DataLoader | ResidentFrames
        if resident is not None:
            self.validation = resident.frames(self.frames, batches)
        else:
            self.validation = evaluation_loader(self.frames, batches, data.num_workers, self.pin)

    def training(self, first_update: int) -> Iterator[dict]:
        """All batches from update `first_update` to the last one of the last epoch."""
        train, world = self.train, self.world
        keys = BatchKeys(self.epoch_plan, train.seed, train.epochs, first_update, world.rank, world.size)
        if self.resident is not None:
            return self.resident.training_batches(self.samples, keys)
        return training_batches(self.samples, keys, self.workers, self.pin)

    def first_batch(self) -> dict:
        """This process's share of the batch that the first update will see, loaded in this process."""
        keys = self.epoch_plan.keys(self.train.seed, 0)[: self.train.batch_size]
        return default_collate([self.samples[key] for key in self.world.share(keys)])

    def changes(self) -> list[str]:
        """Read what all processes made their batches from once more; what is not what it was when the run began.

        What lies on a GPU was checked before it was copied there. Raises, on every process, InputError for photos that cannot be
        read, and Stopped.
        """
        changed: list[str] = []
        unreadable = stopped = None
        try:
            if isinstance(self.source, PairCache):
                changed = [] if self.resident or self.source.is_sound() else [f"pixels in {self.source.path}"]
            else:
                changed = changed_photos(self.world.share([*self.samples.pairs, *self.frames.pairs]))
        except InputError as error:
            unreadable = str(error)
        except Stopped as error:
            stopped = str(error)
        # No process may leave alone: the others would wait for it.
        everywhere = self.world.gather((changed, unreadable, stopped))
        for _, unreadable, stopped in everywhere:
            if stopped is not None:
                raise Stopped(stopped)
            if unreadable is not None:
                raise InputError(unreadable)
        return sorted({what for changed, _, _ in everywhere for what in changed})

    def names(self, group: list[dict]) -> str:
        """The sources of the photos in some batches, for messages."""
        return ", ".join(self.samples.pairs[index].src for batch in group for index in batch["index"].tolist())

    def names_of(self, update: int, ranks: list[int]) -> str:
        """The sources of the photos of update `update` (from 0) in the processes `ranks` (none: in all), for messages.

        With several processes, each process's own; every process can tell, since the keys say who sees what.
        """
        told, size = [], self.world.size
        for rank in ranks or range(size):
            keys = BatchKeys(self.epoch_plan, self.train.seed, self.train.epochs, update, rank, size)
            batches = itertools.islice(keys, self.train.accumulate_steps)
            photos = [self.samples.pairs[key.index].src for batch in batches for key in batch]
            told += photos if size == 1 else [f"{photo} (process {rank})" for photo in photos]
        if len(told) <= SHOWN:
            return ", ".join(told)
        path = self.folder / f"photos_of_update_{update + 1}.txt"
        if self.world.writes:
            write_lines(path, told)
        return f"{shortened(told)}, all of them in {path}"


def plan_epochs(plan: FoldPlan, options: Options) -> EpochPlan:
    """How many updates make an epoch, and which pairs each of them sees. Raises InputError for an absurd batch."""
    train, ratio = options.train, options.data.mix_ratio if plan.mix else 0.0
    mixing = Mixing(len(plan.mix), ratio, train.epochs)
    return EpochPlan(len(plan.train), train.batch_size, train.accumulate_steps, mixing)


def open_feed(
    plan: FoldPlan, options: Options, epoch_plan: EpochPlan, device: torch.device, world: World, log: RunLog
) -> Feed:
    """The feed that --cache asks for. Raises InputError (a photo, no room on the disk), Stopped."""
    data, cache, resident = options.data, None, None
    if data.cache != "off":
        output_dir = plan.folder if plan.number is None else plan.folder.parent
        # A folder of its own: --cache_dir is often one that others use as well.
        folder = Path(data.cache_dir) / "darkir-cache" if data.cache_dir else output_dir / "cache"
        pairs = [*plan.train, *plan.val, *plan.mix]
        cache = open_cache(pairs, data.resolution, data.fit, data.cache, folder, log)
    free = free_on_gpu(device)
    if cache is not None and data.cache == "auto" and free is not None:
        resident = open_resident(cache, device, free, log)
    return Feed(plan, options, epoch_plan, device, world, cache or decoded_pair, resident)


def free_on_gpu(device: torch.device) -> int | None:
    """Bytes that a GPU can still give; None for the CPU, whose memory the pack is mapped into anyway."""
    return free_bytes(device) if device.type == "cuda" else None
