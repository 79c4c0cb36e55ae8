"""Options of a test-set evaluation, and how the ones left open are settled from what the checkpoints recorded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from common.log import RunLog
from common.options import require
from data.config import MAX_RESOLUTION, MIN_RESOLUTION, DataConfig
from engine.models import Member, recorded_by_all


@dataclass(frozen=True)
class EvaluationConfig:
    """How the test photos are run through the networks."""

    resolution: int | None = field(
        default=None,
        metadata={"help": "short side in pixels (a smaller photo stays native); default: as the checkpoints record"},
    )
    fit: Literal["crop", "squash"] | None = field(
        default=None,
        metadata={"help": "crop: whole frames, aspect kept; squash: a square; default: as the checkpoints record"},
    )
    batch_size: int = field(
        default=4, metadata={"help": "frames of one size in a batch; changes memory and time, not results"}
    )
    num_workers: int = field(
        default=4, metadata={"help": "loader processes (0: load in the main process); changes no result"}
    )
    tta: bool = field(
        default=False, metadata={"help": "average each network over the four flips of a photo: four times the time"}
    )
    mixed_precision: bool = field(
        default=False, metadata={"help": "run the networks in 16 bit: bf16 where the device has it, else fp16"}
    )
    save_visuals: bool = field(
        default=False,
        metadata={"help": "also write every photo at full size to visuals/; the report holds small ones in any case"},
    )

    def __post_init__(self):
        if self.resolution is not None:
            fits = MIN_RESOLUTION <= self.resolution <= MAX_RESOLUTION
            require(fits, f"--resolution {self.resolution}: must be {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels")
        require(self.batch_size >= 1, f"--batch_size {self.batch_size}: must be at least 1")
        require(self.num_workers >= 0, f"--num_workers {self.num_workers}: must be 0 or more")


def settle(config: EvaluationConfig, members: list[Member], log: RunLog) -> EvaluationConfig:
    """Fill in resolution and fit: the flag, else what the checkpoints record, else the training default, logged.

    Raises InputError when the checkpoints differ and no flag decides.
    """
    return dataclasses.replace(
        config,
        resolution=_settled("resolution", config.resolution, members, log),
        fit=_settled("fit", config.fit, members, log),
    )


def _settled(option: str, asked: Any, members: list[Member], log: RunLog) -> Any:
    if asked is not None:
        values = sorted({member.recorded(option) for member in members} - {None})
        if values and values != [asked]:
            log(f"--{option} {asked} instead of {', '.join(map(str, values))}, which the models were trained with")
        return asked
    recorded = recorded_by_all(option, members, f"give --{option}")
    if recorded is not None:
        return recorded
    default = getattr(DataConfig, option)
    log(f"The checkpoints record no {option}: using --{option} {default}")
    return default
