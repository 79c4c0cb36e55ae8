"""Which photos are the test set of a finished run: --test_jsonl, else what the run's own split holds, if that can be proved."""

from __future__ import annotations

import argparse
from pathlib import Path

from darkir.engine.members import Member
from darkir.engine.runlog import RunLog
from data.errors import DataError
from data.fingerprint import fingerprint_pairs
from data.manifest import Pair, read_pairs
from data.split_files import TEST, verify_splits


def find_test_pairs(test_jsonl: Path | None, base_dir: Path | None, members: list[Member], log: RunLog) -> list[Pair]:
    """The test photos with their digests; none, with the reason in the log, when nobody named them and the split is gone.

    Raises DataError for rows of `test_jsonl` that cannot be used, and for a `base_dir` that is no folder.
    """
    if base_dir is not None and not base_dir.is_dir():
        raise DataError(f"--base_dir {base_dir} is {'not a folder' if base_dir.exists() else 'missing'}")
    if test_jsonl is not None:
        return fingerprint_pairs(read_pairs(test_jsonl, base_dir, warn=log))
    try:
        path, base_dir = _recorded_test_jsonl(members, base_dir)
        pairs = fingerprint_pairs(read_pairs(path, base_dir, warn=log))
    except DataError as reason:
        log(f"⚠️  not scored on test photos, as no --test_jsonl is given and the run's own cannot be had: {reason}")
        return []
    log(f"Test photos: {path}, of the split that this run recorded")
    return pairs


def _recorded_test_jsonl(members: list[Member], base_dir: Path | None) -> tuple[Path, Path | None]:
    """test.jsonl of the folder that the training command named, and its --base_dir; DataError unless it is this run's split."""
    folder, recorded_base = _folders_of_command(members[0])
    metadata = verify_splits(folder)
    trained = [
        (member.meta["config"].get("train_digest"), member.meta["config"].get("val_digest")) for member in members
    ]
    if [(fold["train_digest"], fold["val_digest"]) for fold in metadata["folds"]] != trained:
        raise DataError(f"{folder} now holds another split than the one that was trained on")
    return folder / TEST, base_dir or recorded_base


def _folders_of_command(member: Member) -> tuple[Path, Path | None]:
    created_with = member.meta.get("created_with")
    argv = created_with.get("argv") if isinstance(created_with, dict) else None
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        raise DataError(f"{member.path} records no command")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--data_splits_dir", type=Path)
    parser.add_argument("--base_dir", type=Path)
    try:
        known, _ = parser.parse_known_args(argv[1:])
    except argparse.ArgumentError as error:
        raise DataError(f"the command that {member.path} records is cut off ({error})") from error
    if known.data_splits_dir is None:
        raise DataError(f"the command that {member.path} records has no --data_splits_dir")
    return known.data_splits_dir, known.base_dir
