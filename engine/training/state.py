"""A run's state -> the files in its folder: what is saved, and when. engine/training/resume.py restores it.

checkpoint_last.pt (and .prev) and checkpoint_epoch_N.pt hold all that a resume needs; checkpoint_best.pt and checkpoint_final.pt
hold weights to deploy. checkpoint_final.pt is written last and proves that the run is finished.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from common.errors import RunFailed
from common.files import sync_folder, write_json
from common.locks import LOCK
from darkir.architectures import Config
from data.manifest import UNIT
from engine import checkpoint
from engine.metrics import METRICS
from engine.training.history import Progress
from engine.training.updates.learner import Learner

POSITION = "progress.json"  # for whoever watches a run: where its newest state stands


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """Writes one run's files into `folder`. Each appears whole or not at all; OSError (disk full) leaves the old ones.

    facts: what every checkpoint says beside its tensors: `data` (digests seen), `config` (requested), `fold`, `split`.
    writes: whether this process writes at all; of several processes that train one model, only one does.
    """

    folder: Path
    network: Config
    facts: dict[str, Any]
    writes: bool

    def refuse_removed_folder(self) -> None:
        """RunFailed when the folder was removed while the run went on: what it writes from now on would be half a run."""
        if self.writes and not (self.folder / LOCK).exists():
            raise RunFailed(
                f"{self.folder} was removed while this run wrote to it, and what it had learned with it; nothing more is written"
            )

    def save_state(self, learner: Learner, progress: Progress, **remarks: str) -> None:
        """checkpoint_last.pt, the one before it as checkpoint_last.prev.pt, and the position beside them.

        remarks: `unsound`, why no run may continue from this state.
        """
        if not self.writes:
            return
        self.refuse_removed_folder()
        checkpoint.save_last(self.folder, {**self._state(learner, progress), **remarks})
        write_json(self.folder / POSITION, {"step": progress.step, "epochs": progress.epochs})

    def reopen(self, learner: Learner, progress: Progress) -> None:
        """Where a finished run goes on: the state that says so, and only then checkpoint_final.pt goes."""
        final = self.folder / checkpoint.FINAL
        if self.writes and final.exists():
            self.save_state(learner, progress)
            final.unlink()
            sync_folder(self.folder)

    def save_epoch(self, learner: Learner, progress: Progress) -> None:
        """checkpoint_epoch_N.pt for the epoch that just ended."""
        if not self.writes:
            return
        checkpoint.save(self.folder / f"checkpoint_epoch_{progress.epochs}.pt", self._state(learner, progress))

    def save_best(self, learner: Learner, progress: Progress) -> None:
        """checkpoint_best.pt, when the epoch that just ended is the best one."""
        if not self.writes:
            return
        metrics = {name: progress.best_epoch[name] for name in METRICS}
        checkpoint.save(self.folder / checkpoint.BEST, self._average(learner, metrics=metrics, epoch=progress.epochs))

    def save_final(self, learner: Learner, progress: Progress, identity_scores: list[dict], units: list[str]) -> None:
        """checkpoint_final.pt: the outcome, and the scores of every validation photo beside those of the untouched photo.

        units: the independent unit of each of these photos; the intervals of the scores are over units.
        """
        if not self.writes:
            return
        best, last = progress.best_epoch, progress.history[-1]
        scores = [
            {**ours, **{f"identity_{name}": theirs[name] for name in METRICS}, UNIT: unit}
            for ours, theirs, unit in zip(best["scores"], identity_scores, units, strict=True)
        ]
        outcome = {
            "fold": self.facts["fold"],
            "best_epoch": best["epoch"],
            **{f"best_{name}": best[name] for name in METRICS},
            "epochs_run": progress.epochs,
            "stopped_early": progress.stopped_early,
            **({"changes": progress.changes} if progress.changes else {}),
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
