"""Activation checkpointing: the features inside a block are made again in the backward pass instead of being kept.

Less memory for up to two fifths more time (bench/bench_architectures.py); outputs and gradients stay bit-identical, as the
blocks draw no random numbers.
Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016), through torch.utils.checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def apply_blocks(blocks: Iterable[nn.Module], x: torch.Tensor, recompute: bool) -> torch.Tensor:
    """x through one block after the other; with `recompute`, only what goes from block to block is kept for the gradient."""
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
        else:
            x = block(x)
    return x


def recompute_activations(network: nn.Module) -> None:
    """Let all stages of `network` (DarkIR or Restormer) compute that way from now on."""
    for module in network.modules():
        if hasattr(module, "recompute"):
            module.recompute = True
