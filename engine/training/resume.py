"""What a run begins from: fresh weights, those of a file, or a state, restored part by part."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.exits import flagged
from common.log import RunLog
from darkir.blocks import recompute_activations
from darkir.checkpoint_file import read_checkpoint
from darkir.errors import ModelError
from darkir.weights import Weights, load_into, make_network, read_weights
from data.transforms import DRAWS
from engine import checkpoint
from engine.exclusion import EXCLUDED
from engine.metrics import METRICS
from engine.pictures import remove_pictures
from engine.provenance import (
    Seen,
    SeenValidation,
    log_provenance,
    refuse_seen_validation,
    refuse_test_photos,
    refuse_unclean_weights,
    refuse_validation_photos,
)
from engine.training.changes import change_line, goes_on, refuse_changes
from engine.training.config import Options
from engine.training.feed import plan_epochs
from engine.training.history import Progress
from engine.training.plans import FoldPlan, requested_config
from engine.training.restore import Found, checked_progress, restore_state
from engine.training.run import Run
from engine.training.state import POSITION
from engine.training.updates.learner import Learner, make_learner, set_trainable


@dataclass(frozen=True)
class Start:
    """`weights` to begin with (None: fresh ones), and the `state` of this fold in --resume, if it is one."""

    weights: Weights | None
    state: dict[str, Any] | None = None


def begin(run: Run) -> tuple[Learner, Progress, Seen, SeenValidation]:
    """The learner and where it stands, from the newest state, --resume, weights, or afresh; what its weights will have seen, and
    the validation photos among what they saw before.

    Raises InputError for leaks, for changed options and for states that do not fit, ModelError for weights that do not.
    """
    plan, options, log = run.plan, run.options, run.log
    start = find_start(plan, options, log)
    torch.manual_seed(options.train.seed + (plan.number or 0))
    network = make_network(options.model.network)
    if options.train.checkpoint_activations:
        recompute_activations(network)
    if start.weights is not None:
        with flagged(options.weights_flag, options.model.pretrained_path):
            matched = load_into(network, start.weights.params, start.weights.source, options.model.allow_partial)
        log(f"Starting from {start.weights.source}: {matched}")
    with flagged(options.weights_flag, options.model.pretrained_path):
        seen, seen_validation = refuse_leaks(plan, start, log)
    set_trainable(network, options.finetune, 0, run.objective.needs_side)
    network = network.to(run.device).to(memory_format=torch.channels_last)
    learner = make_learner(network, run.precision, options.train, options.finetune.layer_decay)
    found = find_state(plan, options, start, run.requested, log)
    if found is None:
        return learner, Progress(draws=draws_of_siblings(plan, options)), seen, seen_validation
    progress = restore_state(found, learner, len(plan.val), run.epoch_plan.updates, options)
    log(f"Continuing {plan.name.lower()} at update {progress.step}, after {progress.epochs} epochs")
    for change in progress.changes:
        log(f"   {change_line(change)}")
    return learner, progress, seen, seen_validation.and_before(found.state)


def draws_of_siblings(plan: FoldPlan, options: Options) -> int:
    """The version of random draws that another fold of this cross-validation has: one that was begun before ends as it began."""
    if plan.number is None or options.overwrite:
        return DRAWS
    for last in sorted(plan.folder.parent.glob(f"fold_*/{checkpoint.LAST}")):
        with contextlib.suppress(ModelError):  # a torn one is its own fold's to tell
            state = checkpoint.checked_state(read_checkpoint(last), last)
            if "unsound" not in state:
                return state["progress"].get("draws", 1)
    return DRAWS


def refuse_different_starts(run: Run, learner: Learner, progress: Progress) -> None:
    """InputError, in every process, unless all stand at the same update with the same weights: they would wait for each other for
    ever, or train what no one of them would.
    """
    if run.world.size == 1:
        return
    places = run.world.gather((progress.step, weights_digest(learner.network, learner.average.network)))
    if len(set(places)) > 1:
        told = "; ".join(
            f"process {rank}: update {step}, weights {sha[:12]}" for rank, (step, sha) in enumerate(places)
        )
        raise InputError(
            f"the processes do not begin from the same state ({told}). {run.plan.folder} and the "
            f"files of {run.options.weights_flag} and --resume must be the same for all of them, and every process must be able to "
            "read the newest state"
        )


def weights_digest(*networks: torch.nn.Module) -> str:
    """sha256 of all weights, bit for bit."""
    digest = hashlib.sha256()
    for network in networks:
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def settle_resume(options: Options, log: RunLog) -> Options:
    """The options that a run records: with a file of weights in --resume, they are those of --pretrained_path, in all that follows.

    Raises InputError for a --resume file that cannot be used, and for weights from both flags.
    """
    resume, path = options.resume, options.model.pretrained_path
    if resume is None or not resume.is_file():
        return options  # a file that is gone matters only to folds that are not finished: find_start names it
    with flagged("--resume", resume):
        if checkpoint.is_state(read_checkpoint(resume)):
            return options
    if path is not None:
        raise InputError(
            f"--resume {resume} holds weights only, and so does --pretrained_path {path}: give one of them"
        )
    log(f"--resume {resume} holds weights only: a new run starts from them, as with --pretrained_path")
    model = dataclasses.replace(options.model, pretrained_path=str(resume))
    return dataclasses.replace(options, model=model, resume=None, weights_flag="--resume")


def finished_before(plan: FoldPlan, options: Options, log: RunLog) -> bool:
    """Whether the run of this plan has ended in its folder, and does not go on there (--extend, --accept_changes).

    Raises InputError when that was a run with other options or data.
    """
    done = None if options.overwrite else checkpoint.finished_soundly(plan.folder, log)
    if done is None:
        return False
    changed = refuse_changes(done["config"], requested_config(plan, options), plan.folder, log, options)
    return not goes_on(done["finished"], changed, options, plan.folder, log)


def refuse_to_extend_unfinished(plans: list[FoldPlan], options: Options) -> None:
    """With --extend: InputError, before the first run goes on, for one that cannot."""
    if not options.extend:
        return
    quiet = RunLog(None, silent=True)  # each run says it again
    for plan in plans:
        if not finished_before(plan, options, quiet):
            epochs_behind(plan, options, quiet)


def epochs_behind(plan: FoldPlan, options: Options, log: RunLog) -> int:
    """How many epochs the run of this plan has behind it; refuses what it would refuse before it makes a network."""
    start = find_start(plan, options, log)
    with flagged(options.weights_flag, options.model.pretrained_path):
        refuse_leaks(plan, start, log)
    found = find_state(plan, options, start, requested_config(plan, options), log)
    if found is None:
        return 0
    progress = checked_progress(found, len(plan.val), plan_epochs(plan, options).updates, options)
    best_beside_state(plan, options, progress, log)
    return progress.epochs


def find_start(plan: FoldPlan, options: Options, log: RunLog) -> Start:
    """What --pretrained_path and --resume mean for this fold. Raises ModelError for a file that cannot be used."""
    path, resume, state = options.model.pretrained_path, options.resume, None
    if resume is not None:
        with flagged("--resume", resume):
            content = read_checkpoint(resume)
            if content.get("fold") == plan.number:
                state = checkpoint.checked_state(content, resume)
        if state is None:
            log(f"--resume {resume} is the state of another fold: {plan.name.lower()} starts without it")
    with flagged(options.weights_flag, path):
        return Start(None if path is None else read_weights(Path(path)), state)


def refuse_leaks(plan: FoldPlan, start: Start, log: RunLog) -> tuple[Seen, SeenValidation]:
    """What the weights of this run will have seen in the end, and the validation photos that the starting weights saw.

    Raises InputError for test photos among the rows or in what the starting weights saw, there also for photos that look like
    them, unless the plan's `near_duplicates` allows it; for validation photos among the rows that are learned from; and for
    those that the starting weights saw, unless the plan's `allow_seen_validation` allows it.
    """
    earlier, source = Seen(), "fresh weights"
    if start.weights is not None:
        source = str(start.weights.source)
        earlier = Seen.from_checkpoint(start.weights.meta, source)
        log_provenance(earlier, log)
    refuse_test_photos(plan.test, [*plan.train, *plan.val, *plan.mix])
    refuse_validation_photos(plan.val, [*plan.train, *plan.mix])
    mode, allowed = plan.near_duplicates, plan.allow_seen_validation
    try:
        refuse_unclean_weights(plan.test, earlier, "the starting weights", mode, log)
        seen_validation = refuse_seen_validation(plan.val, earlier, mode, allowed, log)
    except InputError as error:
        raise InputError.prefixed(f"{source}: ", error) from error
    return earlier.then([*plan.train, *plan.val], plan.mix), seen_validation


def find_state(plan: FoldPlan, options: Options, start: Start, requested: dict[str, Any], log: RunLog) -> Found | None:
    """The newest state of this folder, else the one that --resume names; None when the run starts anew.

    Raises InputError when it is of a run with other options or data, and with --extend when there is none.
    """
    newest = None if options.overwrite else checkpoint.newest_state(plan.folder, log)
    source, state = newest or (options.resume, start.state)
    if state is None and options.extend:
        raise InputError(
            f"--extend: {plan.folder} holds no state of a run to go on with; train it first, without --extend"
            f"{_only_weights(plan.folder)}"
        )
    if state is None:
        return None
    if "unsound" in state:
        raise InputError(f"{source} is not a state to continue from: {state['unsound']}")
    if newest and start.state:
        log(f"--resume {options.resume} is not used: {plan.folder} holds a state of its own")
    changed = refuse_changes(state["config"], requested, plan.folder, log, options, None if newest else options.resume)
    if state["threads"] != torch.get_num_threads():
        log(f"⚠️  {torch.get_num_threads()} threads now, {state['threads']} before: results can differ in the last bits")
    return Found(str(source), state, changed)


def _only_weights(folder: Path) -> str:
    """What is left to do where the state files are gone."""
    best = folder / checkpoint.BEST
    return f", or start a new run from {best}: --pretrained_path in another folder" if best.exists() else ""


def best_beside_state(plan: FoldPlan, options: Options, progress: Progress, log: RunLog) -> dict[str, Any] | None:
    """checkpoint_best.pt beside the state that --resume brings into a new folder, whose later epochs may all be worse; or None.

    Without the best epoch's weights, which no file can give back, `progress` counts the best anew from here. Raises
    InputError when no epoch is left that could become the best.
    """
    ended = progress.stopped_early or progress.epochs >= options.train.epochs
    best, state = None, options.resume
    if state is not None and progress.best is not None and not checkpoint.state_files(plan.folder):
        path = state.with_name(checkpoint.BEST)
        expected = {"epoch": progress.best["epoch"], "metrics": {name: progress.best[name] for name in METRICS}}
        try:
            best = read_checkpoint(path)
            found = {name: best.get(name) for name in expected}
            lacking = None if found == expected else f"{path} is not of epoch {expected['epoch']}, the best so far"
        except ModelError as error:
            lacking = str(error)
        if lacking is not None and ended:
            raise InputError(
                f"--resume {state}: no epoch is left to train, and its best weights are lost ({lacking}); "
                f"name the folder of that run as --output_dir, or start a new run: --pretrained_path {state}"
            )
        if lacking is not None:
            log(
                f"⚠️  --resume {state} comes without its best weights ({lacking}): the best epoch is counted anew from here"
            )
            best, progress.best, progress.epochs_without_gain = None, None, 0
    return best


def remove_outputs(folder: Path) -> None:
    """Delete what a former run left in `folder` (--overwrite): known names only, anything else stays."""
    names = (checkpoint.BEST, checkpoint.FINAL, POSITION, EXCLUDED, "history.json", "curves.png")
    events = folder.glob("tensorboard/events.out.tfevents.*")
    for path in [*(folder / name for name in names), *checkpoint.state_files(folder), *events]:
        path.unlink(missing_ok=True)
    remove_pictures(folder)
