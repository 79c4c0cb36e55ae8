"""One training run from its rows to a finished folder, told in order: `train_fold` owns the folder, `train` is the recipe.

Begin or resume; self-test; for each epoch: for each batch one update; validate; record; save; stop test; finish. Everything random
derives from (seed, epoch, index), so that a run that was stopped ends as one that was not.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from common import signals
from common.errors import RunFailed, Stopped
from common.exits import flagged
from common.files import FolderLock, remove_stale_temporaries, utc_now
from common.log import RunLog
from darkir.architectures import title
from darkir.blocks import recompute_activations
from darkir.weights import load_into, make_network
from data.loader import EpochPlan
from engine import checkpoint
from engine.distributed import World
from engine.inference import identity, mean_metrics, restorer, score
from engine.provenance import Seen
from engine.runtime import Precision, choose_precision, describe_device
from engine.training.config import Options
from engine.training.feed import Feed, open_feed, plan_epochs
from engine.training.history import Progress, epoch_line, red_flags
from engine.training.learner import (
    Learner,
    frozen_stages,
    learning_rate,
    make_learner,
    set_learning_rate,
    set_trainable,
    warmup_updates,
)
from engine.training.plans import FoldPlan
from engine.training.resume import (
    Start,
    find_start,
    find_state,
    refuse_changes,
    refuse_leaks,
    remove_outputs,
    requested_config,
)
from engine.training.self_test import MemoryUse, memory_advice, rehearse_on_copy, self_test
from engine.training.state import RunFiles, restore_state
from engine.training.tracking import Tracker
from engine.training.update import NonFinite, discard_update, train_step
from losses.objective import Objective

SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Run:
    """What stays as it is during one run: what was requested, the parts made of it, and where things go."""

    plan: FoldPlan
    options: Options
    device: torch.device
    world: World
    log: RunLog
    requested: dict[str, Any]
    precision: Precision
    objective: Objective
    epoch_plan: EpochPlan

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.options.train.epochs * self.epoch_plan.updates

    @property
    def warmup(self) -> int:
        """Updates of its warm-up."""
        return warmup_updates(self.options.train.warmup_epochs, self.epoch_plan.updates, self.total_updates)


def train_fold(plan: FoldPlan, options: Options, device: torch.device, world: World, log: RunLog) -> None:
    """Train one fold to its end in `plan.folder`: skipped when finished there, continued when unfinished.

    Raises InputError (leak, changed options, lock, photos), Stopped (signal; state saved), RunFailed (numbers, memory).
    """
    with _owned(plan, options, log) if world.writes else contextlib.nullcontext():
        world.wait_for_all()  # for what rank 0 clears away
        done = checkpoint.finished_soundly(plan.folder, log)
        if done is not None:
            refuse_changes(done["config"], requested_config(plan, options), plan.folder, log)
            log(f"{plan.name}: finished before, skipped ({plan.folder})")
        else:
            sizes = f"{len(plan.train)} training pairs, {len(plan.val)} validation pairs"
            log(f"===== {plan.name}: {sizes}, {utc_now()} =====")
            train(make_run(plan, options, device, world, log))
        world.wait_for_all()  # for what rank 0 has written


@contextlib.contextmanager
def _owned(plan: FoldPlan, options: Options, log: RunLog) -> Iterator[None]:
    """Hold the folder's lock, with what a killed process left there cleared away."""
    with FolderLock(plan.folder) as lock:
        if lock.taken_over_from:
            log(f"⚠️  taking over {plan.folder} from process {lock.taken_over_from['pid']}, which died")
        remove_stale_temporaries(plan.folder)
        if options.overwrite:
            remove_outputs(plan.folder)
        yield


def make_run(plan: FoldPlan, options: Options, device: torch.device, world: World, log: RunLog) -> Run:
    """The constant parts of a run. Raises InputError for loss terms or batches that cannot be had."""
    return Run(
        plan=plan,
        options=options,
        device=device,
        world=world,
        log=log,
        requested=requested_config(plan, options),
        precision=choose_precision(device, options.train.mixed_precision, options.train.amp_dtype),
        objective=Objective(options.loss, device),
        epoch_plan=plan_epochs(plan, options),
    )


