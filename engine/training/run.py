"""The constant parts of one run, made once from what was requested, and the lines that say what will happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from common.log import RunLog
from darkir.architectures import title
from data.loader import EpochPlan
from engine.distributed import World
from engine.runtime import Precision, choose_precision, describe_device
from engine.training.config import Options
from engine.training.feed import plan_epochs
from engine.training.plans import FoldPlan, requested_config
from engine.training.updates.learner import Learner, learning_rate, warmup_updates
from losses.objective import Objective


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
        return warmup_updates(self.options.train.warmup_epochs, self.epoch_plan.updates, self.total_updates)

    def learning_rate(self, update: int) -> float:
        """Rate of update `update` (from 0)."""
        return learning_rate(update, self.total_updates, self.warmup, self.options.train.lr)


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


def describe(run: Run, learner: Learner) -> None:
    """Say what will happen, once, before the long part."""
    plan, log, epoch_plan = run.plan, run.log, run.epoch_plan
    config, data = run.options.train, run.options.data
    parameters = sum(parameter.numel() for parameter in learner.network.parameters())
    network, device = title(run.options.model.network), describe_device(run.device)
    log(f"{network}, {parameters:,} parameters, {run.precision.describe()}, {device}")
    if run.world.size > 1:
        pairs = config.batch_size // run.world.size
        log(f"{run.world.size} processes, each with {pairs} of the {config.batch_size} pairs of a batch")
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
