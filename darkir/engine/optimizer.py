"""AdamW with its parameter groups."""

from __future__ import annotations

import torch

from darkir.network import DarkIR

# Scales, offsets and residual weights steer magnitudes that decay would pull to zero; a norm channel that decay has driven
# to about 1e-20 makes the spectrum's gradients NaN in the published form.
UNDECAYED = ("bias", "beta", "gamma")


def make_optimizer(network: DarkIR, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; weight decay acts on convolution kernels only (Loshchilov and Hutter, 2019)."""
    decayed, undecayed = [], []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            plain = name.rsplit(".", 1)[-1] in UNDECAYED or ".norm" in name
            (undecayed if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    on_cuda = next(network.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=lr, fused=on_cuda)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
