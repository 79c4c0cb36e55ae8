"""`--dry_run`: everything is checked and timed, nothing is written. Says what the run would take before a cluster is booked."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import time
from pathlib import Path

import torch

from common.errors import RunFailed
from common.log import RunLog
from data.dataset import decoded_pair
from engine.distributed import World
from engine.inference import restorer, to_float
from engine.runtime import free_bytes
from engine.training.config import Options
from engine.training.feed import Feed
from engine.training.plans import FoldPlan
from engine.training.resume import begin, best_beside_state, epochs_behind, finished_before
from engine.training.run import Run, describe, from_where_it_stands, make_run
from engine.training.self_test import Rehearsal, rehearse_on_copy, self_test
from engine.training.updates.learner import Learner
from engine.training.updates.memory import MemoryUse, counted_use, memory_advice
from engine.training.updates.update import NonFinite

TIMED_UPDATES = 3
TIMED_FRAMES = 3
SMALL_SIDE = 128
UPDATE_COST = 3.0  # forward passes that an update takes as long as
OVERHEAD = 3  # updates that the self-test takes as long as, one of them on the first batch
PATIENCE = 30.0  # seconds of an update that is tried at full size
STATE_BYTES = 16  # a parameter in a state file: raw, averaged, and AdamW's two moments, float32 each
WEIGHT_BYTES = 4
GIB = 2**30


def dry_run(plans: list[FoldPlan], options: Options, device: torch.device, output_dir: Path, log: RunLog) -> None:
    """Check every plan's rows and weights, rehearse the first unfinished one, and log estimates of time, memory and disk.

    Raises what the run itself would raise: InputError, ModelError, RunFailed.
    """
    todo = [plan for plan in plans if not finished_before(plan, options, log)]
    log(f"Dry run: {len(plans)} runs, {len(plans) - len(todo)} of them finished; nothing is written")
    if not todo:
        return
    run = make_run(todo[0], options, device, World(), log)
    learner, progress, *_ = begin(run)
    run = from_where_it_stands(run, progress)
    best_beside_state(run.plan, options, progress, log)
    epochs = options.train.epochs
    epochs_left = [epochs - progress.epochs, *(epochs - epochs_behind(plan, options, log) for plan in todo[1:])]
    log("No test photo among training or validation rows, or in what the starting weights saw")
    describe(run, learner)
    feed = Feed(run.plan, options, run.epoch_plan, device, World(), decoded_pair)
    batch_size, side = options.train.batch_size, options.data.resolution
    counted = counted_use(learner.network, run.objective, run.precision, side, free_bytes(device))
    _log_memory(counted, batch_size, "counted", log)
    if counted.largest_batch() < batch_size and device.type == "cpu":
        # The system would end this process instead of saying no.
        raise RunFailed(memory_advice(counted, batch_size, side))
    rehearsal = rehearse_on_copy(learner.network, run.objective, run.precision, options.train)
    small, share = _small_update_seconds(rehearsal, feed), max(1.0, (side / SMALL_SIDE) ** 2)
    expected = small * batch_size * share
    if expected > PATIENCE:
        log(
            f"One update: about {expected:.0f} s, from one sample of {SMALL_SIDE} x {SMALL_SIDE}; not tried at full size, as "
            f"the self-test and {TIMED_UPDATES} updates would take {expected * (OVERHEAD + TIMED_UPDATES) / 60:.0f} min"
        )
        updates = run.epoch_plan.updates * options.train.accumulate_steps
        seconds = updates * expected + len(feed.frames) * small * share / UPDATE_COST
    else:
        memory = self_test(rehearsal, feed, options.train, log)
        seconds = _epoch_seconds(run, rehearsal, feed)
        if memory is not None:
            _log_memory(memory, batch_size, "measured from one sample", log)
    log(
        f"Estimate: {seconds:.0f} s an epoch, {seconds * sum(epochs_left) / 3600:.1f} hours for {sum(epochs_left)} epochs in "
        f"{len(todo)} runs"
    )
    _log_disk(learner, options, len(todo), output_dir, log)


def _epoch_seconds(run: Run, rehearsal: Rehearsal, feed: Feed) -> float:
    """Seconds of one epoch, from a few timed updates and validation frames on a copy of the network."""
    updates, frames = [], []
    for _ in range(TIMED_UPDATES):
        started = time.monotonic()
        batch = feed.first_batch()
        loaded = time.monotonic()
        with contextlib.suppress(NonFinite):  # takes as long; the self-test has named its photos
            rehearsal.update(batch)
        updates.append((loaded - started, time.monotonic() - loaded))
    dataset = feed.frames
    restore = restorer(rehearsal.network, run.precision, run.log)
    for index in range(min(TIMED_FRAMES, len(dataset))):
        started = time.monotonic()
        restore(to_float(dataset[index]["src"][None], run.device)).sum().item()
        frames.append(time.monotonic() - started)
    load, step = (statistics.median(column) for column in zip(*updates, strict=True))
    frame, workers = statistics.median(frames), run.options.data.num_workers
    run.log(
        f"One batch: {step:.2f} s to compute, {load:.2f} s to load in one process; one validation photo: {frame:.2f} s"
    )
    # Workers load while the device computes; without them the two add up.
    waited = max(step, load / workers) if workers else step + load
    return run.epoch_plan.updates * run.options.train.accumulate_steps * waited + len(dataset) * frame


def _log_disk(learner: Learner, options: Options, runs: int, output_dir: Path, log: RunLog) -> None:
    train = options.train
    parameters = sum(parameter.numel() for parameter in learner.network.parameters())
    kept = train.epochs // train.save_every if train.save_every else 0
    # While a state is written, the last, the one before and the new one stand side by side.
    needed = runs * parameters * (STATE_BYTES * (3 + kept) + WEIGHT_BYTES * 2)
    place = next(folder for folder in (output_dir.absolute(), *output_dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    verdict = "enough" if free > needed else "⚠️  NOT ENOUGH"
    log(f"Disk: {needed / GIB:.2f} GiB of checkpoints for {runs} runs, {free / GIB:.1f} GiB free at {place}: {verdict}")


def _small_update_seconds(rehearsal: Rehearsal, feed: Feed) -> float:
    """Seconds of an update with one sample of at most SMALL_SIDE pixels a side; of the second one, as the first makes plans."""
    batch = {name: value[:1] for name, value in feed.first_batch().items()}
    batch |= {name: batch[name][..., :SMALL_SIDE, :SMALL_SIDE] for name in ("src", "tar")}
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        with contextlib.suppress(NonFinite):  # the self-test names its photos
            rehearsal.update(batch)
        seconds = time.monotonic() - started
    return seconds


def _log_memory(use: MemoryUse, batch_size: int, how: str, log: RunLog) -> None:
    needed = use.fixed + batch_size * use.per_sample
    log(
        f"Memory of an update, {how}: about {needed / GIB:.1f} GiB at batch {batch_size}, {use.capacity / GIB:.1f} GiB are free; "
        f"estimated largest batch: {use.largest_batch()}"
    )
