"""A state -> what it is put into, part by part: network, average, optimizer, loss scaler, and where the run stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from engine.training.changes import ACCEPT, EPOCHS, EXTEND, finished_advice, refuse_other_updates, refuse_unaccepted
from engine.training.config import Options
from engine.training.history import Progress, are_numbers
from engine.training.updates.learner import Learner, keep_on_device

# What torch's own load_state_dict functions raise on content of another shape.
MISFITS = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError)


@dataclass(frozen=True)
class Found:
    """A state as `checkpoint.checked_state` returns it, its file, and what this command would change in its run.

    changed: option of `train` -> [before, now].
    """

    source: str
    state: dict[str, Any]
    changed: dict[str, list]


def restore_state(found: Found, learner: Learner, val_pairs: int, updates: int, options: Options) -> Progress:
    """Put a state into `learner` and return where its run stands.

    Raises InputError, naming its file, when a part does not fit this run's network or optimizer.
    """
    progress, state, source = checked_progress(found, val_pairs, updates, options), found.state, found.source
    for network, part in ((learner.network, "raw_params"), (learner.average.network, "params")):
        if _forms(network.state_dict()) != _forms(state[part]):
            raise _unusable(source, f"its {part} are not the weights of this network")
        network.load_state_dict(state[part])
    if not are_numbers(state["scaler"]):
        raise _unusable(source, "its loss scale is no number")
    own = [_settings(group) for group in learner.optimizer.param_groups]
    try:
        learner.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] or "mixed_precision" not in found.changed and "amp_dtype" not in found.changed:
            learner.scaler.load_state_dict(state["scaler"])  # one that begins only now has a fresh scale
        torch.set_rng_state(state["rng"])
    except MISFITS as error:
        raise _unusable(source, f"{type(error).__name__}: {error}") from error
    if [_settings(group) for group in learner.optimizer.param_groups] != own:
        raise _unusable(source, "its optimizer has other settings than this run's")
    keep_on_device(learner.optimizer)
    for group in learner.optimizer.param_groups:
        for parameter in group["params"]:
            moments = learner.optimizer.state.get(parameter, {}).values()
            if not all(isinstance(value, torch.Tensor) and value.shape in ((), parameter.shape) for value in moments):
                raise _unusable(source, "the optimizer's moments are not those of this network")
    return progress


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """What a group of AdamW's parameters is updated with, but for the rate, which the schedule sets before each update."""
    return {name: group.get(name) for name in ("betas", "eps", "weight_decay", "amsgrad")}


def checked_progress(found: Found, val_pairs: int, updates: int, options: Options) -> Progress:
    """Where the run of a state, with epochs of `updates` updates, stands, with what this command changes in it noted.

    Raises InputError, naming its file.
    """
    state, source = found.state, found.source
    refuse_other_updates(found.changed, options.train)
    planned = found.changed.get(EPOCHS, [options.train.epochs])[0]
    try:
        progress = Progress.from_record(state["progress"], val_pairs, updates, planned)
    except ValueError as error:
        raise _unusable(source, str(error)) from error
    if progress.step != state["step"]:
        raise _unusable(source, "it names two positions")
    _settle_changes(progress, found.changed, options, source)
    return progress


def _settle_changes(progress: Progress, changed: dict[str, list], options: Options, place: str) -> None:
    """Note in `progress` what this command changes in the run that stands there.

    changed: as `refuse_changes` returns it; place: file of the state. Raises InputError where the flags do not allow it.
    """
    train = options.train
    planned = changed.get(EPOCHS, [train.epochs])[0]
    ended = progress.stopped_early or progress.epochs >= planned
    begun = progress.extension is not None and EPOCHS not in changed
    if options.extend and ended and not begun:
        if train.epochs <= progress.epochs:
            raise InputError(
                f"{EXTEND} --epochs {train.epochs}: the run of {place} has run {progress.epochs} epochs already"
            )
        progress.change(EXTEND, {**changed, EPOCHS: [planned, train.epochs]})
        return
    if options.extend and not ended and not begun and not options.accept_changes:
        raise InputError(
            f"{EXTEND}: the run of {place} is not finished, it stands after epoch {progress.epochs} of {planned}; finish it with "
            f"--epochs {planned}, without {EXTEND}, or change its --epochs with {ACCEPT}"
        )
    refuse_unaccepted(changed, options, Path(place))
    if not changed:
        return
    if progress.epochs >= planned and train.epochs > planned:
        raise InputError(finished_advice(place, progress.epochs, train.epochs))
    if train.epochs < progress.epochs + (progress.totals["updates"] > 0):
        raise InputError(
            f"--epochs {train.epochs}: the run of {place} is further already, after epoch {progress.epochs}"
        )
    progress.change(ACCEPT, changed)
    patience = train.early_stopping_patience
    progress.stopped_early = progress.stopped_early and bool(patience) and progress.epochs_without_gain >= patience


def _forms(params: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in params.items()}


def _unusable(source: str, reason: str) -> InputError:
    return InputError(f"{source}: this run cannot continue from it ({reason[:300]}); use --overwrite to start anew")
