"""A finished cross-validation -> the networks that can be exported, each with its scores on photos that it did not learn from.

Candidates are every fold's best network, the mean of their weights, and all of them as an ensemble. A fold's validation scores
are those that the training recorded; test photos are scored here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.log import RunLog
from darkir.architectures import Config
from darkir.ensemble import Ensemble
from darkir.weights import Network, make_network
from data.dataset import EvaluationPairs
from data.loader import equal_size_batches, evaluation_loader
from data.manifest import UNIT, Pair
from engine.checkpoint import BEST, finished, scored_units
from engine.inference import ENSEMBLE, IDENTITY, make_restorers, score_all
from engine.intervals import count_units, interval_words
from engine.metrics import METRICS
from engine.models import TrainedModel, read_models
from engine.provenance import Seen, SeenValidation
from engine.runtime import Precision
from engine.testing.results import COLOUR_TABLE, Records, metric_table, summary_of

AVERAGE = "average"
UNSCORED = "no validation score: every photo of the folds shaped it, so that only test photos can tell what it is worth"
SCORES = (*METRICS, *(f"identity_{name}" for name in METRICS))  # of a validation photo
BATCH_SIZE = 1  # whole frames of many sizes; a larger batch changes no score

Summary = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """What can be exported, one network or all folds' as an ensemble: eval mode, float32, on the CPU.

    sources: the checkpoints that it is made of, relative to --cv_dir, with their sha256. validation: the recorded scores of
    the photos that the fold did not learn from, with the identity's and the photo's unit beside them; None for average and
    ensemble, which have no such photo. seen_validation: which of them its starting weights saw; None when nobody recorded it.
    """

    name: str
    network: Network | Ensemble
    config: Config
    seen: Seen
    options: dict[str, Any]
    epoch: int | None
    sources: dict[str, str]
    validation: list[dict] | None
    seen_validation: SeenValidation | None

    @property
    def contaminated(self) -> str | None:
        """What is wrong with its validation scores, when its starting weights saw the photos or may have; else None."""
        if self.seen_validation is None:
            return f"{self.name}: an earlier version did not record whether its starting weights saw validation photos"
        return f"{self.name}: {self.seen_validation}" if self.seen_validation else None

    @property
    def validation_units(self) -> list[str | None]:
        """The independent unit of each of these photos, None where it was not recorded; empty for the average."""
        return [row[UNIT] for row in self.validation or ()]

    @property
    def data(self) -> dict[str, Any]:
        """The data options of the training: resolution, fit, ..."""
        return self.options["data"]


def read_folds(cv_dir: Path, log: RunLog) -> list[TrainedModel]:
    """The best checkpoint of every fold; InputError when one is missing, and when two are not of one kind of run."""
    models = read_models(cv_dir, None, log)
    for what, values in {
        "network": [model.config for model in models],
        "training resolution": [model.recorded("resolution") for model in models],
        "fit": [model.recorded("fit") for model in models],
    }.items():
        if None in values or values.count(values[0]) < len(values):
            told = ", ".join(f"{model.name}: {value}" for model, value in zip(models, values, strict=True))
            raise InputError(f"--cv_dir {cv_dir}: all folds must record one {what} ({told}); train them again")
    return models


def candidates_of(cv_dir: Path, models: list[TrainedModel], log: RunLog) -> list[Candidate]:
    """Every fold with its recorded validation scores; then, when there are several folds, the average and the ensemble.

    Raises InputError, naming the file, when a fold's record is not of its best checkpoint.
    """
    folds = [_fold(cv_dir, model, log) for model in models]
    if len(folds) == 1:
        return folds
    ensemble = Ensemble({model.name: model.network for model in models})
    return [*folds, _average(folds), _of_all(folds, ENSEMBLE, ensemble)]


def _fold(cv_dir: Path, model: TrainedModel, log: RunLog) -> Candidate:
    record = finished(cv_dir / model.name)
    assert record is not None  # read_models refuses unfinished folds
    scores, epoch = record["scores"], model.meta.get("epoch")
    complete = (isinstance(row, dict) and all(isinstance(row.get(name), float) for name in SCORES) for row in scores)
    if not scores or not all(complete):
        raise InputError(f"{cv_dir / model.name}: its last file holds no validation scores; train the fold again")
    if record["finished"].get("best_epoch") != epoch:
        raise InputError(
            f"{model.path} is of epoch {epoch}, but the fold's recorded scores are of epoch "
            f"{record['finished'].get('best_epoch')}; train the fold again"
        )
    return Candidate(
        name=model.name,
        network=model.network,
        config=model.config,
        seen=model.seen,
        options=model.meta["config"],
        epoch=epoch,
        sources={f"{model.name}/{BEST}": model.sha256},
        validation=scored_units(record, log),
        seen_validation=SeenValidation.from_checkpoint(record),
    )


@torch.no_grad()
def _average(folds: list[Candidate]) -> Candidate:
    """The mean of the folds' weights, each tensor by itself."""
    network = make_network(folds[0].config).eval()
    states = [fold.network.state_dict() for fold in folds]
    network.load_state_dict(
        {name: torch.stack([state[name].double() for state in states]).mean(0).float() for name in states[0]}
    )
    return _of_all(folds, AVERAGE, network)


