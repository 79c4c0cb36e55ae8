"""A run's state <-> the files in its folder: what is saved when, and what a resume restores, part by part.

checkpoint_last.pt (and .prev) and checkpoint_epoch_N.pt hold all that a resume needs; checkpoint_best.pt and checkpoint_final.pt
hold weights to deploy. checkpoint_final.pt is written last and proves that the run is finished.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.files import write_json
from darkir.architectures import Config
from engine import checkpoint
from engine.metrics import METRICS
from engine.training.history import EMPTY_TOTALS, Progress
from engine.training.learner import Learner

POSITION = "progress.json"  # for whoever watches a run: where its newest state stands
# What torch's own load_state_dict functions raise on content of another shape.
MISFITS = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError)


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """Writes one run's files into `folder`. Each appears whole or not at all; OSError (disk full) leaves the old ones.

    facts: what every checkpoint says beside its tensors: `data` (digests seen), `config` (requested), `fold`, `split`.
    """

    folder: Path
    network: Config
    facts: dict[str, Any]

    def save_state(self, learner: Learner, progress: Progress) -> None:
        """checkpoint_last.pt, the one before it as checkpoint_last.prev.pt, and the position beside them."""
        checkpoint.save_last(self.folder, self._state(learner, progress))
        write_json(self.folder / POSITION, {"step": progress.step, "epochs": progress.epochs})

    def save_epoch(self, learner: Learner, progress: Progress) -> None:
        """checkpoint_epoch_N.pt for the epoch that just ended."""
        checkpoint.save(self.folder / f"checkpoint_epoch_{progress.epochs}.pt", self._state(learner, progress))

    def save_best(self, learner: Learner, progress: Progress) -> None:
        """checkpoint_best.pt, when the epoch that just ended is the best one."""
        metrics = {name: progress.best[name] for name in METRICS}
        checkpoint.save(self.folder / checkpoint.BEST, self._average(learner, metrics=metrics, epoch=progress.epochs))

    def save_final(self, learner: Learner, progress: Progress, identity_scores: list[dict]) -> None:
        """checkpoint_final.pt: the outcome, and the scores of every validation photo beside those of the untouched photo."""
        best, last = progress.best, progress.history[-1]
        scores = [
            {**ours, **{f"identity_{name}": theirs[name] for name in METRICS}}
            for ours, theirs in zip(best["scores"], identity_scores, strict=True)
        ]
        outcome = {
            "fold": self.facts["fold"],
            "best_epoch": best["epoch"],
            **{f"best_{name}": best[name] for name in METRICS},
            "epochs_run": progress.epochs,
            "stopped_early": progress.stopped_early,
        }
        metrics = {"psnr": last["val_psnr"], "ssim": last["val_ssim"], "l1": last["val_loss"]}
        content = self._average(
            learner,
            metrics=metrics,
            epoch=progress.epochs,
            finished=outcome,
            scores=scores,
            history=progress.history,
        )
        checkpoint.save(self.folder / checkpoint.FINAL, content)

    def _average(self, learner: Learner, **facts: Any) -> dict[str, Any]:
        return checkpoint.weights_content(learner.average.network, self.network, **self.facts, **facts)

    def _state(self, learner: Learner, progress: Progress) -> dict[str, Any]:
        return self._average(
            learner,
            raw_params={name: tensor.cpu() for name, tensor in learner.network.state_dict().items()},
            optimizer=learner.optimizer.state_dict(),
            scaler=learner.scaler.state_dict(),
            rng=torch.get_rng_state(),
            step=progress.step,
            progress=dataclasses.asdict(progress),
            threads=torch.get_num_threads(),
        )


def restore_state(state: dict[str, Any], learner: Learner, val_pairs: int, source: str) -> Progress:
    """Put a state (as `checkpoint.read_state` returns it) into `learner` and return where its run stands.

    Raises InputError, naming `source`, when a part does not fit this run's network or optimizer.
    """
    progress = _checked_progress(state, val_pairs, source)
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


def _shapes(params: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in params.items()}


def _checked_progress(state: dict[str, Any], val_pairs: int, source: str) -> Progress:
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


def _unusable(source: str, reason: str) -> InputError:
    return InputError(f"{source}: this run cannot continue from it ({reason[:300]}); use --overwrite to start anew")
