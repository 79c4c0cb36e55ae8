"""A finished cross-validation -> the networks that can be exported: every fold's best, and the mean of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from darkir.architectures import Config, Network, make_network
from darkir.engine.checkpoint import BEST, finished
from darkir.engine.errors import RunRefused
from darkir.engine.members import Member, fold_checkpoints, read_members
from darkir.engine.metrics import METRICS
from darkir.engine.provenance import Seen
from darkir.engine.runlog import RunLog

AVERAGE = "average"
IDENTITY_COLUMNS = tuple(f"identity_{name}" for name in METRICS)


@dataclass(frozen=True)
class Candidate:
    """One network that can be exported: eval mode, float32, on the CPU.

    sources: the checkpoints that it is made of, relative to --cv_dir, with their sha256. validation: the recorded scores of
    the photos that the fold did not learn from, with the identity's beside them; None for the average, which has no such photo.
    """

    name: str
    network: Network
    config: Config
    seen: Seen
    options: dict[str, Any]
    epoch: int | None
    sources: dict[str, str]
    validation: list[dict] | None

    @property
    def data(self) -> dict[str, Any]:
        """The data options of the training: resolution, fit, ..."""
        return self.options["data"]


def read_folds(cv_dir: Path, log: RunLog) -> list[Member]:
    """The best checkpoint of every fold; RunRefused when one is missing, and when two are not of one kind of run."""
    members = read_members(fold_checkpoints(cv_dir, None), log)
    for what, values in {
        "network": [member.config for member in members],
        "training resolution": [member.recorded("resolution") for member in members],
        "fit": [member.recorded("fit") for member in members],
    }.items():
        if None in values or values.count(values[0]) < len(values):
            told = ", ".join(f"{member.name}: {value}" for member, value in zip(members, values, strict=True))
            raise RunRefused(f"--cv_dir {cv_dir}: all folds must record one {what} ({told}); train them again")
    return members


def candidates_of(cv_dir: Path, members: list[Member]) -> list[Candidate]:
    """Every fold with its recorded validation scores; then, of several folds, the average.

    Raises RunRefused, naming the file, when a fold's record is not of its best checkpoint.
    """
    folds = [_fold(cv_dir, member) for member in members]
    return [*folds, _average(folds)] if len(folds) > 1 else folds


def _fold(cv_dir: Path, member: Member) -> Candidate:
    record = finished(cv_dir / member.name)
    scores, epoch = record["scores"], member.meta.get("epoch")
    if not scores or not all(_is_score(row) for row in scores):
        raise RunRefused(f"{cv_dir / member.name}: its last file holds no validation scores; train the fold again")
    if record["finished"].get("best_epoch") != epoch:
        raise RunRefused(
            f"{member.path} is of epoch {epoch}, but the fold's recorded scores are of epoch "
            f"{record['finished'].get('best_epoch')}; train the fold again"
        )
    return Candidate(
        name=member.name,
        network=member.network,
        config=member.config,
        seen=member.seen,
        options=member.meta["config"],
        epoch=epoch,
        sources={f"{member.name}/{BEST}": member.sha256},
        validation=scores,
    )


def _is_score(row: object) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(name), float) for name in (*METRICS, *IDENTITY_COLUMNS))


@torch.no_grad()
def _average(folds: list[Candidate]) -> Candidate:
    """The mean of the folds' weights, each tensor by itself; it has seen what any of them has."""
    network = make_network(folds[0].config).eval()
    states = [fold.network.state_dict() for fold in folds]
    network.load_state_dict(
        {name: torch.stack([state[name].double() for state in states]).mean(0).float() for name in states[0]}
    )
    return Candidate(
        name=AVERAGE,
        network=network,
        config=folds[0].config,
        seen=Seen(
            own=frozenset().union(*(fold.seen.own for fold in folds)),
            earlier=frozenset().union(*(fold.seen.earlier for fold in folds)),
            known=all(fold.seen.known for fold in folds),
            sources=tuple(sorted({source for fold in folds for source in fold.seen.sources})),
        ),
        options=folds[0].options,
        epoch=None,
        sources={name: sha256 for fold in folds for name, sha256 in fold.sources.items()},
        validation=None,
    )
