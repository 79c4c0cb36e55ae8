"""Checkpoints on disk -> the networks to evaluate, each with its name and what it saw. Folds must be finished."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.exits import flagged
from common.files import file_digest
from common.jsonl import parse_json
from common.log import RunLog
from darkir.architectures import Config, title
from darkir.weights import ONLY, Network, load_into, make_network, read_members
from data.config import MAX_RESOLUTION, MIN_RESOLUTION
from data.manifest import Pair
from engine.checkpoint import BEST, FINAL, finished
from engine.metrics import METRICS
from engine.provenance import Seen, SeenValidation, log_provenance, refuse_unclean_weights

SUMMARY = "cv_summary.json"
FOLD_FOLDER = re.compile(r"fold_([1-9][0-9]*)")
RECORDED = {
    "resolution": lambda value: type(value) is int and MIN_RESOLUTION <= value <= MAX_RESOLUTION,
    "fit": lambda value: isinstance(value, str) and value in ("crop", "squash"),
}


@dataclass(frozen=True)
class TrainedModel:
    """One network under evaluation: eval mode, float32, on the CPU. `meta`: all of its file but the tensors.

    The networks of an ensemble's file share `path`, `sha256` and `meta`; what one of them saw, the file does not tell.
    """

    name: str
    path: Path
    sha256: str
    network: Network
    config: Config
    meta: dict[str, Any]

    @property
    def seen(self) -> Seen:
        """Digests of the photos that shaped the weights; not `known` for published weights."""
        return Seen.from_checkpoint(self.meta, str(self.path))

    def recorded(self, option: str) -> Any:
        """A data option (`resolution`, `fit`) that the checkpoint's training run recorded, or None; nonsense is no record."""
        config = self.meta.get("config")
        data = config.get("data") if isinstance(config, dict) else None
        value = data.get(option) if isinstance(data, dict) else None
        return value if RECORDED[option](value) else None

    def describe(self) -> dict[str, Any]:
        """What test_results.json says of a model; plain types."""
        metrics, epoch = self.meta.get("metrics"), self.meta.get("epoch")
        validation = {name: metrics[name] for name in METRICS if name in metrics} if isinstance(metrics, dict) else {}
        seen_validation = SeenValidation.from_checkpoint(self.meta)
        return {
            "name": self.name,
            "path": str(self.path),
            "sha256": self.sha256,
            "network": title(self.config),
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "epoch": epoch if isinstance(epoch, int) else None,
            "validation": {
                n: value for n, value in validation.items() if isinstance(value, float) and math.isfinite(value)
            },
            "validation_contaminated": seen_validation is None or bool(seen_validation),
            **self.seen.describe(),
        }


def read_models(
    cv_dir: Path | None, checkpoints: list[Path] | None, log: RunLog, n_folds: int | None = None
) -> list[TrainedModel]:
    """The models that --cv_dir (every fold's best) or else --checkpoint names, each loaded strictly, with a line in the log.

    The file of an ensemble is all of its networks. Raises InputError naming the flag as fold_checkpoints and named_checkpoints do,
    for a file that is no such network, for an ensemble beside other files, and for another number of models than `n_folds`.
    """
    flag = "--checkpoint" if cv_dir is None else "--cv_dir"
    with flagged(flag, cv_dir):
        if cv_dir is not None:
            paths = fold_checkpoints(cv_dir, n_folds, log)
        else:
            assert checkpoints is not None  # the command line requires one of the two
            paths = named_checkpoints(checkpoints)
    models = []
    for name, path in paths.items():
        with flagged(flag, path):
            members, sha256 = read_members(path), file_digest(path)
            if len(paths) > 1 and ONLY not in members:
                raise InputError(
                    f"{path} is an ensemble of {len(members)} networks; it cannot be one model beside others"
                )
            for member, weights in members.items():
                config = weights.config
                network = make_network(config)
                load_into(network, weights.params, weights.source)
                models.append(TrainedModel(member or name, path, sha256, network.eval(), config, weights.meta))
                log(f"{models[-1].name}: {title(config)} from {path}")
    if n_folds not in (None, len(models)):
        raise InputError(f"--n_folds {n_folds}, but {flag} names {len(models)} models")
    return models


