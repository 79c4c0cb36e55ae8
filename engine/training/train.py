"""One training run from its rows to a finished folder, told in order: `train_fold` owns the folder, `train` is the recipe.

Begin or resume; self-test; validate starting weights; for each epoch: for each batch one update; validate; record; save; stop test;
finish. Everything random derives from (seed, epoch, index), so that a run that was stopped ends as one that was not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from common import signals
from common.errors import InputError, Stopped
from common.files import remove_stale_temporaries, write_jsonl
from common.lists import listed_error
from common.locks import FolderLock
from common.log import RunLog, progress_bar
from darkir.weights import load_network
from data.units import unit_names
from engine import checkpoint
from engine.distributed import World
from engine.exclusion import EXCLUDED
from engine.inference import Restore, identity, mean_metrics, restorer, score
from engine.pictures import write_pictures
from engine.training.config import Options
from engine.training.feed import Feed, open_feed
from engine.training.flags import red_flags
from engine.training.history import Progress, epoch_line
from engine.training.plans import FoldPlan
from engine.training.resume import begin, best_beside_state, finished_before, refuse_different_starts, remove_outputs
from engine.training.run import Run, describe, from_where_it_stands, make_run
from engine.training.self_test import rehearse_on_copy, self_test
from engine.training.state import RunFiles
from engine.training.tracking import Tracker
from engine.training.updates.clock import Clock, date_and_hour
from engine.training.updates.execution import make_stepper
from engine.training.updates.learner import Learner, frozen_stages, set_trainable
from engine.training.updates.loop import Updates
from engine.training.updates.memory import memory_used

SAVE_SECONDS = 120.0


def train_fold(plan: FoldPlan, options: Options, device: torch.device, world: World, log: RunLog) -> None:
    """Train one fold to its end in `plan.folder`: skipped when finished there, continued when unfinished.

    Raises InputError (leak, changed options, lock, photos), Stopped (signal; state saved), RunFailed (numbers, memory).
    """
    with _owned(plan, options, log) if world.writes else contextlib.nullcontext():
        world.wait_for_all()  # for what rank 0 clears away
        finished = finished_before(plan, options, log)
        if world.gather(finished) != [finished] * world.size:
            raise InputError(
                f"{plan.folder} holds a finished run for some processes and none for others: all must see one folder"
            )
        if finished:
            log(f"{plan.name}: finished before, skipped ({plan.folder})")
        else:
            units = " and ".join(str(len(set(unit_names(part)))) for part in (plan.train, plan.val))
            sizes = f"{len(plan.train)} training pairs, {len(plan.val)} validation pairs, in {units} units"
            log(f"===== {plan.name}: {sizes}, {date_and_hour()} =====")
            if plan.excluded and world.writes:
                write_jsonl(plan.folder / EXCLUDED, plan.excluded)
            train(make_run(plan, options, device, world, log))
        world.wait_for_all()  # for what rank 0 has written


@contextlib.contextmanager
def _owned(plan: FoldPlan, options: Options, log: RunLog) -> Iterator[None]:
    """Hold the folder's lock, with what a killed process left there cleared away."""
    with FolderLock(plan.folder, log) as lock:
        if lock.taken_over_from:
            log(f"⚠️  taking over {plan.folder} from process {lock.taken_over_from['pid']}, which died")
        remove_stale_temporaries(plan.folder)
        if options.overwrite:
            remove_outputs(plan.folder)
        yield


