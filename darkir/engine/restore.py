"""A state file's content -> a learner and its progress: checked part by part, so that nothing is ever half restored."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from darkir.engine.errors import RunRefused
from darkir.engine.learner import Learner
from darkir.engine.training import EMPTY_TOTALS, Progress

# What torch's own load_state_dict functions raise on content of another shape.
MISFITS = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError)


def restore(state: dict[str, Any], learner: Learner, val_pairs: int, source: str) -> Progress:
    """Put a state (as `checkpoint.read_state` returns it) into `learner` and return where its run stands.

    Raises RunRefused, naming `source`, when a part does not fit this run's network or optimizer.
    """
    progress = _progress(state, val_pairs, source)
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
            if not _fits(learner.optimizer.state.get(parameter, {}), parameter):
                raise _unusable(source, "the optimizer's moments are not those of this network")
    return progress


def _shapes(params: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in params.items()}


def _fits(moments: dict[str, Any], parameter: torch.Tensor) -> bool:
    return all(isinstance(value, torch.Tensor) and value.shape in ((), parameter.shape) for value in moments.values())


def _progress(state: dict[str, Any], val_pairs: int, source: str) -> Progress:
    recorded, fresh = state["progress"], dataclasses.asdict(Progress())
    wrong = {*fresh} ^ {*recorded}
    wrong |= {name for name in {*fresh} - wrong - {"best"} if type(recorded[name]) is not type(fresh[name])}
    if wrong:
        raise _unusable(source, f"its progress lacks or misstates {', '.join(sorted(map(str, wrong)))}")
    history, best = recorded["history"], recorded["best"]
    numbered = all(isinstance(record, dict) and record.get("epoch") == epoch for epoch, record in enumerate(history, 1))
    scored = isinstance(best, dict) and isinstance(best.get("scores"), list) and len(best["scores"]) == val_pairs
    summed = {*EMPTY_TOTALS, "terms"} == {*recorded["totals"]}
    if not numbered or not summed or recorded["step"] != state["step"] or (history and not scored):
        raise _unusable(source, "its history, best epoch and position do not agree")
    return Progress(**recorded)


def _unusable(source: str, reason: str) -> RunRefused:
    return RunRefused(f"{source}: this run cannot continue from it ({reason[:300]}); use --overwrite to start anew")
