"""Candidates and their scores -> which of them is exported by which number, and what speaks against it.

MERGED: Which photos are the test set of a finished run: --test_jsonl, else what the run's own split holds, if that can be proved.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.log import RunLog
from data.fingerprint import fingerprint_pairs
from data.manifest import Pair, read_pairs
from data.split_files import TEST, verify_splits
from engine.exporting.candidates import AVERAGE, UNSCORED_AVERAGE, Candidate, Summary, untouched_summary
from engine.inference import IDENTITY
from engine.models import Member

BEST_FOLD = "best"


@dataclass(frozen=True)
class Chosen:
    """What is exported, why, and what was measured of it and of the other candidates."""

    candidate: Candidate
    reason: str
    warnings: list[str]
    validation: dict[str, Summary]
    test: dict[str, Summary]
    test_photos: int
    test_digest: str | None


def best_fold(validation: dict[str, Summary]) -> str:
    """The fold with the highest mean validation PSNR; the first of equal ones."""
    folds = [name for name in validation if name != IDENTITY]
    return max(folds, key=lambda name: validation[name]["psnr"]["mean"])


def choose(
    candidates: list[Candidate], asked: str, validation: dict[str, Summary], scored: bool
) -> tuple[Candidate, str]:
    """The candidate that `--choose` means, and by which number; scored: whether there are test photos to score it on.

    Raises InputError for a name that the run does not have, and for an average that nothing has scored.
    """
    named = {candidate.name: candidate for candidate in candidates}
    best = best_fold(validation)
    if asked == BEST_FOLD:
        return named[best], f"highest validation PSNR of {len(validation) - 1} folds, each on its own photos"
    if asked not in named:
        why = "; one fold has no average" if asked == AVERAGE else ""
        raise InputError(f"--choose {asked}: this run has {', '.join(named)}{why}")
    if asked == AVERAGE and not scored:
        raise InputError(f"--choose {AVERAGE}: {UNSCORED_AVERAGE}; give --test_jsonl")
    return named[asked], "asked for by name"


def warnings_about(chosen: Candidate, validation: dict[str, Summary], test: dict[str, Summary]) -> list[str]:
    """What speaks against this choice, as far as it was measured."""
    found, best = [], best_fold(validation)
    if chosen.name == AVERAGE and _psnr(test, AVERAGE) < _psnr(test, best):
        found.append(
            f"the average scores {_psnr(test, AVERAGE):.2f} dB on the test photos, {best} {_psnr(test, best):.2f} dB: weights "
            f"of models that were trained apart rarely mix; export {best} instead"
        )
    pairs = {"validation": (validation.get(chosen.name), untouched_summary([chosen]))}
    pairs["test"] = (test.get(chosen.name), test.get(IDENTITY))
    for where, (ours, untouched) in pairs.items():
        if ours is not None and ours["psnr"]["mean"] < untouched["psnr"]["mean"]:
            found.append(
                f"{chosen.name} scores {ours['psnr']['mean']:.2f} dB on {where} photos, the photos as they are "
                f"{untouched['psnr']['mean']:.2f} dB: it makes them worse"
            )
    return found


def _psnr(scores: dict[str, Summary], name: str) -> float:
    return scores[name]["psnr"]["mean"]


def find_test_pairs(test_jsonl: Path | None, base_dir: Path | None, members: list[Member], log: RunLog) -> list[Pair]:
    """The test photos with their digests; none, with the reason in the log, when nobody named them and the split is gone.

    Raises InputError for rows of `test_jsonl` that cannot be used, and for a `base_dir` that is no folder.
    """
    if base_dir is not None and not base_dir.is_dir():
        raise InputError(f"--base_dir {base_dir} is {'not a folder' if base_dir.exists() else 'missing'}")
    if test_jsonl is not None:
        return fingerprint_pairs(read_pairs(test_jsonl, base_dir, warn=log))
    try:
        path, base_dir = _recorded_test_jsonl(members, base_dir)
        pairs = fingerprint_pairs(read_pairs(path, base_dir, warn=log))
    except InputError as reason:
        log(f"⚠️  not scored on test photos, as no --test_jsonl is given and the run's own cannot be had: {reason}")
        return []
    log(f"Test photos: {path}, of the split that this run recorded")
    return pairs


def _recorded_test_jsonl(members: list[Member], base_dir: Path | None) -> tuple[Path, Path | None]:
    """test.jsonl of the folder that the training command named, and its --base_dir; InputError unless it is this run's split."""
    folder, recorded_base = _folders_of_command(members[0])
    metadata = verify_splits(folder)
    trained = [
        (member.meta["config"].get("train_digest"), member.meta["config"].get("val_digest")) for member in members
    ]
    if [(fold["train_digest"], fold["val_digest"]) for fold in metadata["folds"]] != trained:
        raise InputError(f"{folder} now holds another split than the one that was trained on")
    return folder / TEST, base_dir or recorded_base


def _folders_of_command(member: Member) -> tuple[Path, Path | None]:
    created_with = member.meta.get("created_with")
    argv = created_with.get("argv") if isinstance(created_with, dict) else None
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        raise InputError(f"{member.path} records no command")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--data_splits_dir", type=Path)
    parser.add_argument("--base_dir", type=Path)
    try:
        known, _ = parser.parse_known_args(argv[1:])
    except argparse.ArgumentError as error:
        raise InputError(f"the command that {member.path} records is cut off ({error})") from error
    if known.data_splits_dir is None:
        raise InputError(f"the command that {member.path} records has no --data_splits_dir")
    return known.data_splits_dir, known.base_dir
