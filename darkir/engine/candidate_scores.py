"""Candidates and test photos -> their scores on photos that they did not learn from, as tables."""

from __future__ import annotations

from typing import Any

import torch

from darkir.engine.candidates import AVERAGE, Candidate
from darkir.engine.ensemble import ENSEMBLE, IDENTITY, make_restorers, score_all
from darkir.engine.metrics import METRICS
from darkir.engine.results import Records, metric_table, summary_of
from darkir.engine.runlog import RunLog
from darkir.engine.runtime import Precision
from data.dataset import EvaluationPairs
from data.loader import equal_size_batches, evaluation_loader
from data.manifest import Pair

BATCH_SIZE = 1  # whole frames of many sizes; a larger batch changes no score
UNSCORED_AVERAGE = (
    "no validation score: every photo of the folds shaped it, so that only test photos can tell what it is worth"
)

Summary = dict[str, Any]


def score_on_test(candidates: list[Candidate], pairs: list[Pair], device: torch.device, num_workers: int) -> Records:
    """name -> one record a test photo, float32: the untouched photo, every candidate, and the ensemble of the folds.

    Nothing for no photos. Raises as `score_all` does. The candidates' networks are on the CPU again afterwards.
    """
    if not pairs:
        return {}
    data, records = candidates[0].data, {}
    dataset = EvaluationPairs(pairs, data["resolution"], data["fit"])
    folds = [candidate for candidate in candidates if candidate.name != AVERAGE]
    averages = [candidate for candidate in candidates if candidate.name == AVERAGE]
    for group in filter(None, (averages, folds)):  # apart, or the average would be in the ensemble
        batches = equal_size_batches(dataset, BATCH_SIZE)
        loader = evaluation_loader(dataset, batches, num_workers, device.type == "cuda")
        restorers = make_restorers(group, False, Precision(device.type, None), device)
        records |= score_all(restorers, loader, pairs, device, lambda *_: None)
        for candidate in group:
            candidate.network.cpu()
    return records


def validation_summaries(candidates: list[Candidate]) -> dict[str, Summary]:
    """Name -> mean and interval of each metric over the fold's own validation photos, and the identity's over all of them."""
    folds = {c.name: summary_of(c.validation) for c in candidates if c.validation is not None}
    return {IDENTITY: untouched_summary(candidates), **folds}


def untouched_summary(candidates: list[Candidate]) -> Summary | None:
    """The identity on the validation photos of these candidates; None when they have none."""
    rows = [row for candidate in candidates for row in candidate.validation or ()]
    return summary_of([{name: row[f"identity_{name}"] for name in METRICS} for row in rows]) if rows else None


def log_scores(
    candidates: list[Candidate], validation: dict[str, Summary], test: dict[str, Summary], photos: int, log: RunLog
) -> None:
    """Both tables, with the average's missing number said."""
    counts = ", ".join(f"{c.name}: {len(c.validation)}" for c in candidates if c.validation is not None)
    log(f"Validation, each fold on its own photos ({counts}), as recorded in training; mean and 95 % interval:")
    for line in metric_table([(name, summary, "") for name, summary in validation.items()]):
        log(f"   {line}")
    if any(candidate.name == AVERAGE for candidate in candidates):
        log(f"   {AVERAGE}: {UNSCORED_AVERAGE}")
    if test:
        log(f"Test, {photos} photos, mean and 95 % interval:")
        order = [IDENTITY, *(c.name for c in candidates), ENSEMBLE]
        for line in metric_table([(name, test[name], "") for name in order if name in test]):
            log(f"   {line}")
