"""A finished run -> its test photos; its candidates and their scores -> which one is exported, by which number, and what speaks
against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.lists import shortened
from common.log import RunLog
from data.fingerprint import fingerprint_pairs
from data.manifest import Pair, read_pairs
from data.splits.files import TEST, verify_splits
from data.units import refuse_unknown_group_key
from engine.exporting.candidates import AVERAGE, UNSCORED, Candidate, Summary, untouched_summary
from engine.exporting.config import BEST_FOLD
from engine.exporting.ranking import Ranking
from engine.inference import ENSEMBLE, IDENTITY
from engine.models import TrainedModel


def find_test_pairs(
    test_jsonl: Path | None, base_dir: Path | None, group_key: str | None, models: list[TrainedModel], log: RunLog
) -> list[Pair]:
    """The test photos with their digests: those of `test_jsonl`, else of the split that the run recorded, if that still stands.

    No photos, with the reason in the log, without both. Raises InputError for rows of `test_jsonl` that cannot be used, for a
    `group_key` that none of them has, and for a `base_dir` that is no folder.
    """
    if base_dir is not None and not base_dir.is_dir():
        raise InputError(f"--base_dir {base_dir} is {'not a folder' if base_dir.exists() else 'missing'}")
    if test_jsonl is not None:
        rows = read_pairs(test_jsonl, base_dir, group_key=group_key, warn=log)
        if group_key is not None:
            refuse_unknown_group_key(group_key, rows)
        return fingerprint_pairs(rows)
    try:
        folder, recorded_base = _recorded_split(models[0])
        metadata = verify_splits(folder)
        options = [model.meta["config"] for model in models]
        trained = [(each.get("train_digest"), each.get("val_digest")) for each in options]
        if [(fold["train_digest"], fold["val_digest"]) for fold in metadata["folds"]] != trained:
            raise InputError(f"{folder} now holds another split than the one that was trained on")
        pairs = fingerprint_pairs(read_pairs(folder / TEST, base_dir or recorded_base, warn=log))
    except (InputError, OSError) as reason:
        log(f"⚠️  not scored on test photos, as no --test_jsonl is given and the run's own cannot be had: {reason}")
        return []
    log(f"Test photos: {folder / TEST}, of the split that this run recorded")
    return pairs


def _recorded_split(model: TrainedModel) -> tuple[Path, Path | None]:
    """Folder and --base_dir of the split that the model was trained on; InputError when its file has no record of one."""
    split = model.meta.get("split")
    folder, base_dir = (split.get("folder"), split.get("base_dir")) if isinstance(split, dict) else (None, None)
    if not isinstance(folder, str) or not isinstance(base_dir, str | None):
        raise InputError(f"{model.path} records no split; name the test pairs with --test_jsonl")
    return Path(folder), None if base_dir is None else Path(base_dir)


@dataclass(frozen=True)
class Chosen:
    """What is exported, why, and what was measured of it and of the other candidates."""

    candidate: Candidate
    reason: str
    warnings: list[str]
    validation: dict[str, Summary]
    test: dict[str, Summary]
    test_photos: int
    test_units: int
    test_digest: str | None
    ranking: Ranking
    advice: list[str]


def refuse_unknown_choice(candidates: list[Candidate], requested: str, scored: bool) -> None:
    """InputError for a name that the run does not have, and for what nothing scores (average, ensemble): told before the scoring.

    scored: whether there are test photos.
    """
    names = [candidate.name for candidate in candidates]
    if requested not in (BEST_FOLD, *names):
        why = f"; one fold has no {requested}" if requested in (AVERAGE, ENSEMBLE) else ""
        raise InputError(f"--choose {requested}: this run has {', '.join(names)}{why}")
    if requested in (AVERAGE, ENSEMBLE) and not scored:
        raise InputError(f"--choose {requested}: {UNSCORED}; give --test_jsonl")


def choose(candidates: list[Candidate], requested: str, ranking: Ranking) -> tuple[Candidate, str]:
    """The candidate that `--choose` means (refuse_unknown_choice has seen it), and by which number."""
    named = {candidate.name: candidate for candidate in candidates}
    if requested != BEST_FOLD:
        return named[requested], "asked for by name"
    return named[ranking.order[0]], f"first of {len(ranking.order)} folds by {ranking.by}"


def warnings_about(
    chosen: Candidate, best: str, validation: dict[str, Summary], test: dict[str, Summary], alike: list[str]
) -> list[str]:
    """What speaks against this choice, as far as it was measured. best: the first fold of the ranking.

    alike: test photos that look like one that shaped a model.
    """
    found = []
    if alike:
        found.append(f"{len(alike)} test photos look like photos that the models learned from: {shortened(alike)}")
    if chosen.name in (AVERAGE, ENSEMBLE):
        ours, theirs = (test[name]["psnr"]["mean"] for name in (chosen.name, best))
        why = ": weights of models that were trained apart rarely mix" if chosen.name == AVERAGE else ""
        if ours < theirs:
            found.append(
                f"the {chosen.name} scores {ours:.2f} dB on the test photos, {best} {theirs:.2f} dB{why}; export {best} instead"
            )
    measured = {
        "validation": (validation.get(chosen.name), untouched_summary([chosen])),
        "test": (test.get(chosen.name), test.get(IDENTITY)),
    }
    for where, (summary, untouched) in measured.items():
        if summary is None or untouched is None:
            continue
        if summary["psnr"]["mean"] < untouched["psnr"]["mean"]:
            found.append(
                f"{chosen.name} scores {summary['psnr']['mean']:.2f} dB on {where} photos, the photos as they are "
                f"{untouched['psnr']['mean']:.2f} dB: it makes them worse"
            )
    return found
