"""Checkpoints on disk -> the networks to evaluate, each with its name and what it saw. Folds must be finished."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.log import RunLog
from darkir.architectures import Config, arch_of, size_of, title
from darkir.weights import Network, load_into, make_network, read_weights
from data.config import MAX_RESOLUTION, MIN_RESOLUTION
from data.manifest import Pair
from engine.checkpoint import BEST, FINAL, finished
from engine.metrics import METRICS
from engine.provenance import Seen, log_provenance, refuse_unclean_weights

SUMMARY = "cv_summary.json"
RECORDED = {
    "resolution": lambda value: type(value) is int and MIN_RESOLUTION <= value <= MAX_RESOLUTION,
    "fit": lambda value: isinstance(value, str) and value in ("crop", "squash"),
}
FOLD_FOLDER = re.compile(r"fold_([1-9][0-9]*)")


@dataclass(frozen=True)
class Member:
    """One network under evaluation: eval mode, float32, on the CPU. `meta`: all of its file but the tensors."""

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
        return {
            "name": self.name,
            "path": str(self.path),
            "sha256": self.sha256,
            "network": title(self.config),
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "epoch": epoch if isinstance(epoch, int) else None,
            "validation": {name: value for name, value in validation.items() if isinstance(value, float)},
            **self.seen.describe(),
        }


def read_member(name: str, path: Path) -> Member:
    """Load one weights file, strictly. Raises ModelError naming the file."""
    weights = read_weights(path)
    network = make_network(weights.config)
    load_into(network, weights.params, weights.source)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Member(name, path, sha256, network.eval(), weights.config, weights.meta)


def read_members(paths: dict[str, Path], log: RunLog) -> list[Member]:
    """Load all named files, with a line in the log for each."""
    members = []
    for name, path in paths.items():
        members.append(read_member(name, path))
        log(f"{name}: {title(members[-1].config)} from {path}")
    return members


def fold_checkpoints(cv_dir: Path, n_folds: int | None) -> dict[str, Path]:
    """`fold_K` -> its best checkpoint, for every fold of a finished cross-validation.

    The number of folds is what cv_summary.json lists, else --n_folds, else the highest folder. Raises InputError that
    names every missing or unfinished fold, or both numbers when --n_folds contradicts.
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
            count = len(json.loads(path.read_text(encoding="utf-8"))["folds"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a summary of folds ({error}); run train_darkir_cv.py again") from error
        return max(count, found[-1]), f"{path} lists {count} folds"
    count = max(found[-1], n_folds or 0)
    return count, f"{cv_dir} holds {', '.join(f'fold_{fold}' for fold in found)}"


def _fold_fault(folder: Path) -> str | None:
    if not folder.is_dir():
        return f"{folder} is missing"
    if finished(folder) is None:
        return f"{folder} is unfinished: it has no {FINAL}"
    return None if (folder / BEST).exists() else f"{folder} has no {BEST}"


def recorded_by_all(option: str, members: list[Member], advice: str) -> Any:
    """The value of a data option that all members with a record of it share; None when no member records it.

    Raises InputError, with the `advice`, when they differ.
    """
    recorded = {member.name: member.recorded(option) for member in members if member.recorded(option) is not None}
    if len(set(recorded.values())) > 1:
        differing = ", ".join(f"{name}: {value}" for name, value in recorded.items())
        raise InputError(f"the checkpoints were trained with different --{option} ({differing}); {advice}")
    return next(iter(recorded.values()), None)


def named_checkpoints(paths: list[Path]) -> dict[str, Path]:
    """Name the files of --checkpoint: by file name, with as many parent folders as it takes to tell them apart.

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


def refuse_contradictions(members: list[Member], arch: str | None, model_size: str | None) -> None:
    """InputError when --arch or --model_size is not what the checkpoints hold."""
    asked = {"--arch": (arch, arch_of), "--model_size": (model_size, size_of)}
    for flag, (value, read) in asked.items():
        wrong = [member for member in members if value is not None and read(member.config) != value]
        if wrong:
            lines = "\n".join(f"  {member.path} holds {title(member.config)}" for member in wrong)
            raise InputError(f"{flag} {value}, but\n{lines}")


def refuse_leaks(members: list[Member], test: list[Pair], log: RunLog) -> None:
    """InputError, naming photos, when a model saw a test photo; says openly when a model's provenance is unknown."""
    for member in members:
        refuse_unclean_weights(test, member.seen, f"{member.name} ({member.path})")
        log_provenance(member.seen, log)
