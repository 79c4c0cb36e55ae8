"""Options of enhance_photos.py, and the size at which the networks see a photo."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from common.errors import InputError
from common.log import RunLog
from common.options import require
from data.config import MIN_RESOLUTION, DataConfig
from engine.models import Member, recorded_by_all


@dataclass(frozen=True)
class EnhanceConfig:
    """How photos become restored photos."""

    scale: Literal["native", "training"] = field(
        default="native",
        metadata={
            "help": "native: the networks see every pixel of the photo; training: they see a copy of the size that they were "
            "trained at, and its change of tones and colours is carried over to the full photo: many times faster"
        },
    )
    max_side: int | None = field(
        default=None, metadata={"help": "shrink larger photos to this long side in pixels; default: native size"}
    )
    tta: bool = field(
        default=False, metadata={"help": "average each network over the four flips of a photo: four times the time"}
    )
    mixed_precision: bool = field(
        default=False, metadata={"help": "run the networks in 16 bit: bf16 where the device has it, else fp16"}
    )
    format: Literal["same", "jpeg", "png", "tiff"] = field(
        default="same",
        metadata={
            "help": "same: JPEG, PNG and TIFF stay what they are, others become JPEG; 16 bits stay 16 bits but in JPEG"
        },
    )
    jpeg_quality: int = field(default=95, metadata={"help": "1 to 100; colour is not subsampled"})

    def __post_init__(self):
        require(self.max_side is None or self.max_side >= MIN_RESOLUTION, f"--max_side {self.max_side}: too small")
        require(1 <= self.jpeg_quality <= 100, f"--jpeg_quality {self.jpeg_quality}: must be 1 to 100")


NATIVE = "--scale training cannot serve both: use --scale native"


def settings_of(config: EnhanceConfig, members: list[Member]) -> dict[str, Any]:
    """What decides the pixels and names of the results, as plain types."""
    return dataclasses.asdict(config) | {"models": sorted(member.sha256 for member in members)}


def side_seen(config: EnhanceConfig, members: list[Member], log: RunLog) -> int | None:
    """The short side at which the networks see a photo, None for its own size; logged.

    Raises InputError when --scale training has no one meaning for these models.
    """
    if config.scale == "native":
        log("--scale native: the networks see whole photos at full size")
        return None
    if recorded_by_all("fit", members, NATIVE) == "squash":
        raise InputError("--scale training: models of --fit squash saw squares, which no photo has; use --scale native")
    side = recorded_by_all("resolution", members, NATIVE)
    if side is None:
        side = DataConfig.resolution
        log(f"⚠️  --scale training: the models record no training resolution; {side} is assumed")
    log(
        f"--scale training: the networks see photos with a short side of {side}; their change is carried over to full size"
    )
    return side
