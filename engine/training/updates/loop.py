"""The updates of a run, one after the other: the next is started before the numbers of the last are read.

So the host waits for the device only where it wants to know something: before a state is saved, and at the end of an epoch.
"""

from __future__ import annotations

import time

import torch

from common import signals
from common.errors import RunFailed
from common.log import alive
from engine.training.feed import Feed
from engine.training.history import Progress
from engine.training.run import Run
from engine.training.updates.execution import Stepper, train_step
from engine.training.updates.memory import MemoryUse, memory_advice
from engine.training.updates.update import NonFinite, Started


class Updates:
    """Starts the updates of `run` from where `progress` stands, and counts in `progress` what is known of them.

    started: over all epochs; one more than `progress.step` while the numbers of the last one have not been read.
    """

    def __init__(self, run: Run, stepper: Stepper, feed: Feed, progress: Progress, memory: MemoryUse | None):
        self.run, self.stepper, self.feed, self.progress, self.memory = run, stepper, feed, progress, memory
        self.batches = feed.training(progress.step)
        self.started = progress.step
        self._unread: Started | None = None
        self._wish = False
        self._clock = time.monotonic()

    def start_next(self) -> None:
        """Start one update with the next batches, then read the numbers of the one before. Raises RunFailed as `read` does."""
        alive()
        config, update = self.run.options.train, self.started
        if self._unread is None:
            self._clock = time.monotonic()
        group = [next(self.batches) for _ in range(config.accumulate_steps)]
        wish = self.run.world.size > 1 and signals.requested() is not None
        try:
            started = train_step(self.stepper, group, update, self.run.learning_rate(update), wish)
        except torch.OutOfMemoryError as fault:
            advice = memory_advice(self.memory, config.batch_size, self.feed.samples.resolution, self.feed.resident)
            raise RunFailed(advice) from fault
        self.started += 1
        self.read()
        self._unread = started

    def read(self) -> None:
        """Wait for the numbers of the update that was started last, and count it; one that was not finite is left out.

        Raises RunFailed when no more may be left out. Its weights are as they were then, and no state was saved since.
        """
        if self._unread is None:
            return
        started, self._unread = self._unread, None
        run, progress = self.run, self.progress
        progress.execution = self.stepper.mode  # which a failure may have changed
        try:
            result = started.result()
        except NonFinite as fault:
            where = f"{fault.what} is not finite at update {progress.step + 1} (epoch {progress.epochs + 1})"
            allowed = run.options.train.skip_bad_batches
            photos = self.feed.names_of(progress.step, fault.ranks)
            if progress.bad_batches >= allowed:
                raise RunFailed(
                    f"{where}; the weights were not changed and the last checkpoint is sound. Photos of the batch: "
                    f"{photos}. Look at them, then try a lower --lr or float32; --skip_bad_batches N leaves out "
                    "up to N such updates."
                ) from fault
            progress.bad_batches += 1
            count = f"{progress.bad_batches} of {allowed} allowed"
            run.log(f"⚠️  {where}: left out, {count}. Photos: {photos}")
            progress.count_bad_batch(self._lap())
        else:
            self._wish = result.stop
            progress.count_update(result.terms, result.grad_norm, result.skipped, self._lap())

    def stop_requested(self) -> bool:
        """Whether a process got a signal to stop: the same answer in all of them, with several by one update later."""
        return self._wish if self.run.world.size > 1 else signals.requested() is not None

    def _lap(self) -> float:
        """Seconds since the last lap, or since an update was started with none before it."""
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        return seconds
