"""What must be equal between two runs of train_darkir_cv.py: every tensor and record of their folders, times and dates aside."""

import csv
import json
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from darkir.checkpoint_file import read_checkpoint

# Times, dates and versions of the machine; and options that change no result, which a rerun may change.
ASIDE = {"seconds", "images_per_second", "created_with"}
ASIDE |= {"num_workers", "checkpoint_every_steps", "checkpoint_activations"}
CHECKPOINTS = ("checkpoint_best.pt", "checkpoint_final.pt", "checkpoint_last.pt", "checkpoint_epoch_*.pt")


def run_records(output: Path) -> dict[str, object]:
    """Every number, text and tensor of a finished cross-validation by its place, such as `fold_1/checkpoint_last.pt/step`."""
    records: dict[str, object] = {}
    for fold in sorted(output.glob("fold_*")):
        for path in sorted(path for pattern in CHECKPOINTS for path in fold.glob(pattern)):
            flatten(read_checkpoint(path), f"{fold.name}/{path.name}", records)
        flatten(json.loads((fold / "history.json").read_text()), f"{fold.name}/history.json", records)
        records[f"{fold.name}/curves.png"] = (fold / "curves.png").read_bytes()
        flatten(scalars(fold / "tensorboard"), f"{fold.name}/tensorboard", records)
    flatten(json.loads((output / "cv_summary.json").read_text()), "cv_summary.json", records)
    with open(output / "oof_predictions.csv", newline="") as handle:
        flatten(list(csv.reader(handle)), "oof_predictions.csv", records)
    return records


def scalars(folder: Path) -> dict[str, list]:
    """The curves that TensorBoard shows: tag -> [[step, value], ...]."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def flatten(value: object, place: str, into: dict[str, object]) -> None:
    """Write the leaves of nested dictionaries and lists into `into`, by their place."""
    if isinstance(value, dict):
        # TensorBoard's tags have a section before the name.
        children = [(str(key), item) for key, item in value.items() if str(key).rpartition("/")[2] not in ASIDE]
        into[f"{place}/keys"] = sorted(key for key, _ in children)
    elif isinstance(value, (list, tuple)):
        into[f"{place}/length"] = len(value)
        children = [(str(index), item) for index, item in enumerate(value)]
    else:
        into[place] = value
        return
    for name, item in children:
        flatten(item, f"{place}/{name}", into)


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Places at which two runs differ; tensors are equal when every bit is."""
    return [place for place in sorted({*one, *other}) if not same(one.get(place), other.get(place))]


def same(one: object, other: object) -> bool:
    """Equality of two leaves."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other
