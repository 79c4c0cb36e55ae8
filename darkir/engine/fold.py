"""One training run, from rows to a finished folder: builds the parts, resumes where a former run stopped, writes the files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from darkir.architectures import title
from darkir.engine import checkpoint
from darkir.engine.announce import set_up_lines
from darkir.engine.distributed import World
from darkir.engine.errors import RunFailed
from darkir.engine.evaluation import identity, restorer, score
from darkir.engine.feed import Feed, open_feed
from darkir.engine.finetune import frozen_stages, let_learn
from darkir.engine.fold_files import FoldFiles
from darkir.engine.memory import MemoryUse, memory_advice
from darkir.engine.red_flags import red_flags
from darkir.engine.restore import restore
from darkir.engine.run_config import FoldPlan, Options, asked_config, refuse_changes, remove_outputs
from darkir.engine.runlog import RunLog
from darkir.engine.runtime import choose_precision, describe_device
from darkir.engine.selfcheck import Rehearsal, check_first_update, rehearse_on_copy
from darkir.engine.start import Start, begin, find_start
from darkir.engine.step import NonFinite
from darkir.engine.tracking import Tracker
from darkir.engine.training import Progress, Run, fit
from data.files import FolderLock, remove_stale_temporaries, utc_now
from data.loader import EpochPlan, Mixing
from losses.objective import Objective


def train_fold(plan: FoldPlan, options: Options, log: RunLog, world: World) -> None:
    """Train one fold to its end in `plan.folder`: skipped when finished there, continued when unfinished.

    Raises RunRefused (leak, changed options), Stopped (signal; state saved), RunFailed (numbers), DataError (lock, photos).
    """
    with _owned(plan.folder, options.overwrite, log) if world.writes else contextlib.nullcontext():
        world.wait_for_all()  # for what rank 0 clears away
        done = checkpoint.finished_soundly(plan.folder, log)
        if done is not None:
            refuse_changes(done["config"], asked_config(plan, options), plan.folder, log)
            log(f"{plan.name}: finished before, skipped ({plan.folder})")
        else:
            sizes = f"{len(plan.train)} training pairs, {len(plan.val)} validation pairs"
            log(f"===== {plan.name}: {sizes}, {utc_now()} =====")
            training = FoldTraining(plan, options, log, world)  # what it refuses, it refuses before photos are decoded
            training.to_the_end(open_feed(plan, options, training.epoch_plan, world, log))
        world.wait_for_all()  # for what rank 0 has written


@contextlib.contextmanager
def _owned(folder: Path, overwrite: bool, log: RunLog) -> Iterator[None]:
    """Hold the folder's lock, with what a killed process left there cleared away."""
    with FolderLock(folder) as lock:
        if lock.taken_over_from:
            log(f"⚠️  taking over {folder} from process {lock.taken_over_from['pid']}, which died")
        remove_stale_temporaries(folder)
        if overwrite:
            remove_outputs(folder)
        yield


