"""What a run is about to do -> lines for the log, before the long part begins."""

from __future__ import annotations

from darkir.engine.distributed import World
from darkir.engine.run_config import FoldPlan, Options
from darkir.engine.schedule import warmup_updates
from data.loader import EpochPlan


def set_up_lines(plan: FoldPlan, options: Options, epoch_plan: EpochPlan, world: World) -> list[str]:
    """Processes, updates, and everything about the rows and options that a reader may not expect."""
    train, data, lines = options.train, options.data, []
    if world.size > 1:
        share = train.batch_size // world.size
        lines.append(f"{world.size} processes, each with {share} of the {train.batch_size} pairs of a batch")
    lines.append(
        f"{epoch_plan.updates} updates an epoch of {epoch_plan.samples_per_update} samples, {train.epochs} epochs"
    )
    if epoch_plan.refilled:
        lines.append(
            f"The last update of an epoch is filled with {epoch_plan.refilled} second draws of the same photos"
        )
    asked = train.warmup_epochs * epoch_plan.updates
    warmup = warmup_updates(train.warmup_epochs, epoch_plan.updates, train.epochs * epoch_plan.updates)
    if warmup < asked:
        lines.append(f"Warm-up cut from {asked} to {warmup} updates (10 % of the run)")
    if plan.mix:
        share = f"{data.mix_ratio:.0%} of the samples of the first epoch, none in the last"
        lines.append(f"{len(plan.mix)} pairs are mixed in: {share}")
    if options.finetune.freeze_stages and options.model.pretrained_path is None:
        lines.append("⚠️  --freeze_stages without --pretrained_path: the frozen stages keep their random weights")
    small = sum(min(pair.row["width"], pair.row["height"]) < data.resolution for pair in plan.train)
    if small and data.fit == "crop":
        lines.append(
            f"{small} of {len(plan.train)} training photos are smaller than {data.resolution} pixels and are enlarged"
        )
    return lines
