"""What a run begins from: fresh weights, those of a file, or a state, restored part by part; is its folder that of another run?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.exits import flagged
from common.log import RunLog
from common.options import flat, plain
from darkir.blocks import recompute_activations
from darkir.checkpoint_file import read_checkpoint
from darkir.errors import ModelError
from darkir.weights import Weights, load_into, make_network, read_weights
from engine import checkpoint
from engine.metrics import METRICS
from engine.provenance import Seen, log_provenance, refuse_test_photos, refuse_validation_photos
from engine.training.config import SECTIONS, Options
from engine.training.history import EMPTY_TOTALS, Progress
from engine.training.learner import Learner, make_learner, set_trainable
from engine.training.plans import FoldPlan, requested_config
from engine.training.run import Run
from engine.training.state import POSITION

# Options of earlier versions, with the one value that a rerun of today still means.
RETIRED = {"train.kernels": "plain"}
WEIGHTS_DIGEST, WEIGHTS_PATH = "pretrained_sha256", "model.pretrained_path"
# Digest of a file -> the option that names it, which is compared where a digest is lacking.
FILES = {WEIGHTS_DIGEST: WEIGHTS_PATH, "vgg_sha256": "loss.vgg_weights"}
# What torch's own load_state_dict functions raise on content of another shape.
MISFITS = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError)


@dataclass(frozen=True)
class Start:
    """`weights` to begin with (None: fresh ones), and the `state` of this fold in --resume, if it is one."""

    weights: Weights | None
    state: dict[str, Any] | None = None


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
        with flagged(options.weights_flag, options.model.pretrained_path):
            matched = load_into(network, start.weights.params, start.weights.source, options.model.allow_partial)
        log(f"Starting from {start.weights.source}: {matched}")
    seen = refuse_leaks(plan, start, log)
    set_trainable(network, options.finetune, 0, run.objective.needs_side)
    network = network.to(run.device).to(memory_format=torch.channels_last)
    learner = make_learner(network, run.precision, options.train, options.finetune.layer_decay)
    found = find_state(plan, options, start, run.requested, log)
    if found is None:
        return learner, Progress(), seen
    progress = restore_state(found[1], learner, len(plan.val), options.train.epochs, found[0])
    log(f"Continuing {plan.name.lower()} at update {progress.step}, after {progress.epochs} epochs")
    return learner, progress, seen


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
    """Whether the run of this plan has ended in its folder. Raises InputError when that was a run with other options or data."""
    done = None if options.overwrite else checkpoint.finished_soundly(plan.folder, log)
    if done is None:
        return False
    refuse_changes(done["config"], requested_config(plan, options), plan.folder, log, options.weights_flag)
    return True


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


def refuse_leaks(plan: FoldPlan, start: Start, log: RunLog) -> Seen:
    """What the weights of this run will have seen in the end.

    Raises InputError for test photos among the rows or in what the starting weights saw, and for validation photos among
    the rows that are learned from.
    """
    earlier = Seen()
    if start.weights is not None:
        earlier = Seen.from_checkpoint(start.weights.meta, str(start.weights.source))
        log_provenance(earlier, log)
    refuse_test_photos(plan.test, [*plan.train, *plan.val, *plan.mix], earlier)
    refuse_validation_photos(plan.val, [*plan.train, *plan.mix])
    return earlier.then([*plan.train, *plan.val], plan.mix)


def find_state(
    plan: FoldPlan, options: Options, start: Start, requested: dict[str, Any], log: RunLog
) -> tuple[str, dict[str, Any]] | None:
    """The newest state of this folder, else the one that --resume names, and its source; None when the run starts anew.

    Raises InputError when it is of a run with other options or data.
    """
    newest = None if options.overwrite else checkpoint.newest_state(plan.folder, log)
    source, state = newest or (options.resume, start.state)
    if state is None:
        return None
    if "unsound" in state:
        raise InputError(f"{source} is not a state to continue from: {state['unsound']}")
    if newest and start.state:
        log(f"--resume {options.resume} is not used: {plan.folder} holds a state of its own")
    refuse_changes(
        state["config"], requested, plan.folder, log, options.weights_flag, None if newest else options.resume
    )
    if state["threads"] != torch.get_num_threads():
        log(f"⚠️  {torch.get_num_threads()} threads now, {state['threads']} before: results can differ in the last bits")
    return str(source), state


def restore_state(state: dict[str, Any], learner: Learner, val_pairs: int, epochs: int, source: str) -> Progress:
    """Put a state (as `checkpoint.checked_state` returns it) into `learner` and return where its run stands.

    Raises InputError, naming `source`, when a part does not fit this run's network or optimizer.
    """
    progress = checked_progress(state, val_pairs, epochs, source)
    for network, part in ((learner.network, "raw_params"), (learner.average.network, "params")):
        if _shapes(network.state_dict()) != _shapes(state[part]):
            raise _unusable(source, f"its {part} are not the weights of this network")
        network.load_state_dict(state[part])
    try:
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
    except MISFITS as error:
        raise _unusable(source, f"{type(error).__name__}: {error}") from error
    for group in learner.optimizer.param_groups:
        for parameter in group["params"]:
            moments = learner.optimizer.state.get(parameter, {}).values()
            if not all(isinstance(value, torch.Tensor) and value.shape in ((), parameter.shape) for value in moments):
                raise _unusable(source, "the optimizer's moments are not those of this network")
    return progress


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


def _shapes(params: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in params.items()}


def checked_progress(state: dict[str, Any], val_pairs: int, epochs: int, source: str) -> Progress:
    """Where the run of a state, one of `epochs` epochs, stands. Raises InputError, naming `source`, when its numbers disagree."""
    recorded, fresh = state["progress"], dataclasses.asdict(Progress())
    wrong = {*fresh} ^ {*recorded}
    wrong |= {name for name in {*fresh} - wrong - {"best"} if type(recorded[name]) is not type(fresh[name])}
    if wrong:
        raise _unusable(source, f"its progress lacks or misstates {', '.join(sorted(map(str, wrong)))}")
    history, best = recorded["history"], recorded["best"]
    numbered = all(isinstance(record, dict) and record.get("epoch") == epoch for epoch, record in enumerate(history, 1))
    scored = isinstance(best, dict) and isinstance(best.get("scores"), list) and len(best["scores"]) == val_pairs
    # Within an epoch a run that began without its best weights has no best: see best_beside_state.
    open_epoch = recorded["totals"].get("updates") not in (None, 0) and len(history) < epochs
    anew = best is None and open_epoch and recorded["epochs_without_gain"] == 0 and not recorded["stopped_early"]
    summed = {*EMPTY_TOTALS, "terms"} == {*recorded["totals"]}
    if not numbered or not summed or recorded["step"] != state["step"] or (history and not scored and not anew):
        raise _unusable(source, "its history, best epoch and position do not agree")
    return Progress(**recorded)


def _unusable(source: str, reason: str) -> InputError:
    return InputError(f"{source}: this run cannot continue from it ({reason[:300]}); use --overwrite to start anew")


def refuse_changes(
    before: dict[str, Any],
    now: dict[str, Any],
    folder: Path,
    log: RunLog,
    weights_flag: str,
    resumed: Path | None = None,
) -> None:
    """InputError with the list of differences when a rerun requests another run than the one in `folder`, or than that of the
    state `resumed`. Differences that change no result are allowed, with a log line.
    """
    # A run from before an option came did what is now the option's default.
    defaults = plain({name: dataclasses.asdict(config_class()) for name, (config_class, _) in SECTIONS.items()})
    old, new = {**flat(defaults), **RETIRED, **flat(before)}, {**RETIRED, **flat(now)}
    if weights_flag == "--resume" and old[WEIGHTS_PATH] is None:
        named = f"--resume {new[WEIGHTS_PATH]}"
        log(f"{folder}: its run recorded no starting weights, as earlier versions did for {named}; it continues")
        new |= {WEIGHTS_PATH: None, WEIGHTS_DIGEST: None}
    for digest, path in FILES.items():
        if digest not in old or new[digest] is None:
            # Not recorded, or the file is gone since: its path is what can be compared.
            old, new = ({**options, digest: options[path]} for options in (old, new))
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    lines = {name: f"{name.rsplit('.', 1)[-1]}: {old.get(name)} before, {new.get(name)} now" for name in changed}
    harmless = [name for name in changed if name in _changing_no_result()]
    refused = [name for name in changed if name not in harmless]
    if refused:
        what, advice = f"{folder} holds a run", "choose another --output_dir, or discard it with --overwrite"
        if resumed is not None:
            what = f"--resume {resumed} is the state of a run"
            advice = f"start a new run from its weights: --pretrained_path {resumed.with_name(checkpoint.BEST)}"
        allowed = ["these differ too, but change no result:"] if harmless else []
        message = [
            f"{what} with other options or data:",
            *(f"  {lines[name]}" for name in refused),
            *allowed,
            *(f"  {lines[name]}" for name in harmless),
            f"rerun with the same options, {'or ' if resumed else ''}{advice}",
        ]
        raise InputError("\n".join(message))
    for name in harmless:
        log(f"Changed, which changes no result: {lines[name]}")


def _changing_no_result() -> set[str]:
    """`data.num_workers` and the like: the options whose field says so."""
    return {
        f"{section}.{field.name}"
        for section, (config_class, _) in SECTIONS.items()
        for field in dataclasses.fields(config_class)
        if not field.metadata["changes_result"]
    }


def remove_outputs(folder: Path) -> None:
    """Delete what a former run left in `folder` (--overwrite): known names only, anything else stays."""
    names = (checkpoint.BEST, checkpoint.FINAL, POSITION, "history.json", "curves.png")
    events = folder.glob("tensorboard/events.out.tfevents.*")
    for path in [*(folder / name for name in names), *checkpoint.state_files(folder), *events]:
        path.unlink(missing_ok=True)
