"""The options and data of a run that is there, against those that a rerun requests: what differs, may it, and does a finished run
go on?

Two flags let a user change a run that has begun. --extend: a finished one goes on for more epochs, with a fresh schedule.
--accept_changes: some options change on the way. Each change is recorded: in the state, in the next epoch's record, in
checkpoint_final.pt and cv_summary.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.log import RunLog
from common.options import flat, idle_options, plain
from engine import checkpoint
from engine.training.config import SECTIONS, Options, TrainConfig

# Options of earlier versions, with the one value that a rerun of today still means.
RETIRED = {"train.kernels": "plain"}
WEIGHTS_DIGEST, WEIGHTS_PATH = "pretrained_sha256", "model.pretrained_path"
# Digest of a file -> the option that names it, which is compared where a digest is lacking.
FILES = {WEIGHTS_DIGEST: WEIGHTS_PATH, "vgg_sha256": "loss.vgg_weights"}
EXTEND, ACCEPT = "--extend", "--accept_changes"
EPOCHS, PATIENCE, BATCH, STEPS = "epochs", "early_stopping_patience", "batch_size", "accumulate_steps"
# What each flag lets differ, of the section `train`: what a schedule is made of; what helps a run that is too slow, stops too early
# or runs out of memory.
OF_SCHEDULE = frozenset({EPOCHS, "lr", "warmup_epochs"})
ACCEPTABLE = frozenset({EPOCHS, PATIENCE, BATCH, STEPS, "mixed_precision", "amp_dtype"})


def refuse_changes(
    before: dict[str, Any],
    now: dict[str, Any],
    folder: Path,
    log: RunLog,
    options: Options,
    resumed: Path | None = None,
) -> dict[str, list]:
    """InputError with the list of differences when a rerun requests another run than the one in `folder`, or than that of the
    state `resumed`. Differences that change no result are allowed, with a log line.

    Returns the others that the flags of `options` may allow, option of `train` -> [before, now]: whether they do depends on where
    the run stands, see `goes_on` and engine/training/restore.py.
    """
    # A run from before an option came did what is now the option's default.
    defaults = plain({name: dataclasses.asdict(config_class()) for name, (config_class, _) in SECTIONS.items()})
    old, new = {**flat(defaults), **RETIRED, **flat(before)}, {**RETIRED, **flat(now)}
    if options.weights_flag == "--resume" and old[WEIGHTS_PATH] is None:
        named = f"--resume {new[WEIGHTS_PATH]}"
        log(f"{folder}: its run recorded no starting weights, as earlier versions did for {named}; it continues")
        new |= {WEIGHTS_PATH: None, WEIGHTS_DIGEST: None}
    decisive = set()
    for digest, path in FILES.items():
        if digest not in old or (new[digest] is None and old[digest] is not None):
            # Not recorded, or the file is gone since: its path is what can be compared.
            old, new = ({name: value for name, value in options.items() if name != digest} for options in (old, new))
            decisive.add(path)
    idle = _without_effect(before) & _without_effect(now)
    changed = [name for name in sorted({*old, *new} - idle) if old.get(name) != new.get(name)]
    lines = {name: f"{name.rsplit('.', 1)[-1]}: {old.get(name)} before, {new.get(name)} now" for name in changed}
    harmless = [name for name in changed if name in _changing_no_result() - decisive]
    flags = (EXTEND, options.extend, OF_SCHEDULE), (ACCEPT, options.accept_changes, ACCEPTABLE)
    permitted = {f"train.{name}" for _, given, names in flags if given for name in names}
    refused = [name for name in changed if name not in {*harmless, *permitted}]
    if refused:
        what, advice = f"{folder} holds a run", "choose another --output_dir, or discard it with --overwrite"
        if resumed is not None:
            what = f"--resume {resumed} is the state of a run"
            advice = (
                f"start a new run from its weights: --pretrained_path {resumed.with_name(checkpoint.BEST)} (they saw the "
                "validation photos of that run: with the same ones, --allow_seen_validation)"
            )
        allowed = ["these differ too, but change no result:"] if harmless else []
        possible = [
            f"to go on in it all the same: {flag}, which lets {', '.join(sorted(names))} differ, and records it"
            for flag, given, names in flags
            if not given and all(name.removeprefix("train.") in names for name in refused)
        ]
        message = [
            f"{what} with other options or data:",
            *(f"  {lines[name]}" for name in refused),
            *allowed,
            *(f"  {lines[name]}" for name in harmless),
            f"rerun with the same options, {'or ' if resumed else ''}{advice}",
            *possible,
        ]
        raise InputError("\n".join(message))
    for name in harmless:
        log(f"Changed, which changes no result: {lines[name]}")
    return {name.removeprefix("train."): [old.get(name), new.get(name)] for name in changed if name not in harmless}


def goes_on(outcome: dict[str, Any], changed: dict[str, list], options: Options, folder: Path, log: RunLog) -> bool:
    """Whether the finished run in `folder` begins again: --extend, or more patience than it ended by.

    outcome: `finished` of its checkpoint_final.pt. Raises InputError for what the flags do not allow, a line for what is left as it
    is: the same command finishes other folds, too.
    """
    train, done = options.train, outcome.get("epochs_run")
    if not changed and not options.extend:
        return False
    if type(done) is not int:
        raise InputError(f"{folder / checkpoint.FINAL} does not say how many epochs have run; use --overwrite")
    extended = any(change["flag"] == EXTEND for change in outcome.get("changes") or ())
    if options.extend and not (extended and EPOCHS not in changed):
        if train.epochs <= done:
            raise InputError(
                f"{EXTEND} --epochs {train.epochs}: {folder} has run {done} epochs already; name the number of epochs in all, "
                f"more than {done}"
            )
        return True
    refuse_unaccepted(changed, options, folder)
    refuse_other_updates(changed, train)
    if outcome.get("stopped_early") is True and PATIENCE in changed and done < train.epochs:
        before, now = changed[PATIENCE]
        return now == 0 or now > before
    if EPOCHS in changed and train.epochs > done:
        raise InputError(finished_advice(folder, done, train.epochs))
    if changed:
        log(f"{folder} was finished with {_words(changed, ', now ')}: it stays as it is")
    return False


def refuse_unaccepted(changed: dict[str, list], options: Options, place: Path) -> None:
    """InputError for what only --extend allows, in a run that it does not extend now."""
    accepted = ACCEPTABLE if options.accept_changes else frozenset()
    if other := {name: values for name, values in changed.items() if name not in accepted}:
        raise InputError(
            f"{place}: {EXTEND} changes nothing here, so {_words(other, ' before, now ')}: rerun with the same options"
        )


def refuse_other_updates(changed: dict[str, list], train: TrainConfig) -> None:
    """InputError when the samples of an update would be others: its place in the epoch would mean nothing."""
    before, now = (
        changed.get(BATCH, [train.batch_size] * 2)[side] * changed.get(STEPS, [train.accumulate_steps] * 2)[side]
        for side in (0, 1)
    )
    if before != now:
        raise InputError(
            f"--batch_size {train.batch_size} with --accumulate_steps {train.accumulate_steps}: an update of this run has {before} "
            f"samples, and would have {now}; their product must stay the same"
        )


def _words(changed: dict[str, list], between: str) -> str:
    return "; ".join(f"--{name} {before}{between}{now}" for name, (before, now) in changed.items())


def finished_advice(place: Path | str, done: int, epochs: int) -> str:
    """What to do for more epochs than a finished run has."""
    return (
        f"{place}: the run is finished after {done} epochs; for {epochs} epochs in all, with a fresh schedule, use {EXTEND}; where "
        f"other folds are not finished, {EXTEND} and {ACCEPT} together"
    )


def change_line(change: dict[str, Any]) -> str:
    """For log and report: `--extend after epoch 8 (update 24): epochs 8 -> 20`."""
    options = ", ".join(f"{name} {before} -> {now}" for name, (before, now) in change["options"].items())
    return f"{change['flag']} after epoch {change['epoch']} (update {change['update']}): {options}"


def are_changes(changes: list, done: int, updates: int) -> bool:
    """Whether `changes` are what `Progress.change` notes in a run with epochs of `updates` updates, `done` of which have ended."""
    return all(
        isinstance(change, dict)
        and change.get("flag") in (EXTEND, ACCEPT)
        and type(change.get("epoch")) is int
        and 0 <= change["epoch"] <= done
        and type(change.get("update")) is int
        and 0 <= change["update"] - change["epoch"] * updates < (1 if change["flag"] == EXTEND else updates)
        and _are_options(change.get("options"))
        and all(
            type(epochs) is int and epochs > 0
            for epochs in change["options"].get(EPOCHS, [0] * (change["flag"] == EXTEND))
        )
        for change in changes
    )


def _are_options(options: Any) -> bool:
    kinds = (int, float, str, bool)
    return isinstance(options, dict) and all(
        name in OF_SCHEDULE | ACCEPTABLE
        and isinstance(pair, list)
        and [type(value) in kinds for value in pair] == [True] * 2
        for name, pair in options.items()
    )


def _changing_no_result() -> set[str]:
    """`data.num_workers` and the like: the options whose field says so."""
    return {
        f"{section}.{field.name}"
        for section, (config_class, _) in SECTIONS.items()
        for field in dataclasses.fields(config_class)
        if not field.metadata["changes_result"]
    }


def _without_effect(options: dict[str, Any]) -> set[str]:
    """`data.mix_ratio` and the like, where the option that they need is not there: earlier versions took them in silence."""
    return {
        f"{section}.{name}"
        for section, (config_class, _) in SECTIONS.items()
        for name, _ in idle_options(config_class, options.get(section, {}))
    }
