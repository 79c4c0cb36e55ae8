"""Everything that an update changes: network, weight average, optimizer and loss scaler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from darkir.architectures import Network
from darkir.engine.ema import WeightAverage
from darkir.engine.optimizer import make_optimizer
from darkir.engine.runtime import Precision
from darkir.engine.train_config import TrainConfig


@dataclass
class Learner:
    """The changing parts of a run. `forward` is the network, or its compiled form."""

    network: nn.Module
    forward: nn.Module
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def make_learner(
    network: Network, precision: Precision, config: TrainConfig, layer_decay: float = 1.0, compiled: bool = False
) -> Learner:
    """Put optimizer, average and scaler around a network that stands on its device already."""
    return Learner(
        network=network,
        forward=torch.compile(network, fullgraph=True) if compiled else network,
        average=WeightAverage(network, config.ema_decay),
        optimizer=make_optimizer(network, config.lr, config.weight_decay, layer_decay),
        scaler=torch.amp.GradScaler(precision.device_type, enabled=precision.needs_scaler),
    )
