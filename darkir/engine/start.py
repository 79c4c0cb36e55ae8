"""Where a run begins: fresh weights, those of a file, or the state that --resume names. A file is read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from darkir.architectures import make_network
from darkir.blocks import recompute_activations
from darkir.engine.checkpoint import checked_state, is_state
from darkir.engine.finetune import let_learn
from darkir.engine.learner import Learner, make_learner
from darkir.engine.provenance import Seen, log_provenance, refuse_test_photos, refuse_validation_photos
from darkir.engine.run_config import FoldPlan, Options
from darkir.engine.runlog import RunLog
from darkir.engine.runtime import Precision
from darkir.weights import Weights, load_into, read_checkpoint, read_weights, weights_in


@dataclass(frozen=True)
class Start:
    """`weights` to begin with (None: fresh ones), and the `state` of this fold in --resume, if it is one."""

    weights: Weights | None
    state: dict[str, Any] | None = None


def find_start(plan: FoldPlan, options: Options, log: RunLog) -> Start:
    """What --pretrained_path and --resume mean for this fold. Raises ModelError for a file that cannot be used."""
    if options.resume is None:
        return Start(_pretrained(options))
    content = read_checkpoint(options.resume)
    if not is_state(content):
        log(f"--resume {options.resume} holds weights only: a new run starts from them, as with --pretrained_path")
        return Start(weights_in(content, options.resume))
    if content.get("fold") != plan.number:
        log(f"--resume {options.resume} is the state of another fold: {plan.name.lower()} starts without it")
        return Start(_pretrained(options))
    return Start(_pretrained(options), checked_state(content, options.resume))


def _pretrained(options: Options) -> Weights | None:
    path = options.model.pretrained_path
    return None if path is None else read_weights(Path(path))


def begin(
    plan: FoldPlan, options: Options, weights: Weights | None, precision: Precision, needs_side: bool, log: RunLog
) -> tuple[Seen, Learner]:
    """A network with `weights` or fresh ones, optimizer and average around it, and what it will have seen after this run.

    Raises DataError or RunRefused for test or validation photos where they must not be, ModelError for weights that do
    not fit the network.
    """
    torch.manual_seed(options.train.seed + (plan.number or 0))
    network = make_network(options.model.network)
    if options.train.checkpoint_activations:
        recompute_activations(network)
    earlier = Seen()
    if weights is not None:
        matched = load_into(network, weights.params, weights.source, options.model.allow_partial)
        log(f"Starting from {weights.source}: {matched}")
        earlier = Seen.from_checkpoint(weights.meta, str(weights.source))
        log_provenance(earlier, log)
    refuse_test_photos(plan.test, [*plan.train, *plan.val, *plan.mix], earlier)
    refuse_validation_photos(plan.val, [*plan.train, *plan.mix])
    let_learn(network, options.finetune, 0, needs_side)
    network = network.to(options.device, memory_format=torch.channels_last)
    learner = make_learner(network, precision, options.train, options.finetune.layer_decay, options.train.compile)
    return earlier.then([*plan.train, *plan.val], plan.mix), learner
