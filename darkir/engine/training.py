"""The training loop of one run: updates, validation, best, patience, state. Everything random derives from (seed, epoch, index)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from darkir.engine.distributed import World
from darkir.engine.errors import RunFailed, Stopped
from darkir.engine.evaluation import mean_metrics
from darkir.engine.learner import Learner
from darkir.engine.optimizer import set_learning_rate
from darkir.engine.runlog import RunLog
from darkir.engine.runtime import Precision
from darkir.engine.schedule import learning_rate, warmup_updates
from darkir.engine.step import NonFinite, StepResult, discard_update, train_step
from darkir.engine.train_config import TrainConfig
from data import stop
from data.loader import EpochPlan
from data.manifest import Pair
from losses.objective import Objective

SAVE_SECONDS = 120.0


@dataclass
class Progress:
    """Where a run stands; all of it is saved, and a resumed run continues from exactly this.

    `step` counts updates over all epochs; `totals` sums the open epoch's updates; `best` is the best epoch's record with its
    scores for every validation image; `bad_batches` counts the updates left out by --skip_bad_batches.
    """

    step: int = 0
    history: list[dict] = field(default_factory=list)
    best: dict[str, Any] | None = None
    epochs_without_gain: int = 0
    stopped_early: bool = False
    bad_batches: int = 0
    totals: dict[str, Any] = field(default_factory=lambda: dict(EMPTY_TOTALS, terms={}))


EMPTY_TOTALS = {"loss": 0.0, "grad_norm": 0.0, "updates": 0, "overflowed": 0, "left_out": 0, "seconds": 0.0}


@dataclass(frozen=True)
class Run:
    """The parts that one training run joins. The callbacks write files; the loop itself knows no path."""

    config: TrainConfig
    plan: EpochPlan
    precision: Precision
    device: torch.device
    objective: Objective
    pairs: list[Pair]
    batches: Callable[[int], Iterator[dict]]
    validate: Callable[[], list[dict]]
    save_state: Callable[[Progress], None]
    epoch_begins: Callable[[int], None]
    epoch_ended: Callable[[Progress, bool], None]
    red_flags: Callable[[list[dict], int], dict[str, str]]
    memory_advice: Callable[[], str]
    world: World
    log: RunLog


class _LastSave(NamedTuple):
    """When the state was last written: after which update, and at which moment of the monotonic clock."""

    step: int
    moment: float

    def is_due(self, step: int, every_steps: int | None) -> bool:
        """Whether the next save is due. When it happens changes no result, so a clock may decide."""
        if every_steps is not None:
            return step - self.step >= every_steps
        return time.monotonic() - self.moment >= SAVE_SECONDS


def fit(run: Run, learner: Learner, progress: Progress) -> None:
    """Train until the last epoch or until patience ends; `progress` and `learner` hold the result.

    Raises Stopped (state saved) after the update in which a signal came, RunFailed when a loss or gradient is not finite.
    """
    config, updates = run.config, run.plan.updates
    total = config.epochs * updates
    warmup = warmup_updates(config.warmup_epochs, updates, total)
    batches = run.batches(progress.step)
    first_epoch, started = len(progress.history) + 1, time.monotonic()
    saved = _LastSave(progress.step, started)
    while len(progress.history) < config.epochs and not progress.stopped_early:
        epoch = len(progress.history) + 1
        run.epoch_begins(epoch - 1)
        bar = _progress_bar(run, epoch, progress.step % updates)
        while progress.step < epoch * updates:
            lr = learning_rate(progress.step, total, warmup, config.lr)
            set_learning_rate(learner.optimizer, lr)
            _timed_update(run, learner, progress, batches)
            bar.update()
            _stop_if_asked(run, progress)
            if progress.step < epoch * updates and saved.is_due(progress.step, config.checkpoint_every_steps):
                run.save_state(progress)
                saved = _LastSave(progress.step, time.monotonic())
        bar.close()
        try:
            scores = run.validate()
        except Stopped as stopped:
            run.save_state(progress)
            raise Stopped(f"{stopped}; state saved, run the same command again") from None
        saved = _LastSave(progress.step, time.monotonic())
        _end_epoch(run, progress, scores, learning_rate(progress.step - 1, total, warmup, config.lr))
        if epoch == first_epoch < config.epochs:
            _log_time_left(run, time.monotonic() - started, config.epochs - epoch)
        _stop_if_asked(run, progress, saved=True)


def _progress_bar(run: Run, epoch: int, done: int) -> tqdm:
    """Updates of one epoch, on a terminal only: a log file gets one line an epoch."""
    shown = run.world.writes and sys.stderr.isatty()
    return tqdm(total=run.plan.updates, initial=done, desc=f"Epoch {epoch}", leave=False, disable=not shown)


def _log_time_left(run: Run, seconds: float, epochs_left: int) -> None:
    """Tell whoever follows the log when to come back."""
    minutes = math.ceil(seconds * epochs_left / 60)
    run.log(f"This epoch took {seconds:.0f} s: at most {minutes} min for the other {epochs_left} epochs")


def _timed_update(run: Run, learner: Learner, progress: Progress, batches: Iterator[dict]) -> None:
    started = time.monotonic()
    group = [next(batches) for _ in range(run.config.accumulate_steps)]
    try:
        result = train_step(
            learner, run.objective, group, run.precision, run.device, run.config.grad_clip, progress.step, run.world
        )
    except NonFinite as fault:
        _leave_out_or_fail(run, progress, group, fault)
        discard_update(learner)
        result = None
    except torch.OutOfMemoryError as fault:
        raise RunFailed(run.memory_advice()) from fault
    progress.step += 1
    _add(progress.totals, result, time.monotonic() - started)


def _leave_out_or_fail(run: Run, progress: Progress, group: list[dict], fault: NonFinite) -> None:
    """Count and log one more update left out, or raise RunFailed when no more may be."""
    names = ", ".join(run.pairs[index].src for batch in group for index in batch["index"].tolist())
    where = f"{fault.what} is not finite at update {progress.step + 1} (epoch {len(progress.history) + 1})"
    if progress.bad_batches >= run.config.skip_bad_batches:
        raise RunFailed(
            f"{where}; the weights were not changed and the last checkpoint is sound. Photos of the batch: {names}. "
            "Look at them, then try a lower --lr or float32; --skip_bad_batches N leaves out up to N such updates."
        ) from fault
    progress.bad_batches += 1
    run.log(f"⚠️  {where}: left out, {progress.bad_batches} of {run.config.skip_bad_batches} allowed. Photos: {names}")


def _add(totals: dict[str, Any], result: StepResult | None, seconds: float) -> None:
    """Add one update to the epoch's sums; None is one that was left out."""
    totals["updates"] += 1
    totals["seconds"] += seconds
    if result is None:
        totals["left_out"] += 1
        return
    totals["loss"] += result.loss
    totals["grad_norm"] += result.grad_norm
    totals["overflowed"] += int(result.skipped)
    for name, value in result.terms.items():
        totals["terms"][name] = totals["terms"].get(name, 0.0) + value


