"""What a run begins from: fresh weights, those of a file, or a state; and whether its folder already holds another run.

`requested_config` is what a rerun must ask for again. Nothing here changes a weight: engine/training/state.py restores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.exits import flagged
from common.log import RunLog
from common.options import flat, plain
from darkir.checkpoint_file import read_checkpoint
from darkir.weights import Weights, read_weights, weights_in
from data.fingerprint import set_digest
from engine import checkpoint
from engine.provenance import Seen, log_provenance, refuse_test_photos, refuse_validation_photos
from engine.training.config import SECTIONS, Options
from engine.training.plans import FoldPlan
from engine.training.state import POSITION

# Options of earlier versions that had one effect only: whatever value a state records, a rerun cannot ask for it.
RETIRED = {"train.kernels": "plain"}


@dataclass(frozen=True)
class Start:
    """`weights` to begin with (None: fresh ones), and the `state` of this fold in --resume, if it is one."""

    weights: Weights | None
    state: dict[str, Any] | None = None


def find_start(plan: FoldPlan, options: Options, log: RunLog) -> Start:
    """What --pretrained_path and --resume mean for this fold. Raises ModelError for a file that cannot be used."""
    if options.resume is None:
        return Start(_pretrained(options))
    with flagged("--resume", options.resume):
        return _named_start(plan, options, log)


def _named_start(plan: FoldPlan, options: Options, log: RunLog) -> Start:
    content = read_checkpoint(options.resume)
    if not checkpoint.is_state(content):
        log(f"--resume {options.resume} holds weights only: a new run starts from them, as with --pretrained_path")
        return Start(weights_in(content, options.resume))
    if content.get("fold") != plan.number:
        log(f"--resume {options.resume} is the state of another fold: {plan.name.lower()} starts without it")
        return Start(_pretrained(options))
    return Start(_pretrained(options), checkpoint.checked_state(content, options.resume))


def _pretrained(options: Options) -> Weights | None:
    path = options.model.pretrained_path
    with flagged("--pretrained_path", path):
        return None if path is None else read_weights(Path(path))


def refuse_leaks(plan: FoldPlan, start: Start, log: RunLog) -> Seen:
    """What the weights of this run will have seen in the end.

    Raises InputError for test photos among the rows or in what the starting weights saw, and for validation photos among
    the rows that are learned from.
    """
    earlier = Seen()
    if start.weights is not None:
        earlier = Seen.from_checkpoint(start.weights.meta, str(start.weights.source))
        log_provenance(earlier, log)
    refuse_test_photos(plan.test, [*plan.train, *plan.val, *plan.mix], earlier)
    refuse_validation_photos(plan.val, [*plan.train, *plan.mix])
    return earlier.then([*plan.train, *plan.val], plan.mix)


def find_state(
    plan: FoldPlan, options: Options, start: Start, requested: dict[str, Any], log: RunLog
) -> tuple[str, dict[str, Any]] | None:
    """The newest state of this folder, else the one that --resume names, and its source; None when the run starts anew.

    Raises InputError when it is of a run with other options or data.
    """
    newest = checkpoint.newest_state(plan.folder, log)
    source, state = newest or (options.resume, start.state)
    if state is None:
        return None
    if newest and start.state:
        log(f"--resume {options.resume} is not used: {plan.folder} holds a state of its own")
    refuse_changes(state["config"], requested, plan.folder, log)
    if state["threads"] != torch.get_num_threads():
        log(f"⚠️  {torch.get_num_threads()} threads now, {state['threads']} before: results can differ in the last bits")
    return str(source), state


def requested_config(plan: FoldPlan, options: Options) -> dict[str, Any]:
    """All that determines a run's result, as plain types: what a rerun must ask for again."""
    return plain(
        {
            **{name: dataclasses.asdict(getattr(options, name)) for name in SECTIONS},
            "train_digest": set_digest([pair.row for pair in plan.train]),
            "val_digest": set_digest([pair.row for pair in plan.val]),
            "mix_digest": set_digest([pair.row for pair in plan.mix]),
        }
    )


def refuse_changes(before: dict[str, Any], now: dict[str, Any], folder: Path, log: RunLog) -> None:
    """InputError with the list of differences when a rerun asks for another run than the one in `folder`.

    Differences that change no result are allowed, with a log line.
    """
    # A run from before an option came did what is now the option's default.
    defaults = plain({name: dataclasses.asdict(config_class()) for name, (config_class, _) in SECTIONS.items()})
    old, new = {**flat(defaults), **flat(before)}, {**RETIRED, **flat(now)}
    old = {**RETIRED, **old}
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    lines = {name: f"{name.rsplit('.', 1)[-1]}: {old.get(name)} before, {new.get(name)} now" for name in changed}
    harmless = [name for name in changed if name in _changing_no_result()]
    refused = [name for name in changed if name not in harmless]
    if refused:
        allowed = ["these differ too, but change no result:"] if harmless else []
        message = [
            f"{folder} holds a run with other options or data:",
            *(f"  {lines[name]}" for name in refused),
            *allowed,
            *(f"  {lines[name]}" for name in harmless),
            "rerun with the same options, choose another --output_dir, or discard it with --overwrite",
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
        if not field.metadata.get("changes_result", True)
    }


def remove_outputs(folder: Path) -> None:
    """Delete what a former run left in `folder` (--overwrite): known names only, anything else stays."""
    names = (checkpoint.BEST, checkpoint.FINAL, checkpoint.LAST, checkpoint.PREVIOUS, POSITION)
    names += ("history.json", "curves.png")
    events = folder.glob("tensorboard/events.out.tfevents.*")
    periodic = folder.glob("checkpoint_epoch_*.pt")
    for path in [*(folder / name for name in names), *periodic, *events]:
        path.unlink(missing_ok=True)
