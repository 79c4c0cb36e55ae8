"""`--dry_run`: everything is checked and timed, nothing is written. Says what the run would take before a cluster is booked."""

from __future__ import annotations

import resource
import shutil
import statistics
import time
from pathlib import Path

from darkir.engine.checkpoint import finished
from darkir.engine.distributed import World
from darkir.engine.evaluation import restorer, to_float
from darkir.engine.feed import Feed
from darkir.engine.fold import FoldTraining
from darkir.engine.run_config import FoldPlan, Options
from darkir.engine.runlog import RunLog
from data.dataset import decoded_pair

TIMED_UPDATES = 3
TIMED_FRAMES = 3
STATE_BYTES = 16  # a parameter in a state file: raw, averaged, and AdamW's two moments, float32 each
WEIGHT_BYTES = 4
GIB = 2**30


def dry_run(plans: list[FoldPlan], options: Options, output_dir: Path, log: RunLog) -> None:
    """Check every plan's rows and weights, rehearse the first unfinished one, and log estimates of time, memory and disk.

    Raises what the run itself would raise: RunRefused, ModelError, LossError, DataError, RunFailed.
    """
    todo = [plan for plan in plans if finished(plan.folder) is None]
    log(f"Dry run: {len(plans)} runs, {len(plans) - len(todo)} of them finished; nothing is written")
    if not todo:
        return
    trainings = [FoldTraining(plan, options, log, World()) for plan in todo]
    log("No test photo among training or validation rows, or in what the starting weights saw")
    training = trainings[0]
    training.describe()
    feed = Feed(training.plan, options, training.epoch_plan, World(), decoded_pair)
    seconds = _epoch_seconds(training, feed, log)
    left = [options.train.epochs - len(each.progress.history) for each in trainings]
    _log_time(seconds, left, log)
    _log_disk(training, len(todo), output_dir, log)
    _log_memory(training, log)


def _epoch_seconds(training: FoldTraining, feed: Feed, log: RunLog) -> float:
    """Seconds of one epoch, from a few timed updates and validation frames on a copy of the network."""
    rehearsal = training.self_test(feed)
    updates, frames = [], []
    for _ in range(TIMED_UPDATES):
        started = time.monotonic()
        batch = feed.first_batch()
        loaded = time.monotonic()
        rehearsal.update(batch)
        updates.append((loaded - started, time.monotonic() - loaded))
    dataset = feed.validation.dataset
    restore = restorer(rehearsal.learner.network, training.precision)
    for index in range(min(TIMED_FRAMES, len(dataset))):
        started = time.monotonic()
        restore(to_float(dataset[index]["src"][None], training.options.device)).sum().item()
        frames.append(time.monotonic() - started)
    load, step = (statistics.median(column) for column in zip(*updates, strict=True))
    workers = training.options.data.num_workers
    # Workers load while the device computes; without them the two add up.
    batches = training.epoch_plan.updates * training.options.train.accumulate_steps
    waited = max(step, load / workers) if workers else step + load
    frame = statistics.median(frames)
    log(f"One batch: {step:.2f} s to compute, {load:.2f} s to load in one process; one validation photo: {frame:.2f} s")
    return batches * waited + len(dataset) * frame


def _log_time(epoch_seconds: float, epochs_left: list[int], log: RunLog) -> None:
    epochs, runs = sum(epochs_left), len(epochs_left)
    log(
        f"Estimate: {epoch_seconds:.0f} s an epoch, {epoch_seconds * epochs / 3600:.1f} hours for {epochs} epochs in {runs} runs"
    )


def _log_disk(training: FoldTraining, runs: int, output_dir: Path, log: RunLog) -> None:
    train = training.options.train
    parameters = sum(parameter.numel() for parameter in training.learner.network.parameters())
    kept = train.epochs // train.save_every if train.save_every else 0
    # While a state is written, the last, the one before and the new one stand side by side.
    needed = runs * parameters * (STATE_BYTES * (3 + kept) + WEIGHT_BYTES * 2)
    place = next(folder for folder in (output_dir.absolute(), *output_dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    verdict = "enough" if free > needed else "⚠️  NOT ENOUGH"
    log(f"Disk: {needed / GIB:.2f} GiB of checkpoints for {runs} runs, {free / GIB:.1f} GiB free at {place}: {verdict}")


def _log_memory(training: FoldTraining, log: RunLog) -> None:
    if training.memory is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        log(f"Memory: {peak / GIB:.2f} GiB so far in this process")
        return
    use, train = training.memory, training.options.train
    needed = use.fixed + train.batch_size * use.per_sample
    log(
        f"GPU memory: about {needed / GIB:.1f} of {use.capacity / GIB:.1f} GiB at batch {train.batch_size}; "
        f"estimated largest batch: {use.largest_batch()}"
    )