def train(run: Run) -> None:
    """Train until the last epoch or until patience ends, and leave checkpoint_final.pt, the proof that the run is finished."""
    config, updates = run.options.train, run.epoch_plan.updates
    learner, progress, seen = begin(run)
    feed = open_feed(run.plan, run.options, run.epoch_plan, run.device, run.world, run.log)
    describe(run, learner)
    memory = None
    if progress.step == 0:
        rehearsal = rehearse_on_copy(learner.network, run.objective, run.precision, run.device, config)
        memory = self_test(rehearsal, feed, config, run.log)
    facts = {"data": seen.as_plain(), "config": run.requested, "fold": run.plan.number, "split": run.plan.split}
    files = RunFiles(run.plan.folder, run.options.model.network, facts) if run.world.writes else None

    with Tracker(run.plan.folder, progress.epochs) if run.world.writes else contextlib.nullcontext() as tracker:
        batches = feed.training(progress.step)
        started, first_epoch = time.monotonic(), progress.epochs + 1
        while progress.epochs < config.epochs and not progress.stopped_early:
            epoch = progress.epochs + 1
            _unfreeze(run, learner, epoch - 1)

            saved_at, saved_step = time.monotonic(), progress.step
            with _progress_bar(run, epoch, progress.step % updates) as bar:
                while progress.step < epoch * updates:
                    update(run, learner, progress, feed, batches, memory)
                    bar.update()
                    _stop_if_requested(run, learner, progress, files)
                    every, made = config.checkpoint_every_steps, progress.step - saved_step
                    due = made >= every if every else time.monotonic() - saved_at >= SAVE_SECONDS
                    if due and progress.step < epoch * updates:
                        _save_state(files, learner, progress)
                        saved_at, saved_step = time.monotonic(), progress.step

            scores = _validate(run, learner, progress, feed, files)
            left_out = progress.totals["left_out"]
            lr = learning_rate(progress.step - 1, run.total_updates, run.warmup, config.lr)
            record = progress.end_epoch(scores, mean_metrics(scores), lr, run.epoch_plan.samples_per_update)
            pretrained = run.options.model.pretrained_path is not None
            flags = red_flags(progress.history, left_out, run.options.loss.lambda_l1, pretrained)
            record["flags"] = list(flags)
            patience = config.early_stopping_patience
            progress.stopped_early = bool(patience) and progress.epochs_without_gain >= patience

            if files is not None:
                _save_epoch(run, learner, progress, feed, files, tracker)
            _log_epoch(run, progress, flags)
            if epoch == first_epoch < config.epochs:
                seconds, left = time.monotonic() - started, config.epochs - epoch
                minutes = math.ceil(seconds * left / 60)
                run.log(f"This epoch took {seconds:.0f} s: at most {minutes} min for the other {left} epochs")
            _stop_if_requested(run, learner, progress, files=None)

        untouched = score(identity, feed.validation, run.plan.val, run.device, run.world)
        if files is not None:
            tracker.curves(progress.history)
            files.save_final(learner, progress, untouched)
            best = f"best PSNR {progress.best['psnr']:.2f}dB at epoch {progress.best['epoch']}"
            run.log(f"{run.plan.name} finished: {best} ({run.plan.folder})")


