"""Fine-tuning: which stages of the network learn in an epoch, and how fast. Pure functions of the epoch: nothing to save."""

from __future__ import annotations

from dataclasses import dataclass, field

from darkir.architectures import Config, Network
from darkir.options import require
from darkir.stages import count_stages, stage_of


@dataclass(frozen=True)
class FinetuneConfig:
    """How pre-trained weights are treated with care."""

    freeze_stages: int = field(
        default=0, metadata={"help": "encoder stages, counted from the input, that do not learn"}
    )
    unfreeze_every: int = field(
        default=0,
        metadata={"help": "epochs after which one more frozen stage learns, the deepest first (0: they stay frozen)"},
    )
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "factor on the learning rate for each stage nearer to the input (1: the same everywhere)"},
    )

    def __post_init__(self):
        for name in ("freeze_stages", "unfreeze_every"):
            require(getattr(self, name) >= 0, f"--{name} {getattr(self, name)}: must not be negative")
        require(0 < self.layer_decay <= 1, f"--layer_decay {self.layer_decay}: must be in (0, 1]")
        require(
            self.freeze_stages > 0 or self.unfreeze_every == 0,
            "--unfreeze_every needs --freeze_stages: nothing is frozen",
        )


def frozen_stages(config: FinetuneConfig, epoch: int) -> int:
    """How many stages, counted from the input, are frozen in epoch `epoch` (from 0)."""
    thawed = epoch // config.unfreeze_every if config.unfreeze_every else 0
    return max(0, config.freeze_stages - thawed)


def rate_scale(name: str, network: Config, layer_decay: float) -> float:
    """Factor on the learning rate of a parameter: 1 in the last stage, layer_decay less for each stage before it."""
    return layer_decay ** (count_stages(network) - 1 - stage_of(name, network))


def let_learn(network: Network, config: FinetuneConfig, epoch: int, with_side: bool) -> None:
    """Freeze and thaw parameters for epoch `epoch` (from 0). The side output learns only when the objective uses it."""
    frozen = frozen_stages(config, epoch)
    for name, parameter in network.named_parameters():
        unused = name.startswith("side_out.") and not with_side
        parameter.requires_grad_(not unused and stage_of(name, network.config) >= frozen)