def _of_all(folds: list[Candidate], name: str, network: Network | Ensemble) -> Candidate:
    """What is made of all folds; it has seen what any of them has."""
    return Candidate(
        name=name,
        network=network,
        config=folds[0].config,
        seen=Seen.union(fold.seen for fold in folds),
        options=folds[0].options,
        epoch=None,
        sources={name: sha256 for fold in folds for name, sha256 in fold.sources.items()},
        validation=None,
        seen_validation=SeenValidation(0),
    )


def score_on_test(
    candidates: list[Candidate], pairs: list[Pair], device: torch.device, num_workers: int, log: RunLog
) -> Records:
    """name -> one record a test photo, float32: the untouched photo, every candidate, and the ensemble of the folds.

    Nothing for no photos. Raises as `score_all` does. The candidates' networks are on the CPU again afterwards.
    """
    if not pairs:
        return {}
    data = candidates[0].data
    records: Records = {}
    dataset = EvaluationPairs(pairs, data["resolution"], data["fit"])
    folds = [candidate for candidate in candidates if candidate.name not in (AVERAGE, ENSEMBLE)]
    averages = [candidate for candidate in candidates if candidate.name == AVERAGE]
    for group in filter(None, (averages, folds)):  # apart, or the average would be in the ensemble
        batches = equal_size_batches(dataset, BATCH_SIZE)
        loader = evaluation_loader(dataset, batches, num_workers, device.type == "cuda")
        restorers = make_restorers(group, False, Precision(device.type, None), device, log)
        records |= score_all(restorers, loader, pairs, device, lambda *_: None)
        for candidate in group:
            candidate.network.cpu()
    return records


def validation_summaries(candidates: list[Candidate]) -> dict[str, Summary]:
    """Name -> mean and interval of each metric over the fold's own validation photos, and the identity's over all of them."""
    folds = {c.name: summary_of(c.validation, c.validation_units) for c in candidates if c.validation is not None}
    untouched = untouched_summary(candidates)
    assert untouched is not None  # there are folds, and all have scores
    return {IDENTITY: untouched, **folds}


def untouched_summary(candidates: list[Candidate]) -> Summary | None:
    """The identity on the validation photos of these candidates; None when they have none."""
    rows = [row for candidate in candidates for row in candidate.validation or ()]
    untouched = [{name: row[f"identity_{name}"] for name in METRICS} for row in rows]
    return summary_of(untouched, [row[UNIT] for row in rows]) if rows else None


def contaminated_scores(candidates: list[Candidate]) -> list[str]:
    """A warning when the validation scores that a fold is chosen by are of photos that starting weights saw, or may be."""
    found = [candidate.contaminated for candidate in candidates if candidate.contaminated is not None]
    return [f"validation scores are contaminated ({'; '.join(found)}): only test photos can tell"] if found else []


def log_scores(
    candidates: list[Candidate], validation: dict[str, Summary], test: dict[str, Summary], units: list[str], log: RunLog
) -> None:
    """Both tables, with the average's missing number said. units: of each test photo."""
    for c in candidates:
        if c.validation is not None:
            ci95 = validation[c.name]["psnr"]["ci95"]
            log(f"{c.name}: {interval_words(len(c.validation), count_units(c.validation_units), ci95)} in validation")
    marked = "CONTAMINATED validation" if contaminated_scores(candidates) else "Validation"
    log(f"{marked}, each fold on its own photos, as recorded in training; mean and interval:")
    for line in metric_table([(name, summary, "") for name, summary in validation.items()]):
        log(f"   {line}")
    for candidate in candidates:
        if candidate.validation is None:
            log(f"   {candidate.name}: {UNSCORED}")
    if test:
        ci95 = test[IDENTITY]["psnr"]["ci95"]
        log(f"Test, {len(units)} photos, mean; {interval_words(len(units), len(set(units)), ci95)}:")
        order = [IDENTITY, *(c.name for c in candidates)]
        named = [(name, test[name], "") for name in order if name in test]
        for line in [*metric_table(named), *metric_table(named, COLOUR_TABLE)]:
            log(f"   {line}")
