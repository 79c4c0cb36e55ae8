"""A run's state and results -> the files in its folder."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from darkir.engine import checkpoint
from darkir.engine.learner import Learner
from darkir.engine.metrics import METRICS
from darkir.engine.provenance import Seen
from darkir.engine.run_config import FoldPlan, Options
from darkir.engine.training import Progress


class FoldFiles:
    """Writes the checkpoints of one run. Each file appears whole or not at all; OSError (disk full) leaves the old ones."""

    def __init__(self, plan: FoldPlan, options: Options, asked: dict, seen: Seen, learner: Learner):
        self.plan, self.options, self.learner = plan, options, learner
        self.facts = {"data": seen.as_plain(), "config": asked, "fold": plan.number}

    def save_state(self, progress: Progress) -> None:
        """checkpoint_last.pt; the one before stays as checkpoint_last.prev.pt."""
        checkpoint.save_last(self.plan.folder, self._state(progress))

    def save_best(self, progress: Progress) -> None:
        """checkpoint_best.pt, when the epoch that just ended is the best one."""
        metrics = {name: progress.best[name] for name in METRICS}
        checkpoint.save(self.plan.folder / checkpoint.BEST, self._average(metrics=metrics, epoch=len(progress.history)))

    def save_epoch(self, progress: Progress) -> None:
        """checkpoint_epoch_N.pt for the epoch that just ended."""
        checkpoint.save(self.plan.folder / f"checkpoint_epoch_{len(progress.history)}.pt", self._state(progress))

    def save_final(self, progress: Progress, identity_scores: list[dict]) -> None:
        """checkpoint_final.pt, the proof that the run is finished: the outcome, and the scores of every validation photo."""
        best, history = progress.best, progress.history
        scores = [
            {**ours, **{f"identity_{name}": theirs[name] for name in METRICS}}
            for ours, theirs in zip(best["scores"], identity_scores, strict=True)
        ]
        outcome = {
            "fold": self.plan.number,
            "best_epoch": best["epoch"],
            **{f"best_{name}": best[name] for name in METRICS},
            "epochs_run": len(history),
            "stopped_early": progress.stopped_early,
        }
        last = history[-1]
        metrics = {"psnr": last["val_psnr"], "ssim": last["val_ssim"], "l1": last["val_loss"]}
        content = self._average(metrics=metrics, epoch=len(history), finished=outcome, scores=scores, history=history)
        checkpoint.save(self.plan.folder / checkpoint.FINAL, content)

    def _average(self, **facts: Any) -> dict[str, Any]:
        network = self.learner.average.network
        return checkpoint.weights_content(network, self.options.model.network, **self.facts, **facts)

    def _state(self, progress: Progress) -> dict[str, Any]:
        return self._average(
            raw_params={name: tensor.cpu() for name, tensor in self.learner.network.state_dict().items()},
            optimizer=self.learner.optimizer.state_dict(),
            scaler=self.learner.scaler.state_dict(),
            rng=torch.get_rng_state(),
            step=progress.step,
            progress=dataclasses.asdict(progress),
            threads=torch.get_num_threads(),
        )
