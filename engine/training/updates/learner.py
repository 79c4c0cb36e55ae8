"""Everything that an update changes: network, weight average, optimizer and loss scaler; and the rules that steer them.

Learning rate, EMA decay and freezing are pure functions of update or epoch: nothing to save, nothing to lose on a restart.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from darkir.architectures import Config, count_stages, stage_of
from darkir.weights import Network
from engine.runtime import Precision
from engine.training.config import FinetuneConfig, TrainConfig

FINAL_FRACTION = 0.01
LONGEST_WARMUP = 0.1
# Scales, offsets and residual weights steer magnitudes that decay would pull to zero; a norm channel that decay has driven
# to about 1e-20 makes the spectrum's gradients NaN in the published form.
UNDECAYED = ("bias", "beta", "gamma", "temperature")


@dataclass
class Learner:
    """The changing parts of a run. average: the weights that are validated and kept. share: by how much they follow the
    network's at the next update, on the device."""

    network: Network
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    share: torch.Tensor

    def prepare(self, update: int, lr: float) -> None:
        """Set what optimizer update number `update` (from 0) goes by."""
        set_learning_rate(self.optimizer, lr)
        self.share.fill_(1.0 - ema_decay(update, self.average.decay))


class WeightAverage:
    """Exponential moving average: holds `network`, a copy whose weights follow another network's; decay 0 follows it exactly."""

    def __init__(self, network: Network, decay: float):
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def move(self, network: nn.Module, share: torch.Tensor) -> None:
        """Go `share` (0 to 1, one number on the device) of the way to the weights of `network`."""
        averages: list[torch.Tensor] = list(self.network.parameters())
        weights: list[torch.Tensor] = list(network.parameters())
        if not self.decay:  # exactly; after a refused update they are equal as they stand
            torch._foreach_copy_(averages, weights)
            return
        way = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(way, share)
        torch._foreach_add_(averages, way)


def make_learner(network: Network, precision: Precision, config: TrainConfig, layer_decay: float = 1.0) -> Learner:
    """Put optimizer, average and scaler around a network that stands on its device already."""
    return Learner(
        network=network,
        average=WeightAverage(network, config.ema_decay),
        optimizer=make_optimizer(network, config.lr, config.weight_decay, layer_decay),
        scaler=torch.amp.GradScaler(precision.device_type, enabled=precision.needs_scaler),
        share=torch.zeros((), device=next(network.parameters()).device),
    )


def make_optimizer(network: Network, lr: float, weight_decay: float, layer_decay: float) -> torch.optim.AdamW:
    """AdamW over all parameters (Loshchilov and Hutter, 2019); weight decay acts on convolution kernels only.

    One group for each pair of rate scale and decay; frozen parameters are in their group too, and have no gradient.
    """
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in network.named_parameters():
        plain = name.rsplit(".", 1)[-1] in UNDECAYED or ".norm" in name
        scale, decay = rate_scale(name, network.config, layer_decay), 0.0 if plain else weight_decay
        group = groups.setdefault((scale, decay), {"params": [], "weight_decay": decay, "scale": scale})
        group["params"].append(parameter)
    optimizer = torch.optim.AdamW(list(groups.values()), lr=lr, fused=True)
    keep_on_device(optimizer)
    return optimizer


def keep_on_device(optimizer: torch.optim.Optimizer) -> None:
    """On CUDA: rates as tensors of the device, so that a captured update reads them anew each time.

    For a fresh optimizer, and after a state was loaded, which brings the settings of the machine that wrote it.
    """
    for group in optimizer.param_groups:
        device, lr = group["params"][0].device, float(group["lr"])
        group["capturable"] = False  # until an update is captured
        group["lr"] = torch.tensor(lr, device=device) if device.type == "cuda" else lr


def rate_scale(name: str, network: Config, layer_decay: float) -> float:
    """Factor on the learning rate of a parameter: 1 in the last stage, layer_decay less for each stage before it."""
    return layer_decay ** (count_stages(network) - 1 - stage_of(name, network))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate `lr` times its scale."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr * group["scale"])
        else:
            group["lr"] = lr * group["scale"]


def warmup_updates(warmup_epochs: int, updates_per_epoch: int, total_updates: int) -> int:
    """Length of the warm-up in updates: as requested, but at most 10 % of the run."""
    return min(warmup_epochs * updates_per_epoch, int(LONGEST_WARMUP * total_updates))


def learning_rate(update: int, total_updates: int, warmup: int, peak: float) -> float:
    """Rate of update `update` (from 0): linear warm-up to `peak`, then half a cosine down to 1 % of it at the last update."""
    if update < warmup:
        return peak * (update + 1) / warmup
    progress = (update - warmup) / max(1, total_updates - 1 - warmup)
    floor = FINAL_FRACTION * peak
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ema_decay(update: int, longest: float) -> float:
    """Decay of the weight average at update `update` (from 0): young averages forget faster, so the start does not linger."""
    return min(longest, (1 + update) / (10 + update))


def frozen_stages(config: FinetuneConfig, epoch: int) -> int:
    """How many stages, counted from the input, are frozen in epoch `epoch` (from 0)."""
    unfrozen = epoch // config.unfreeze_every if config.unfreeze_every else 0
    return max(0, config.freeze_stages - unfrozen)


def set_trainable(network: Network, config: FinetuneConfig, epoch: int, with_side: bool) -> None:
    """Freeze and unfreeze parameters for epoch `epoch` (from 0). The side output learns only when the objective uses it."""
    frozen = frozen_stages(config, epoch)
    for name, parameter in network.named_parameters():
        unused = name.startswith("side_out.") and not with_side
        parameter.requires_grad_(not unused and stage_of(name, network.config) >= frozen)