def fold_checkpoints(cv_dir: Path, n_folds: int | None, log: RunLog) -> dict[str, Path]:
    """`fold_K` -> its best checkpoint, for every fold of a finished cross-validation in --cv_dir.

    The number of folds is what cv_summary.json lists (further folders are named in the log and left out), else --n_folds, else
    the highest folder. Raises InputError that names every missing or unfinished fold, or both numbers when --n_folds contradicts.
    """
    if not cv_dir.is_dir():
        raise InputError(f"--cv_dir {cv_dir} is {'not a folder' if cv_dir.exists() else 'missing'}")
    matches = (FOLD_FOLDER.fullmatch(path.name) for path in cv_dir.iterdir() if path.is_dir())
    found = sorted(int(match[1]) for match in matches if match)
    if not found:
        single = cv_dir / BEST
        alone = f"of a single run, evaluate_darkir_test.py and enhance_photos.py take --checkpoint {single}"
        advice = alone if single.exists() else "train_darkir_cv.py writes them"
        raise InputError(f"--cv_dir {cv_dir} holds no fold_K folders; {advice}")
    count, source = _number_of_folds(cv_dir, found, n_folds)
    if n_folds is not None and n_folds != count:
        raise InputError(f"--n_folds {n_folds}, but {source}")
    if further := [f"fold_{fold}" for fold in found if fold > count]:
        log(f"⚠️  --cv_dir {cv_dir}: left out {', '.join(further)} of another run, as {source}")
    faults = [fault for fold in range(1, count + 1) if (fault := _fold_fault(cv_dir / f"fold_{fold}"))]
    if faults:
        advice = f"all {count} folds are needed: run train_darkir_cv.py again to finish them"
        raise InputError("\n".join([*faults, advice]))
    return {f"fold_{fold}": cv_dir / f"fold_{fold}" / BEST for fold in range(1, count + 1)}


def _number_of_folds(cv_dir: Path, found: list[int], n_folds: int | None) -> tuple[int, str]:
    """How many folds the run has, and the words that prove it."""
    path = cv_dir / SUMMARY
    if path.exists():
        try:
            count = len(parse_json(path.read_text(encoding="utf-8"))["folds"])
            if count == 0:
                raise ValueError("no folds")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a summary of folds ({error}); run train_darkir_cv.py again") from error
        return count, f"{path} lists {count} folds"
    count = max(found[-1], n_folds or 0)
    return count, f"{cv_dir} holds {', '.join(f'fold_{fold}' for fold in found)}"


def _fold_fault(folder: Path) -> str | None:
    if not folder.is_dir():
        return f"{folder} is missing"
    if finished(folder) is None:
        return f"{folder} is unfinished: it has no {FINAL}"
    return None if (folder / BEST).exists() else f"{folder} has no {BEST}"


def named_checkpoints(paths: list[Path]) -> dict[str, Path]:
    """Name the files of --checkpoint: by file name, with as many parent folders as it takes to make the names differ.

    Raises InputError when a file is given twice.
    """
    resolved = [path.resolve() for path in paths]
    twice = sorted({str(path) for path, real in zip(paths, resolved, strict=True) if resolved.count(real) > 1})
    if twice:
        raise InputError(f"--checkpoint names the same file more than once: {', '.join(twice)}")
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return {"/".join(real.parts[-depth:]): path for real, path in zip(resolved, paths, strict=True)}


def refuse_leaks(
    models: list[TrainedModel], test: list[Pair], near_duplicates: str, log: RunLog
) -> list[dict[str, str]]:
    """The test photos that look like one that a model saw, where `near_duplicates` is "report": {"src", "model", "how"} each.

    Raises InputError, naming photos, when a model saw a test photo, or with "refuse" one that looks like it. Says openly when a
    model's provenance is unknown.
    """
    found = []
    files = {model.path: model for model in models}
    for path, model in files.items():
        seen, shared = model.seen, len(files) < len(models)
        told, name = (str(path), path.name) if shared else (f"{model.name} ({path})", model.name)
        alike = refuse_unclean_weights(test, seen, told, near_duplicates, log)
        found += [{"src": src, "model": name, "how": how} for src, how in alike]
        log_provenance(seen, log)
    return found


def names_of(alike: list[dict[str, str]]) -> list[str]:
    """The src of each photo that `refuse_leaks` has found, once."""
    return sorted({found["src"] for found in alike})


def recorded_by_all(option: str, models: list[TrainedModel], advice: str) -> Any:
    """The value of a data option that all models with a record of it share; None when no model records it.

    Raises InputError, with the `advice`, when they differ.
    """
    recorded = {model.name: model.recorded(option) for model in models if model.recorded(option) is not None}
    if len(set(recorded.values())) > 1:
        differing = ", ".join(f"{name}: {value}" for name, value in recorded.items())
        raise InputError(f"the checkpoints were trained with different --{option} ({differing}); {advice}")
    return next(iter(recorded.values()), None)
