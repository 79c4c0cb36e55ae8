"""AdamW with its parameter groups."""

from __future__ import annotations

import torch

from darkir.architectures import Network
from darkir.engine.finetune import rate_scale

# Scales, offsets and residual weights steer magnitudes that decay would pull to zero; a norm channel that decay has driven
# to about 1e-20 makes the spectrum's gradients NaN in the published form.
UNDECAYED = ("bias", "beta", "gamma", "temperature")


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
    return torch.optim.AdamW(list(groups.values()), lr=lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate `lr` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]
