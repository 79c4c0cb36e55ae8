"""What the flags ask for and what the models record -> the settings of an evaluation, as its results name them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.log import RunLog
from darkir.architectures import arch_of, size_of, title
from data.config import DataConfig
from engine.models import RECORDED, TrainedModel, recorded_by_all
from engine.testing.config import EvaluationConfig


def refuse_contradictions(models: list[TrainedModel], arch: str | None, model_size: str | None) -> None:
    """InputError when --arch or --model_size is not what the checkpoints hold."""
    requested = {"--arch": (arch, arch_of), "--model_size": (model_size, size_of)}
    for flag, (value, read) in requested.items():
        wrong = [model for model in models if value is not None and read(model.config) != value]
        if wrong:
            lines = "\n".join(f"  {model.path} holds {title(model.config)}" for model in wrong)
            raise InputError(f"{flag} {value}, but\n{lines}")


def settle_frames(config: EvaluationConfig, models: list[TrainedModel], log: RunLog) -> EvaluationConfig:
    """Fill in resolution and fit: the flag, else what the checkpoints record, else the training default, logged.

    Raises InputError when the checkpoints differ and no flag decides.
    """
    settled = {}
    for option in RECORDED:
        value = getattr(config, option)
        if value is not None:
            recorded = sorted({model.recorded(option) for model in models} - {None})
            if recorded and recorded != [value]:
                log(
                    f"--{option} {value} instead of {', '.join(map(str, recorded))}, which the models were trained with"
                )
        elif (value := recorded_by_all(option, models, f"give --{option}")) is None:
            value = getattr(DataConfig, option)
            log(f"The checkpoints record no {option}: using --{option} {value}")
        settled[option] = value
    return dataclasses.replace(config, **settled)


def describe_settings(
    config: EvaluationConfig, test_jsonl: Path, base_dir: Path | None, precision: str, device: str, lpips: str | None
) -> dict[str, Any]:
    """What determined the numbers, as plain types; loader processes and pictures do not. lpips: its network and weights."""
    return {
        "test_jsonl": str(test_jsonl),
        "base_dir": None if base_dir is None else str(base_dir),
        "resolution": config.resolution,
        "fit": config.fit,
        "tta": config.tta,
        "batch_size": config.batch_size,
        "precision": precision,
        "device": device,
        "lpips": lpips,
    }