def train(run: Run) -> None:
    """Train until the last epoch or until patience ends, and leave checkpoint_final.pt, the proof that the run is finished."""
    plan, config, updates, log = run.plan, run.options.train, run.epoch_plan.updates, run.log
    learner, progress, seen, seen_validation = begin(run)
    run = from_where_it_stands(run, progress)
    refuse_different_starts(run, learner, progress)
    best = best_beside_state(plan, run.options, progress, log)
    if best is not None and run.world.writes:
        checkpoint.save(plan.folder / checkpoint.BEST, best)
    feed = open_feed(plan, run.options, run.epoch_plan, run.device, run.world, log)
    describe(run, learner)
    memory, changed_here = None, any(change["update"] == progress.step for change in progress.changes)
    if progress.step == 0 or changed_here:
        # No name for the copy: it would stand on the device as long as the run lasts.
        memory = self_test(rehearse_on_copy(learner.network, run.objective, run.precision, config), feed, config, log)
    facts = {"data": seen.as_plain(), "config": run.requested, "fold": plan.number, "split": plan.split}
    facts["seen_validation"] = seen_validation.as_plain()
    files = RunFiles(plan.folder, run.options.model.network, facts, run.world.writes)
    if changed_here:
        files.reopen(learner, progress)

    execution = progress.execution if progress.step else None
    stepper = make_stepper(run, learner, feed.first_batch(), execution, run.total_updates - progress.step)
    progress.execution = stepper.mode

    # Its weights stay those of the average, which every update and a restored state change in place.
    restore = restorer(learner.average.network, run.precision, log)

    units, next_epoch = unit_names(plan.val), progress.epochs + 1 if progress.history else 0
    pretrained = run.options.model.pretrained_path is not None
    if pretrained and progress.step and progress.start is None:
        log("This run began in a version that did not validate starting weights: flags compare with its first epoch")

    with (
        Tracker(plan.folder, next_epoch, progress.history) if run.world.writes else contextlib.nullcontext() as tracker
    ):
        if pretrained and progress.step == 0 and progress.start is None:
            scores = _validate(run, feed, restore, learner, progress, files)
            progress.begin_with(scores, mean_metrics(scores), run.tf32, run.precision.name)
            files.save_best(learner, progress)
            if tracker is not None:
                tracker.epoch(progress.history)
            files.save_state(learner, progress)
            log(epoch_line(progress.history[0], config.epochs))

        memory_told = False
        made = Updates(run, stepper, feed, progress, memory)
        clock = Clock(plan.name.lower(), config.epochs, updates, run.epoch_plan.samples_per_update, progress)
        while progress.epochs < config.epochs and not progress.stopped_early:
            epoch = progress.epochs + 1
            if _unfreeze(run, learner, epoch - 1):
                stepper.recapture()

            saved_at, saved_step = time.monotonic(), progress.step
            shown = updates if run.world.writes else 0
            with progress_bar(shown, f"Epoch {epoch}", initial=progress.step % updates, leave=False) as bar:
                while made.started < epoch * updates:
                    made.start_next()
                    bar.update()
                    if line := clock.line_within(progress):
                        log(line)
                    if made.stop_requested():
                        made.read()
                        files.save_state(learner, progress)
                        raise _stopped(signals.requested() or "a signal to another process", progress)
                    every, done = config.checkpoint_every_steps, made.started - saved_step
                    due = done >= every if every else time.monotonic() - saved_at >= SAVE_SECONDS
                    if due and made.started < epoch * updates:
                        made.read()
                        files.save_state(learner, progress)
                        saved_at, saved_step = time.monotonic(), progress.step
                made.read()

            scores = _validate(run, feed, restore, learner, progress, files)
            bad_batches, rate = progress.totals["left_out"], run.learning_rate(progress.step - 1)
            samples, form = run.epoch_plan.samples_per_update, (run.tf32, run.precision.name)
            record = progress.end_epoch(scores, mean_metrics(scores), rate, samples, *form)
            fall = progress.fall_from_start(scores, units, pretrained)
            flags = red_flags(progress.history, bad_batches, run.options.loss.lambda_l1, fall)
            record["flags"] = list(flags)
            patience = config.early_stopping_patience
            progress.stopped_early = bool(patience) and progress.epochs_without_gain >= patience

            files.refuse_removed_folder()
            # The state comes last: after a kill in between, the same files are written again.
            if record["is_best"]:
                files.save_best(learner, progress)
            keep = bool(config.save_every) and epoch % config.save_every == 0
            if keep:
                files.save_epoch(learner, progress)
            if tracker is not None:
                tracker.epoch(progress.history)
                if keep or epoch in (1, config.epochs):
                    tracker.pictures(epoch, feed.frames, restore, run.device)
            files.save_state(learner, progress)
            _log_epoch(run, progress, flags, clock.end_epoch(progress))
            if not memory_told and (used := memory_used(run.device)):
                log(used)
                memory_told = True
            if signal_name := _stop_signal(run):
                raise _stopped(signal_name, progress)

        untouched = score(identity, feed.validation, plan.val, run.device, run.world)
        if tracker is not None:
            tracker.curves(progress.history)
        if changed := feed.changes():
            headline = f"{len(changed)} photos changed while the run read them, so nobody can say what it learned from:"
            fault = listed_error(headline, changed, "start anew with --overwrite")
            # Marked, or the same command would finish the run from this state as if nothing had been.
            files.save_state(learner, progress, unsound=str(fault))
            raise fault
        if run.world.writes and plan.number is not None:
            best_network = load_network(plan.folder / checkpoint.BEST, run.device)
            write_pictures(plan.folder, feed.frames, restorer(best_network, run.precision, log), run.device)
        files.save_final(learner, progress, untouched, units)
        if progress.best_epoch["epoch"] == 0:
            log(
                f"⚠️  no epoch is better than the starting weights: {checkpoint.BEST} holds them as they were; try --lr a third as "
                "high, --layer_decay 0.8 or --freeze_stages"
            )
        outcome = f"best PSNR {progress.best_epoch['psnr']:.2f}dB at epoch {progress.best_epoch['epoch']}"
        outcome += f", contaminated: {seen_validation}" if seen_validation else ""
        log(f"{plan.name} finished: {outcome} ({plan.folder})")


