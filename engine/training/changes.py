"""The options and data of a run that is there, against those that a rerun requests: what differs, and may it?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.log import RunLog
from common.options import flat, plain
from engine import checkpoint
from engine.training.config import SECTIONS

# Options of earlier versions, with the one value that a rerun of today still means.
RETIRED = {"train.kernels": "plain"}
WEIGHTS_DIGEST, WEIGHTS_PATH = "pretrained_sha256", "model.pretrained_path"
# Digest of a file -> the option that names it, which is compared where a digest is lacking.
FILES = {WEIGHTS_DIGEST: WEIGHTS_PATH, "vgg_sha256": "loss.vgg_weights"}


def refuse_changes(
    before: dict[str, Any],
    now: dict[str, Any],
    folder: Path,
    log: RunLog,
    weights_flag: str,
    resumed: Path | None = None,
) -> None:
    """InputError with the list of differences when a rerun requests another run than the one in `folder`, or than that of the
    state `resumed`. Differences that change no result are allowed, with a log line.
    """
    # A run from before an option came did what is now the option's default.
    defaults = plain({name: dataclasses.asdict(config_class()) for name, (config_class, _) in SECTIONS.items()})
    old, new = {**flat(defaults), **RETIRED, **flat(before)}, {**RETIRED, **flat(now)}
    if weights_flag == "--resume" and old[WEIGHTS_PATH] is None:
        named = f"--resume {new[WEIGHTS_PATH]}"
        log(f"{folder}: its run recorded no starting weights, as earlier versions did for {named}; it continues")
        new |= {WEIGHTS_PATH: None, WEIGHTS_DIGEST: None}
    decisive = set()
    for digest, path in FILES.items():
        if digest not in old or (new[digest] is None and old[digest] is not None):
            # Not recorded, or the file is gone since: its path is what can be compared.
            old, new = ({name: value for name, value in options.items() if name != digest} for options in (old, new))
            decisive.add(path)
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    lines = {name: f"{name.rsplit('.', 1)[-1]}: {old.get(name)} before, {new.get(name)} now" for name in changed}
    harmless = [name for name in changed if name in _changing_no_result() - decisive]
    refused = [name for name in changed if name not in harmless]
    if refused:
        what, advice = f"{folder} holds a run", "choose another --output_dir, or discard it with --overwrite"
        if resumed is not None:
            what = f"--resume {resumed} is the state of a run"
            advice = (
                f"start a new run from its weights: --pretrained_path {resumed.with_name(checkpoint.BEST)} (they saw the "
                "validation photos of that run: with the same ones, --allow_seen_validation)"
            )
        allowed = ["these differ too, but change no result:"] if harmless else []
        message = [
            f"{what} with other options or data:",
            *(f"  {lines[name]}" for name in refused),
            *allowed,
            *(f"  {lines[name]}" for name in harmless),
            f"rerun with the same options, {'or ' if resumed else ''}{advice}",
        ]
        raise InputError("\n".join(message))
    for name in harmless:
        log(f"Changed, which changes no result: {lines[name]}")


def _changing_no_result() -> set[str]:
    """`data.num_workers` and the like: the options whose field says so."""
    return {
        f"{section}.{field.name}"
        for section, (config_class, _) in SECTIONS.items()
        for field in dataclasses.fields(config_class)
        if not field.metadata["changes_result"]
    }