def begin(run: Run) -> tuple[Learner, Progress, Seen]:
    """The learner, where it stands, and what its weights will have seen: from the newest state, --resume, weights, or afresh.

    Raises InputError for leaks, for changed options and for states that do not fit, ModelError for weights that do not.
    """
    plan, options, log = run.plan, run.options, run.log
    start = find_start(plan, options, log)
    torch.manual_seed(options.train.seed + (plan.number or 0))
    network = make_network(options.model.network)
    if options.train.checkpoint_activations:
        recompute_activations(network)
    if start.weights is not None:
        with flagged("--pretrained_path", options.model.pretrained_path):
            matched = load_into(network, start.weights.params, start.weights.source, options.model.allow_partial)
        log(f"Starting from {start.weights.source}: {matched}")
    seen = refuse_leaks(plan, start, log)
    set_trainable(network, options.finetune, 0, run.objective.needs_side)
    network = network.to(run.device, memory_format=torch.channels_last)
    learner = make_learner(network, run.precision, options.train, options.finetune.layer_decay)
    progress = _resumed(run, start, learner) or Progress()
    return learner, progress, seen


def _resumed(run: Run, start: Start, learner: Learner) -> Progress | None:
    found = find_state(run.plan, run.options, start, run.requested, run.log)
    if found is None:
        return None
    source, state = found
    progress = restore_state(state, learner, len(run.plan.val), source)
    run.log(f"Continuing {run.plan.name.lower()} at update {progress.step}, after {progress.epochs} epochs")
    return progress


def describe(run: Run, learner: Learner) -> None:
    """Say what will happen, once, before the long part."""
    plan, log, epoch_plan = run.plan, run.log, run.epoch_plan
    config, data = run.options.train, run.options.data
    parameters = sum(parameter.numel() for parameter in learner.network.parameters())
    network, device = title(run.options.model.network), describe_device(run.device)
    log(f"{network}, {parameters:,} parameters, {run.precision.describe()}, {device}")
    if run.world.size > 1:
        share = config.batch_size // run.world.size
        log(f"{run.world.size} processes, each with {share} of the {config.batch_size} pairs of a batch")
    log(f"{epoch_plan.updates} updates an epoch of {epoch_plan.samples_per_update} samples, {config.epochs} epochs")
    if epoch_plan.refilled:
        log(f"The last update of an epoch is filled with {epoch_plan.refilled} second draws of the same photos")
    requested = config.warmup_epochs * epoch_plan.updates
    if run.warmup < requested:
        log(f"Warm-up cut from {requested} to {run.warmup} updates (10 % of the run)")
    if plan.mix:
        share = f"{data.mix_ratio:.0%} of the samples of the first epoch, none in the last"
        log(f"{len(plan.mix)} pairs are mixed in: {share}")
    if run.options.finetune.freeze_stages and run.options.model.pretrained_path is None:
        log("⚠️  --freeze_stages without --pretrained_path: the frozen stages keep their random weights")
    small = sum(min(pair.row["width"], pair.row["height"]) < data.resolution for pair in plan.train)
    if small and data.fit == "crop":
        log(f"{small} of {len(plan.train)} training photos are smaller than {data.resolution} pixels and are enlarged")
    for line in run.objective.describe():
        log(line)


def update(
    run: Run,
    learner: Learner,
    progress: Progress,
    feed: Feed,
    batches: Iterator[dict],
    memory: MemoryUse | None,
) -> None:
    """One update with the next batches, timed and counted; one that is not finite is left out when that is allowed.

    Raises RunFailed, with the weights as they were, for numbers that are not finite and for a lack of memory.
    """
    config, started = run.options.train, time.monotonic()
    group = [next(batches) for _ in range(config.accumulate_steps)]
    set_learning_rate(learner.optimizer, learning_rate(progress.step, run.total_updates, run.warmup, config.lr))
    try:
        result = train_step(
            learner, run.objective, group, run.precision, run.device, config.grad_clip, progress.step, run.world
        )
    except NonFinite as fault:
        where = f"{fault.what} is not finite at update {progress.step + 1} (epoch {progress.epochs + 1})"
        if progress.bad_batches >= config.skip_bad_batches:
            raise RunFailed(
                f"{where}; the weights were not changed and the last checkpoint is sound. Photos of the batch: "
                f"{feed.names(group)}. Look at them, then try a lower --lr or float32; --skip_bad_batches N leaves out up to N "
                "such updates."
            ) from fault
        progress.bad_batches += 1
        allowed = f"{progress.bad_batches} of {config.skip_bad_batches} allowed"
        run.log(f"⚠️  {where}: left out, {allowed}. Photos: {feed.names(group)}")
        discard_update(learner)
        progress.count_bad_batch(time.monotonic() - started)
    except torch.OutOfMemoryError as fault:
        advice = memory_advice(memory, config.batch_size, feed.samples.resolution, feed.resident)
        raise RunFailed(advice) from fault
    else:
        progress.count_update(result.terms, result.grad_norm, result.skipped, time.monotonic() - started)


