"""Whether a batch of whole photos goes through a network in one pass or, photo by photo, in strips: equal but for rounding."""

from __future__ import annotations

import torch

from darkir.network import DarkIR

# Most tensor memory of the one-pass form, in residual streams (width x pixels, float32). Counted: in the last decoder block
# 4 that are input, skip and neighbours, and 3 pairs of twice the channels, 11.5 in all; with the libraries' copies 13 were
# measured (bench/bench_whole_photo.py prints them).
ONE_PASS_STREAMS = 13
# On the CPU strips are faster from here on: bytes of the residual stream of a batch. Below, all fits the caches either way.
FASTER_FROM = 12 * 2**20


def stream_bytes(network: DarkIR, src: torch.Tensor) -> int:
    """Bytes of the widest residual stream for (B, 3, H, W) images, the padding included."""
    batch, _, height, width = src.shape
    padded = (height + -height % network.multiple) * (width + -width % network.multiple)
    return 4 * network.config.width * batch * padded


def strips_are_better(network: torch.nn.Module, src: torch.Tensor, free: int) -> bool:
    """Whether a batch (B, 3, H, W) should go in strips, with `free` bytes left on its device. Only DarkIR can."""
    if not isinstance(network, DarkIR):
        return False
    stream = stream_bytes(network, src)
    return ONE_PASS_STREAMS * stream > free or (src.device.type == "cpu" and stream >= FASTER_FROM)