class FoldTraining:
    """The parts of one run, joined. Lives inside the folder's lock."""

    def __init__(self, plan: FoldPlan, options: Options, log: RunLog, world: World):
        self.plan, self.options, self.log, self.world = plan, options, log, world
        self.asked = asked_config(plan, options)
        self.precision = choose_precision(options.device, options.train.mixed_precision, options.train.amp_dtype)
        self.objective = Objective(options.loss, options.device)
        self.epoch_plan = EpochPlan(
            len(plan.train), options.train.batch_size, options.train.accumulate_steps, self._mixing()
        )
        start = find_start(plan, options, log)
        seen, self.learner = begin(plan, options, start.weights, self.precision, self.objective.needs_side, log)
        self.progress = self._resume(start) or Progress()
        self.files = FoldFiles(plan, options, self.asked, seen, self.learner)
        self.memory: MemoryUse | None = None

    def to_the_end(self, feed: Feed) -> None:
        """Log the set-up, train, and write checkpoint_final.pt, the proof that this run is finished."""
        self.feed = feed
        self.describe()
        if self.progress.step == 0:
            self.self_test(feed)
        run = Run(
            config=self.options.train,
            plan=self.epoch_plan,
            precision=self.precision,
            device=self.options.device,
            objective=self.objective,
            pairs=[*self.plan.train, *self.plan.mix],
            batches=feed.training,
            validate=self._validate,
            save_state=self._save_state,
            epoch_begins=self._epoch_begins,
            epoch_ended=self._epoch_ended,
            red_flags=self._red_flags,
            memory_advice=lambda: self._memory_advice(feed),
            world=self.world,
            log=self.log,
        )
        if self.world.writes:
            with Tracker(self.plan.folder, len(self.progress.history)) as self.tracker:
                fit(run, self.learner, self.progress)
        else:
            fit(run, self.learner, self.progress)
        self._finish()

    def self_test(self, feed: Feed) -> Rehearsal:
        """One update on a copy, before anything of the run itself happens; returns the copy for further rehearsals.

        Raises RunFailed when its numbers are broken or it does not fit into memory.
        """
        options = self.options
        rehearsal = rehearse_on_copy(
            self.learner.network, self.objective, self.precision, options.device, options.train
        )
        started = time.monotonic()
        batch, pairs = feed.first_batch(), [*self.plan.train, *self.plan.mix]
        try:
            self.memory = check_first_update(rehearsal, batch)
        except NonFinite as fault:
            names = ", ".join(pairs[index].src for index in batch["index"].tolist())
            message = f"self-test: {fault.what} is not finite in the first batch; its photos: {names}"
            if not options.train.skip_bad_batches:
                raise RunFailed(f"{message}. Look at them and at the starting weights, or use float32") from fault
            self.log(f"⚠️  {message}; --skip_bad_batches lets the run begin all the same")
        except torch.OutOfMemoryError as fault:
            raise RunFailed(self._memory_advice(feed)) from fault
        else:
            self.log(
                f"Self-test passed in {time.monotonic() - started:.1f} s: finite loss and gradient, output changes"
            )
        return rehearsal

    def _memory_advice(self, feed: Feed) -> str:
        advice = memory_advice(self.memory, self.options.train.batch_size, self.options.data.resolution)
        return advice if feed.resident is None else f"{advice} {feed.resident.advice}"

    def _mixing(self) -> Mixing:
        ratio = self.options.data.mix_ratio if self.plan.mix else 0.0
        return Mixing(len(self.plan.mix), ratio, self.options.train.epochs)

    def _resume(self, start: Start) -> Progress | None:
        """Restore the newest state of this folder, else the one that --resume names; None starts anew."""
        newest = checkpoint.newest_state(self.plan.folder, self.log)
        source, state = newest or (self.options.resume, start.state)
        if state is None:
            return None
        if newest and start.state:
            self.log(f"--resume {self.options.resume} is not used: {self.plan.folder} holds a state of its own")
        refuse_changes(state["config"], self.asked, self.plan.folder, self.log)
        if state["threads"] != torch.get_num_threads():
            self.log(
                f"⚠️  {torch.get_num_threads()} threads now, {state['threads']} before: results can differ in the last bits"
            )
        progress = restore(state, self.learner, len(self.plan.val), str(source))
        self.log(f"Continuing {self.plan.name.lower()} at update {progress.step}, after {len(progress.history)} epochs")
        return progress

    def _validate(self) -> list[dict]:
        restore = restorer(self.learner.average.network, self.precision)
        return score(restore, self.feed.validation, self.plan.val, self.options.device, self.world)

    def _save_state(self, progress: Progress) -> None:
        if self.world.writes:
            self.files.save_state(progress)

    def _epoch_begins(self, epoch: int) -> None:
        let_learn(self.learner.network, self.options.finetune, epoch, self.objective.needs_side)
        frozen = frozen_stages(self.options.finetune, epoch)
        if frozen < frozen_stages(self.options.finetune, max(0, epoch - 1)):
            self.log(f"Stage {frozen + 1} learns from epoch {epoch + 1} on; {frozen} stay frozen")

    def _red_flags(self, history: list[dict], left_out: int) -> dict[str, str]:
        pretrained = self.options.model.pretrained_path is not None
        return red_flags(history, left_out, self.options.loss.lambda_l1, pretrained)

    def _epoch_ended(self, progress: Progress, is_best: bool) -> None:
        """Write what an epoch leaves. The state comes last: after a kill in between, the same files are written again."""
        if not self.world.writes:
            return
        train, epoch = self.options.train, len(progress.history)
        if is_best:
            self.files.save_best(progress)
        keep = train.save_every and epoch % train.save_every == 0
        if keep:
            self.files.save_epoch(progress)
        self.tracker.epoch(progress.history)
        if keep or epoch in (1, train.epochs):
            restore = restorer(self.learner.average.network, self.precision)
            self.tracker.pictures(epoch, self.feed.validation.dataset, restore, self.options.device)
        self._save_state(progress)

    def _finish(self) -> None:
        """Score the identity beside the best epoch's scores and write checkpoint_final.pt last."""
        untouched = score(identity, self.feed.validation, self.plan.val, self.options.device, self.world)
        if not self.world.writes:
            return
        self.tracker.curves(self.progress.history)
        self.files.save_final(self.progress, untouched)
        best = self.progress.best
        self.log(
            f"{self.plan.name} finished: best PSNR {best['psnr']:.2f}dB at epoch {best['epoch']} ({self.plan.folder})"
        )

    def describe(self) -> None:
        """Say what will happen, once, before the long part."""
        parameters = sum(parameter.numel() for parameter in self.learner.network.parameters())
        network, device = title(self.options.model.network), describe_device(self.options.device)
        self.log(f"{network}, {parameters:,} parameters, {self.precision.describe()}, {device}")
        for line in set_up_lines(self.plan, self.options, self.epoch_plan, self.world) + self.objective.describe():
            self.log(line)