def _unfreeze(run: Run, learner: Learner, epoch: int) -> None:
    """Freeze and unfreeze stages for epoch `epoch` (from 0), with a line when one begins to learn."""
    finetune = run.options.finetune
    set_trainable(learner.network, finetune, epoch, run.objective.needs_side)
    frozen = frozen_stages(finetune, epoch)
    if frozen < frozen_stages(finetune, max(0, epoch - 1)):
        run.log(f"Stage {frozen + 1} learns from epoch {epoch + 1} on; {frozen} stay frozen")


def _progress_bar(run: Run, epoch: int, done: int) -> tqdm:
    """Updates of one epoch, on a terminal only: a log file gets one line an epoch."""
    shown = run.world.writes and sys.stderr.isatty()
    return tqdm(total=run.epoch_plan.updates, initial=done, desc=f"Epoch {epoch}", leave=False, disable=not shown)


def _validate(run: Run, learner: Learner, progress: Progress, feed: Feed, files: RunFiles | None) -> list[dict]:
    """Scores of every validation image with the averaged weights; a signal ends it with the state saved."""
    restore = restorer(learner.average.network, run.precision)
    try:
        return score(restore, feed.validation, run.plan.val, run.device, run.world)
    except Stopped as stopped:
        _save_state(files, learner, progress)
        raise Stopped(f"{stopped}; state saved, run the same command again") from None


def _stop_if_requested(run: Run, learner: Learner, progress: Progress, files: RunFiles | None) -> None:
    """Raise Stopped when a signal came to any process, with the state saved first where `files` is given."""
    if not run.world.any(signals.requested() is not None, run.device):
        return
    name = signals.requested() or "a signal to another process"
    _save_state(files, learner, progress)
    raise Stopped(f"{name} received; state saved at update {progress.step}, run the same command again")


def _save_state(files: RunFiles | None, learner: Learner, progress: Progress) -> None:
    if files is not None:
        files.save_state(learner, progress)


def _save_epoch(run: Run, learner: Learner, progress: Progress, feed: Feed, files: RunFiles, tracker: Tracker) -> None:
    """Write what an epoch leaves. The state comes last: after a kill in between, the same files are written again."""
    config, epoch = run.options.train, progress.epochs
    if progress.history[-1]["is_best"]:
        files.save_best(learner, progress)
    keep = config.save_every and epoch % config.save_every == 0
    if keep:
        files.save_epoch(learner, progress)
    tracker.epoch(progress.history)
    if keep or epoch in (1, config.epochs):
        restore = restorer(learner.average.network, run.precision)
        tracker.pictures(epoch, feed.validation.dataset, restore, run.device)
    files.save_state(learner, progress)


def _log_epoch(run: Run, progress: Progress, flags: dict[str, str]) -> None:
    run.log(epoch_line(progress.history[-1], run.options.train.epochs))
    told = progress.history[-2]["flags"] if progress.epochs > 1 else []
    for name, advice in flags.items():
        if name not in told:
            run.log(f"🚩 {name}: {advice}")
    if progress.stopped_early:
        run.log("⏹️  Early stopping triggered!")
        run.log(f"   Best PSNR: {progress.best['psnr']:.2f}dB at epoch {progress.best['epoch']}")
        run.log(f"   No improvement for {progress.epochs_without_gain} epochs")
