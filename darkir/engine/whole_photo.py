"""Whether a batch of whole photos goes through a network in one pass or, photo by photo, in strips: equal but for rounding."""

from __future__ import annotations

import torch

from darkir.network import DarkIR

# Peak of the one-pass form: so many residual streams (width x pixels, float32) and the libraries' work areas. 11.5 streams are
# counted in the last decoder block, the widest features being two streams each; 740 to 840 MiB were measured on the CPU at
# 752 x 500 pixels and 2360 to 2480 MiB at 1504 x 1000 (bench/bench_whole_photo.py), against 850 and 2640 by this formula.
ONE_PASS_STREAMS = 13
WORK_AREAS = 256 * 2**20
# On the CPU strips are faster from here on: bytes of the residual stream of a batch. Below, all fits the caches either way.
FASTER_FROM = 12 * 2**20


def stream_bytes(network: DarkIR, src: torch.Tensor) -> int:
    """Bytes of the widest residual stream for (B, 3, H, W) images, the padding included."""
    batch, _, height, width = src.shape
    padded = (height + -height % network.multiple) * (width + -width % network.multiple)
    return 4 * network.config.width * batch * padded


def one_pass_bytes(network: DarkIR, src: torch.Tensor) -> int:
    """Estimate of the peak memory of `network(src)` without gradients, in bytes."""
    return ONE_PASS_STREAMS * stream_bytes(network, src) + WORK_AREAS


def strips_are_better(network: torch.nn.Module, src: torch.Tensor, free: int) -> bool:
    """Whether a batch (B, 3, H, W) should go in strips, with `free` bytes left on its device. Only DarkIR can."""
    if not isinstance(network, DarkIR):
        return False
    if src.device.type == "cpu" and stream_bytes(network, src) >= FASTER_FROM:
        return True
    return one_pass_bytes(network, src) > free
