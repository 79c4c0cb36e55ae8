"""State -> files and back: one versioned schema of plain types and tensors, which torch.load(weights_only=True) accepts.

A *weights* file (checkpoint_best.pt, checkpoint_final.pt) holds under `params` the weights to deploy, with the published parameter
names, and what they are and saw. A *state* file (checkpoint_last.pt, checkpoint_last.prev.pt, checkpoint_epoch_N.pt) adds all
that a resume needs.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.files import atomic_output, write_bytes
from common.log import RunLog
from common.options import plain
from darkir.architectures import Config, description
from darkir.checkpoint_file import read_checkpoint
from darkir.errors import ModelError
from darkir.weights import is_dense
from data.manifest import UNIT
from engine.runtime import created_with

SCHEMA_VERSION = 1
LAST, PREVIOUS = "checkpoint_last.pt", "checkpoint_last.prev.pt"
BEST, FINAL = "checkpoint_best.pt", "checkpoint_final.pt"
EPOCH_FILE = re.compile(r"checkpoint_epoch_(\d+)\.pt")
STATE_PARTS: dict[str, type] = {
    "params": dict,
    "raw_params": dict,
    "optimizer": dict,
    "scaler": dict,
    "rng": torch.Tensor,
    "step": int,
    "progress": dict,
    "config": dict,
    "threads": int,
}
FINAL_PARTS: dict[str, type] = {"config": dict, "finished": dict, "scores": list, "history": list}


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path`, whole or not at all. Raises OSError (disk full) with the old file intact."""
    write_bytes(path, serialised(content))


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """Write checkpoint_last.pt and keep the one before as checkpoint_last.prev.pt; at any moment one of them is whole."""
    last, previous = folder / LAST, folder / PREVIOUS
    fresh = serialised(content)
    with atomic_output(last) as temporary:
        with open(temporary, "wb") as handle:
            handle.write(fresh)
        if last.exists():
            os.replace(last, previous)


def serialised(content: dict[str, Any]) -> memoryview:
    """`content` as the bytes of a checkpoint file.

    Made in memory: torch's own file writer hides a full disk behind a RuntimeError, and may fail half-way.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def weights_content(network: torch.nn.Module, config: Config, /, **facts: Any) -> dict[str, Any]:
    """The content of a weights file: `params` on the CPU, the network's description, and `facts` (metrics, data, run)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "params": {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()},
        "network": plain(description(config)),
        "created_with": created_with(),
        **facts,
    }


def newest_state(folder: Path, log: RunLog) -> tuple[Path, dict[str, Any]] | None:
    """The newest sound state in `folder` and its file, or None when there is no state file at all.

    A torn or foreign file is named in the log and the one before it is taken; InputError when files exist and none is sound.
    """
    candidates = state_files(folder)
    faults = []
    for path in candidates:
        try:
            state = checked_state(read_checkpoint(path), path)
        except ModelError as error:
            faults.append(str(error))
            log(f"⚠️  {error}")
            continue
        if faults or path.name != LAST:
            log(f"⚠️  {LAST} could not be used: continuing from {path.name} (update {state['step']})")
        return path, state
    if faults:
        raise InputError(
            f"{folder}: no sound state among {', '.join(p.name for p in candidates)}; use --overwrite to start anew"
        )
    return None


def state_files(folder: Path) -> list[Path]:
    """State files in `folder`, newest first: last, the one before, then the periodic ones by epoch."""
    periodic = [(int(match[1]), path) for path in folder.glob("*.pt") if (match := EPOCH_FILE.fullmatch(path.name))]
    named = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
    return named + [path for _, path in sorted(periodic, reverse=True)]


def checked_state(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The `content` of the file `path`, a whole training state; ModelError when it is of another version, or no state."""
    _require_parts(content, STATE_PARTS, f"{path}: not a training state of this toolkit")
    for part in ("params", "raw_params"):
        if not all(is_dense(value) and bool(value.isfinite().all()) for value in content[part].values()):
            raise ModelError(f"{path}: {part} hold NaN, Infinity or something other than floating-point tensors")
    return content


def is_state(content: dict[str, Any]) -> bool:
    """Whether a checkpoint can continue a run; otherwise it holds weights only."""
    return "raw_params" in content and "optimizer" in content


def finished(folder: Path) -> dict[str, Any] | None:
    """The content of a finished run's checkpoint_final.pt, or None when the run is not finished; ModelError when it is broken."""
    path = folder / FINAL
    if not path.exists():
        return None
    content = read_checkpoint(path)
    _require_parts(content, FINAL_PARTS, f"{path}: not the last file of a run of this toolkit")
    return content


def scored_units(content: dict[str, Any], log: RunLog) -> list[dict]:
    """The scores in a finished run's file, each with the `unit` of its photo, or None in a file that records no units."""
    scores = content["scores"]
    if all(isinstance(score.get(UNIT), str) for score in scores):
        return scores
    fold = content["finished"].get("fold")
    log(
        f"⚠️  fold {fold} was trained before units were recorded: each of its photos counts as independent of the others"
    )
    return [{**score, UNIT: None} for score in scores]


def finished_soundly(folder: Path, log: RunLog) -> dict[str, Any] | None:
    """`finished`, but a broken checkpoint_final.pt counts as unfinished when a state is there to finish the run from again."""
    try:
        return finished(folder)
    except ModelError as error:
        if not state_files(folder):
            raise InputError(f"{error}\nand {folder} holds no state to make it from; use --overwrite") from error
        log(f"⚠️  {error}; making it again from the last state")
        return None


def _require_parts(content: dict[str, Any], parts: dict[str, type], what: str) -> None:
    """ModelError, beginning with `what`, unless `content` is of this schema and has `parts` and a plain config."""
    wrong = [name for name, kind in parts.items() if not isinstance(content.get(name), kind)]
    if not _is_plain(content.get("config")):
        wrong.append("config")
    version = content.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION or wrong:
        found = f"; missing or of another type: {', '.join(wrong)}" if wrong else ""
        raise ModelError(f"{what} (schema version {SCHEMA_VERSION}){found}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (str, int, float))
