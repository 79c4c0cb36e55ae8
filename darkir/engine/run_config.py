"""What a run was asked for, and whether a folder already holds another one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from darkir.architectures import MODEL_SIZES, Config
from darkir.engine import checkpoint
from darkir.engine.errors import RunRefused
from darkir.engine.finetune import FinetuneConfig
from darkir.engine.runlog import RunLog
from darkir.engine.train_config import TrainConfig
from darkir.engine.trees import flat, plain
from darkir.options import require
from data.fingerprint import set_digest
from data.loader import DataConfig
from data.manifest import Pair
from losses.objective import LossConfig

# Options that change no result: a rerun may use others.
HARMLESS = (
    "num_workers",
    "save_every",
    "checkpoint_every_steps",
    "skip_bad_batches",
    "cache",
    "cache_dir",
    "checkpoint_activations",
)


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and what it starts from."""

    arch: Literal["darkir", "restormer"] = field(
        default="darkir", metadata={"help": "the architecture: DarkIR, or Restormer as the baseline to compare with"}
    )
    model_size: Literal["m", "l", "tiny"] = field(
        default="m",
        metadata={
            "help": "darkir: m has width 32, 3.3 M parameters, l width 64, 13 M; restormer: l is the published one, "
            "dim 48, 26 M, and m has dim 24, 3.8 M, about the parameters of DarkIR-m at three times its operations; "
            "tiny: width 8, for trying things out"
        },
    )
    layer_norm: Literal["WithBias", "BiasFree"] = field(
        default="WithBias",
        metadata={"help": "LayerNorm of restormer; published weights for denoising are BiasFree, the others WithBias"},
    )
    pretrained_path: str | None = field(
        default=None,
        metadata={"help": "weights to start from: a checkpoint of this toolkit or a published file"},
    )
    allow_partial: bool = field(
        default=False, metadata={"help": "accept --pretrained_path weights that fill only a part of the network"}
    )

    def __post_init__(self):
        require(
            self.arch == "restormer" or self.layer_norm == "WithBias",
            f"--layer_norm {self.layer_norm} with --arch {self.arch}: only restormer has a choice of it",
        )

    @property
    def network(self) -> Config:
        """The network's description."""
        config = MODEL_SIZES[self.arch][self.model_size]
        return dataclasses.replace(config, layer_norm=self.layer_norm) if self.arch == "restormer" else config


@dataclass(frozen=True)
class Options:
    """Everything a run was asked for, whatever its fold."""

    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    loss: LossConfig
    finetune: FinetuneConfig
    device: torch.device
    overwrite: bool = False
    resume: Path | None = None


SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "loss": LossConfig,
    "finetune": FinetuneConfig,
}


@dataclass(frozen=True)
class FoldPlan:
    """One run: fold number (None for a single run), its folder, its rows, the test rows it must not see, and rows mixed in."""

    number: int | None
    folder: Path
    train: list[Pair]
    val: list[Pair]
    test: list[Pair]
    mix: list[Pair] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "Single run" if self.number is None else f"Fold {self.number}"


def asked_config(plan: FoldPlan, options: Options) -> dict[str, Any]:
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
    """RunRefused with the list of differences when a rerun asks for another run than the one in `folder`.

    Differences that change no result are allowed, with a log line.
    """
    # A run from before an option came did what is now the option's default.
    defaults = plain({name: dataclasses.asdict(config_class()) for name, config_class in SECTIONS.items()})
    old, new = {**flat(defaults), **flat(before)}, flat(now)
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    lines = {name: f"{name.rsplit('.', 1)[-1]}: {old.get(name)} before, {new.get(name)} now" for name in changed}
    harmless = [name for name in changed if name.rsplit(".", 1)[-1] in HARMLESS]
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
        raise RunRefused("\n".join(message))
    for name in harmless:
        log(f"Changed, which changes no result: {lines[name]}")


def remove_outputs(folder: Path) -> None:
    """Delete what a former run left in `folder` (--overwrite): known names only, anything else stays."""
    names = (checkpoint.BEST, checkpoint.FINAL, checkpoint.LAST, checkpoint.PREVIOUS, "history.json", "curves.png")
    events = folder.glob("tensorboard/events.out.tfevents.*")
    periodic = folder.glob("checkpoint_epoch_*.pt")
    for path in [*(folder / name for name in names), *periodic, *events]:
        path.unlink(missing_ok=True)
