"""The constant parts of one run, made once from what was requested, and the lines that say what will happen."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from common.log import RunLog
from darkir.architectures import encoder_stages, title
from data.loader import EpochPlan
from engine.distributed import World
from engine.runtime import Precision, choose_precision, describe_computing
from engine.training.changes import EXTEND
from engine.training.config import Options
from engine.training.feed import plan_epochs
from engine.training.history import Progress
from engine.training.plans import FoldPlan, requested_config
from engine.training.updates.learner import Learner, learning_rate, warmup_updates
from losses.objective import Objective

GUIDE_RATE = 1e-4


@dataclass(frozen=True)
class Run:
    """What stays as it is during one run: what was requested, the parts made of it, and where things go.

    schedule_start: epochs before the present schedule of the learning rate; 0 in a run that was never extended.
    """

    plan: FoldPlan
    options: Options
    device: torch.device
    world: World
    log: RunLog
    requested: dict[str, Any]
    precision: Precision
    objective: Objective
    epoch_plan: EpochPlan
    schedule_start: int = 0

    @property
    def tf32(self) -> bool:
        """Whether updates round float32 factors to TF32; only CUDA devices can."""
        return self.device.type == "cuda" and self.options.train.tf32 == "on"

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.options.train.epochs * self.epoch_plan.updates

    @property
    def warmup(self) -> int:
        """Updates of its warm-up."""
        return warmup_updates(self.options.train.warmup_epochs, self.epoch_plan.updates, self.schedule_updates)

    @property
    def schedule_updates(self) -> int:
        """Updates of the present schedule: all of the run, or those that --extend added."""
        return self.total_updates - self.schedule_start * self.epoch_plan.updates

    def learning_rate(self, update: int) -> float:
        """Rate of update `update` (from 0, over the whole run)."""
        since = update - self.schedule_start * self.epoch_plan.updates
        return learning_rate(since, self.schedule_updates, self.warmup, self.options.train.lr)


def make_run(plan: FoldPlan, options: Options, device: torch.device, world: World, log: RunLog) -> Run:
    """The parts of a run. Raises InputError for loss terms or batches that are not possible."""
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


def from_where_it_stands(run: Run, progress: Progress) -> Run:
    """The run with what its state decides: the draws that it began with, and where --extend began a fresh schedule.

    The share of mixed pairs goes on falling as the first schedule has it: to none at the end of that, and none after it.
    """
    epoch_plan = dataclasses.replace(run.epoch_plan, draws=progress.draws)
    first = next((change for change in progress.changes if change["flag"] == EXTEND), None)
    if first is not None:
        mixing = dataclasses.replace(epoch_plan.mixing, epochs=first["options"]["epochs"][0])
        epoch_plan = dataclasses.replace(epoch_plan, mixing=mixing)
    start = progress.extension["epoch"] if progress.extension else 0
    return dataclasses.replace(run, epoch_plan=epoch_plan, schedule_start=start)


def learning_lines(options: Options) -> list[str]:
    """What does not learn, and the peak rate of each stage."""
    finetune, lr, encoder = options.finetune, options.train.lr, encoder_stages(options.model.network)
    frozen, every = finetune.freeze_stages, finetune.unfreeze_every
    names = [f"encoder {stage}" for stage in range(1, encoder + 1)] + ["middle"]
    names += [f"decoder {stage}" for stage in range(1, encoder + 1)]
    told = f"Frozen: {', '.join(names[:frozen])}" if frozen else "Frozen: nothing"
    if frozen and every:
        again = [f"{names[stage]} from epoch {every * (frozen - stage) + 1}" for stage in reversed(range(frozen))]
        told += f"; learning again: {', '.join(again)} on"
    if finetune.layer_decay == 1:
        return [told, f"Peak learning rate: {lr:.2e} in every stage that learns{_recipe(options)}"]
    last = len(names) - 1
    rates = [f"{name} {lr * finetune.layer_decay ** (last - stage):.2e}" for stage, name in enumerate(names)]
    return [told, f"Peak learning rate: {', '.join(rates)}"]


def _recipe(options: Options) -> str:
    """Whose rate it is, and what is known of others."""
    if options.train.lr != GUIDE_RATE:
        return f", in place of the guide's {GUIDE_RATE:g}"
    if options.model.pretrained_path is not None:
        return ", the guide's"
    return ", the guide's. In short runs from fresh weights --lr 3e-4 to 2e-3 reached more (docs/speed.md)"


def unused_flags(args: argparse.Namespace, options: Options) -> list[str]:
    """The flags that were given and have no effect beside the others, a line for the log each."""
    reasons: dict[str, str] = {}
    if options.model.pretrained_path is None and args.resume is None:
        weightless = "there are no starting weights (--pretrained_path)"
        reasons["allow_partial"] = weightless
        if args.exclude_splits_dir is None:  # which goes by both
            reasons |= dict.fromkeys(("near_duplicates", "allow_seen_validation"), weightless)
    if not options.loss.needs_vgg:
        reasons["vgg_weights"] = "--lambda_vgg and --lambda_side are 0"
    if options.data.cache == "off":
        reasons["cache_dir"] = "--cache is off"
    return [f"Note: --{name} is not used: {reason}" for name, reason in reasons.items() if name in args.given]


def describe(run: Run, learner: Learner) -> None:
    """Say what will happen, once, before the long part."""
    plan, log, epoch_plan = run.plan, run.log, run.epoch_plan
    config, data = run.options.train, run.options.data
    parameters = sum(parameter.numel() for parameter in learner.network.parameters())
    network, computing = title(run.options.model.network), describe_computing(run.precision, run.device)
    log(f"{network}, {parameters:,} parameters, {computing}")
    if run.world.size > 1:
        pairs = config.batch_size // run.world.size
        log(f"{run.world.size} processes, each with {pairs} of the {config.batch_size} pairs of a batch")
    log(f"{epoch_plan.updates} updates an epoch of {epoch_plan.samples_per_update} samples, {config.epochs} epochs")
    if run.schedule_start:
        log(
            f"Extended after epoch {run.schedule_start}: a fresh schedule for epochs {run.schedule_start + 1} to {config.epochs}: "
            f"{run.warmup} updates of warm-up to {config.lr:.2e}, then a cosine to 1 % of it. Optimizer and weight average go on, "
            "the best so far is kept, patience began anew"
        )
    if epoch_plan.refilled:
        log(f"The last update of an epoch is filled with {epoch_plan.refilled} second draws of the same photos")
    requested = config.warmup_epochs * epoch_plan.updates
    if run.warmup < requested:
        part = "the added epochs" if run.schedule_start else "the run"
        log(f"Warm-up cut from {requested} to {run.warmup} updates (10 % of {part})")
    if plan.mix:
        share = f"{data.mix_ratio:.0%} of the samples of the first epoch, none in the last"
        log(f"{len(plan.mix)} pairs are mixed in: {share}")
    for line in learning_lines(run.options):
        log(line)
    if run.options.finetune.freeze_stages and run.options.model.pretrained_path is None:
        log("⚠️  --freeze_stages without --pretrained_path: the frozen stages keep their random weights")
    small = sum(min(pair.row["width"], pair.row["height"]) < data.resolution for pair in plan.train)
    if small and data.fit == "crop":
        log(f"{small} of {len(plan.train)} training photos are smaller than {data.resolution} pixels and are enlarged")
    for line in run.objective.describe():
        log(line)
