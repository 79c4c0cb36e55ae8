"""The rows of one run -> its batches: made on the GPU where the decoded pairs fit, else by loader processes from pack or files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import default_collate

from darkir.engine.distributed import World
from darkir.engine.free_memory import free_bytes
from darkir.engine.run_config import FoldPlan, Options
from darkir.engine.runlog import RunLog
from data.cache import open_cache
from data.dataset import EvaluationPairs, Source, TrainingPairs, decoded_pair
from data.loader import BatchKeys, EpochPlan, equal_size_batches, evaluation_loader, training_batches
from data.resident import ResidentPairs, open_resident


class Feed:
    """Batches {"src", "tar": uint8 (B, 3, H, W), "index": (B,)} of one process, the same whatever they are made from.

    validation: whole frames, in batches of one size; its `dataset` gives single ones.
    """

    def __init__(
        self,
        plan: FoldPlan,
        options: Options,
        epoch_plan: EpochPlan,
        world: World,
        source: Source,
        resident: ResidentPairs | None = None,
    ):
        data, train = options.data, options.train
        pairs = [*plan.train, *plan.mix]
        self.epoch_plan, self.train, self.world, self.resident = epoch_plan, train, world, resident
        self.workers, self.pin = data.num_workers, options.device.type == "cuda"
        self.samples = TrainingPairs(pairs, data.resolution, data.fit, data.preprocess, train.seed, source)
        frames = EvaluationPairs(plan.val, data.resolution, data.fit, source)
        batches = world.share(equal_size_batches(frames, train.batch_size))
        if resident is not None:
            self.validation = resident.frames(frames, batches)
        else:
            self.validation = evaluation_loader(frames, batches, data.num_workers, self.pin)

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


def open_feed(plan: FoldPlan, options: Options, epoch_plan: EpochPlan, world: World, log: RunLog) -> Feed:
    """The feed that --cache asks for. Raises DataError (a photo, no room on the disk), stop.Interrupted."""
    data, cache, resident = options.data, None, None
    if data.cache != "off":
        output_dir = plan.folder if plan.number is None else plan.folder.parent
        folder = Path(data.cache_dir) if data.cache_dir else output_dir / "cache"
        pairs = [*plan.train, *plan.val, *plan.mix]
        cache = open_cache(pairs, data.resolution, data.fit, data.cache, folder, log)
    free = free_on_gpu(options.device)
    if cache is not None and data.cache == "auto" and free is not None:
        resident = open_resident(cache, options.device, free, log)
    return Feed(plan, options, epoch_plan, world, cache or decoded_pair, resident)


def free_on_gpu(device: torch.device) -> int | None:
    """Bytes that a GPU can still give; None for the CPU, whose memory the pack is mapped into anyway."""
    return free_bytes(device) if device.type == "cuda" else None
