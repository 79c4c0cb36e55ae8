"""Samples -> batches. What the training loader yields depends on (seed, step) alone, so a restart continues in mid-epoch."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, queues
from multiprocessing.process import BaseProcess

import torch
from torch.utils.data import DataLoader

from common import signals
from common.errors import InputError, loader_fault
from common.memory import usable_cpus
from data.dataset import EvaluationPairs, SampleKey, TrainingPairs
from data.transforms import DRAWS, order_generator

MAX_DRAWS = 100  # of one photo in one update: more is a slip of the keyboard, and would fill the memory with keys


@dataclass(frozen=True)
class Mixing:
    """Foreign pairs among the samples: their share falls evenly from `ratio` in the first epoch to 0 in the last of `epochs`."""

    pairs: int = 0
    ratio: float = 0.0
    epochs: int = 1

    def share(self, epoch: int) -> float:
        """Share of foreign samples in epoch `epoch` (from 0)."""
        return self.ratio * max(0.0, 1 - epoch / max(1, self.epochs - 1))


@dataclass(frozen=True)
class EpochPlan:
    """How many updates make an epoch, and which pairs each of them sees.

    Every pair is seen at least once an epoch, except that foreign pairs take some of the places (`mixing`); their indices
    begin behind those of the own pairs. So that all batches have one size, the last one is filled from a second
    shuffle of the same pairs (other crops: its samples carry draw 1). draws: the version of the order (data/transforms.py).
    """

    pairs: int
    batch_size: int
    accumulate_steps: int
    mixing: Mixing = Mixing()
    draws: int = DRAWS

    def __post_init__(self):
        if self.samples_per_update > MAX_DRAWS * self.pairs:
            raise InputError(
                f"--batch_size {self.batch_size} with --accumulate_steps {self.accumulate_steps}: an update would draw each of "
                f"the {self.pairs} training pairs more than {MAX_DRAWS} times"
            )

    @property
    def samples_per_update(self) -> int:
        return self.batch_size * self.accumulate_steps

    @property
    def updates(self) -> int:
        """Optimizer updates an epoch."""
        return -(-self.pairs // self.samples_per_update)

    @property
    def refilled(self) -> int:
        """Samples an epoch beyond one for each pair."""
        return self.updates * self.samples_per_update - self.pairs

    def keys(self, seed: int, epoch: int) -> list[SampleKey]:
        """All sample keys of an epoch, in order; updates * samples_per_update of them."""
        rng = order_generator(seed, epoch, self.draws)
        total = self.updates * self.samples_per_update
        draws = -(-total // self.pairs)
        shuffled = [
            SampleKey(epoch, draw, int(index)) for draw in range(draws) for index in rng.permutation(self.pairs)
        ]
        keys = shuffled[:total]
        foreign = round(self.mixing.share(epoch) * total)
        for draw, place in enumerate(rng.permutation(total)[:foreign]):
            keys[place] = SampleKey(epoch, draw, self.pairs + int(rng.integers(self.mixing.pairs)))
        return keys


@dataclass(frozen=True)
class BatchKeys:
    """Batch sampler over a whole run: from update `first_update` to the last update of the last epoch.

    Of each batch it yields the share of process `rank` of `ranks`: every ranks-th key.
    """

    plan: EpochPlan
    seed: int
    epochs: int
    first_update: int
    rank: int
    ranks: int

    def __len__(self) -> int:
        return (self.epochs * self.plan.updates - self.first_update) * self.plan.accumulate_steps

    def __iter__(self) -> Iterator[list[SampleKey]]:
        first_epoch, skipped = divmod(self.first_update, self.plan.updates)
        for epoch in range(first_epoch, self.epochs):
            keys = self.plan.keys(self.seed, epoch)[skipped * self.plan.samples_per_update :]
            skipped = 0
            for start in range(0, len(keys), self.plan.batch_size):
                yield keys[start + self.rank : start + self.plan.batch_size : self.ranks]


def training_batches(dataset: TrainingPairs, keys: BatchKeys, num_workers: int, pin: bool) -> Iterator[dict]:
    """Iterate {"src", "tar": uint8 (B, 3, R, R), "index": (B,)} over the batches of `keys`."""
    return start_workers(_loader(dataset, keys, num_workers, pin))


def evaluation_loader(dataset: EvaluationPairs, batches: list[list[int]], num_workers: int, pin: bool) -> DataLoader:
    """A loader of whole frames in the given batches of indices (see equal_size_batches)."""
    return _loader(dataset, batches, min(num_workers, len(dataset)), pin)


def equal_size_batches(dataset: EvaluationPairs, batch_size: int) -> list[list[int]]:
    """Indices in batches of one frame size each, sizes in order of first appearance; nothing is padded to share a batch."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index in range(len(dataset)):
        by_size.setdefault(dataset.size_of(index), []).append(index)
    return [same[start : start + batch_size] for same in by_size.values() for start in range(0, len(same), batch_size)]


def start_workers(loader: Iterable[dict]) -> Iterator[dict]:
    """The batches of a loader, with the stop signals held back while workers are forked, so that none dies of one.

    Raises InputError for a photo that cannot be read, in the words of this process, without the worker's traceback; a worker's
    death is RuntimeError or OSError, see `loader_fault`.
    """
    workers: list[BaseProcess] = []
    try:
        with signals.held_back():
            batches = iter(loader)
        workers = multiprocessing.active_children()
        yield from batches
    except (RuntimeError, OSError, EOFError) as error:
        connection.wait([worker.sentinel for worker in workers], timeout=1)
        codes = {worker.exitcode for worker in workers} - {None, 0}
        if errno.EMFILE in codes:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from error
        # What breaks first is sometimes the pipe to a worker, not the watch over it; nothing else here ends like that.
        if (codes or isinstance(error, (ConnectionError, EOFError))) and loader_fault(error) is None:
            raise RuntimeError(f"DataLoader worker exited unexpectedly: {error}") from error
        raise
    except InputError as error:
        # Raised in a worker, torch puts its traceback into the text.
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        raise InputError(str(error).rsplit(name, 1)[-1].strip()) from None


def _loader(dataset, batch_keys, num_workers: int, pin: bool) -> DataLoader:
    num_workers = min(num_workers, usable_cpus())  # more only get in each other's way, and torch warns
    return DataLoader(
        dataset,
        batch_sampler=batch_keys,
        num_workers=num_workers,
        pin_memory=pin,
        worker_init_fn=_begin_worker,
        # Fork: workers inherit the decoded set-up at no cost and the signal mask of held_back().
        multiprocessing_context="fork" if num_workers else None,
        persistent_workers=num_workers > 0,
        # Its own generator: otherwise every iter() draws from the global one and shifts it.
        generator=torch.Generator(),
    )


def _begin_worker(worker_id: int) -> None:
    signals.ignore_in_worker()
    # A batch that cannot be handed over: Python would print a traceback and drop it, and the main process would wait for ever.
    queues.Queue._on_queue_feeder_error = staticmethod(lambda error, batch: _end_worker(error))  # type: ignore[attr-defined]
    sys.excepthook = lambda kind, error, trace: _end_worker(error)  # its helper threads report there


def _end_worker(error: BaseException) -> None:
    """End this process with the system's error number as exit code."""
    # Python's word for a file that could not be handed over, because the receiver has too many.
    lost = errno.EMFILE if "ancdata" in str(error) else 1
    os._exit((error.errno if isinstance(error, OSError) else None) or lost)