def _validate(
    run: Run, feed: Feed, restore: Restore, learner: Learner, progress: Progress, files: RunFiles
) -> list[dict]:
    """Scores of every validation photo. Raises Stopped after a signal, with the state saved."""
    try:
        return score(restore, feed.validation, run.plan.val, run.device, run.world)
    except Stopped as stopped:
        files.save_state(learner, progress)
        raise Stopped(f"{stopped}; state saved, run the same command again") from None


def _unfreeze(run: Run, learner: Learner, epoch: int) -> bool:
    """Freeze and unfreeze stages for epoch `epoch` (from 0); whether one begins to learn, with a line that says so."""
    finetune = run.options.finetune
    set_trainable(learner.network, finetune, epoch, run.objective.needs_side)
    frozen = frozen_stages(finetune, epoch)
    more = frozen < frozen_stages(finetune, max(0, epoch - 1))
    if more:
        run.log(f"Stage {frozen + 1} learns from epoch {epoch + 1} on; {frozen} stay frozen")
    return more


def _stop_signal(run: Run) -> str | None:
    """The signal that requested a stop, of whichever process got it; all processes get the same answer."""
    if not run.world.any(signals.requested() is not None, run.device):
        return None
    return signals.requested() or "a signal to another process"


def _stopped(signal_name: str, progress: Progress) -> Stopped:
    return Stopped(f"{signal_name} received; state saved at update {progress.step}, run the same command again")


def _log_epoch(run: Run, progress: Progress, flags: dict[str, str], times: str) -> None:
    run.log(epoch_line(progress.history[-1], run.options.train.epochs))
    run.log(times)
    told = progress.history[-2]["flags"] if len(progress.history) > 1 else []
    for name, advice in flags.items():
        if name not in told:
            run.log(f"🚩 {name}: {advice}")
    if progress.stopped_early:
        run.log("⏹️  Early stopping triggered!")
        run.log(f"   Best PSNR: {progress.best_epoch['psnr']:.2f}dB at epoch {progress.best_epoch['epoch']}")
        run.log(f"   No improvement for {progress.epochs_without_gain} epochs")