def _stop_if_asked(run: Run, progress: Progress, saved: bool = False) -> None:
    if not run.world.any(stop.requested() is not None, run.device):
        return
    signal_name = stop.requested() or "a signal to another process"
    if not saved:
        run.save_state(progress)
    raise Stopped(f"{signal_name} received; state saved at update {progress.step}, run the same command again")


def _end_epoch(run: Run, progress: Progress, scores: list[dict], lr: float) -> None:
    """Turn the epoch's sums and validation scores into its record; keep best and patience; write and log."""
    means, left_out = mean_metrics(scores), progress.totals["left_out"]
    is_best = progress.best is None or means["psnr"] > progress.best["psnr"]
    record = _epoch_record(run, progress, means, lr, is_best)
    progress.history.append(record)
    flags = run.red_flags(progress.history, left_out)
    record["flags"] = list(flags)
    progress.totals = dict(EMPTY_TOTALS, terms={})
    progress.epochs_without_gain = 0 if is_best else progress.epochs_without_gain + 1
    if is_best:
        progress.best = {"epoch": record["epoch"], **means, "scores": scores}
    patience = run.config.early_stopping_patience
    progress.stopped_early = bool(patience) and progress.epochs_without_gain >= patience
    run.epoch_ended(progress, is_best)
    _log_epoch(run, progress, flags)


def _epoch_record(run: Run, progress: Progress, means: dict[str, float], lr: float, is_best: bool) -> dict[str, Any]:
    """The epoch's line in history.json; RunFailed when every update of it was left out."""
    totals, epoch = progress.totals, len(progress.history) + 1
    if totals["left_out"] == totals["updates"]:
        raise RunFailed(f"every update of epoch {epoch} was left out as not finite; nothing was learned")
    skipped = totals["overflowed"] + totals["left_out"]
    measured, applied = max(1, totals["updates"] - totals["left_out"]), max(1, totals["updates"] - skipped)
    return {
        "epoch": epoch,
        "train_loss": totals["loss"] / measured,
        "train_terms": {name: value / measured for name, value in totals["terms"].items()},
        "val_loss": means["l1"],
        "val_psnr": means["psnr"],
        "val_ssim": means["ssim"],
        "lr": lr,
        "is_best": is_best,
        "grad_norm": totals["grad_norm"] / applied,
        "skipped_steps": skipped,
        "flags": [],
        "seconds": totals["seconds"],
        "images_per_second": totals["updates"] * run.plan.samples_per_update / totals["seconds"],
    }


def _log_epoch(run: Run, progress: Progress, flags: dict[str, str]) -> None:
    run.log(epoch_line(progress.history[-1], run.config.epochs))
    told = progress.history[-2]["flags"] if len(progress.history) > 1 else []
    for name, advice in flags.items():
        if name not in told:
            run.log(f"🚩 {name}: {advice}")
    if progress.stopped_early:
        run.log("⏹️  Early stopping triggered!")
        run.log(f"   Best PSNR: {progress.best['psnr']:.2f}dB at epoch {progress.best['epoch']}")
        run.log(f"   No improvement for {progress.epochs_without_gain} epochs")


def epoch_line(record: dict, epochs: int) -> str:
    """The log line of one epoch, as DESIGN lays it down."""
    return (
        f"Epoch {record['epoch']:3d}/{epochs}: Train Loss={record['train_loss']:.4f}, Val Loss={record['val_loss']:.4f}, "
        f"Val PSNR={record['val_psnr']:.2f}dB, Val SSIM={record['val_ssim']:.4f}, LR={record['lr']:.2e}"
        + (" 🏆 BEST" if record["is_best"] else "")
    )
