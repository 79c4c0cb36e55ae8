"""Whether a batch of whole photos goes through a network in one pass or, photo by photo, in strips: equal but for rounding."""

from __future__ import annotations

import torch

from darkir.network import DarkIR

# Peak of the one-pass form: so many residual streams (width x pixels, float32) and the libraries' work areas. 11.5 streams are
# counted in the last decoder block, where the widest features take two each. On the CPU bench/bench_whole_photo.py measured
# 740 to 840 MiB at 752 x 500 pixels (--height, --width) and 2360 to 2480 at 1504 x 1000, against 850 and 2640 by 13 streams;
# with --kept, the allocator of the scripts that keep what is freed, 4110 at 1504 x 1000. CUDA's is the count with some room,
# not measured.
CUDA_STREAMS, CPU_STREAMS = 13, 23
WORK_AREAS = 256 * 2**20
# On the CPU a batch goes in strips from so many bytes of residual stream on (half a megapixel of DarkIR-m): a sixth of the
# memory in about the same time, and in less than half of it where glibc gives freed memory back (bench/bench_whole_photo.py).
CPU_STRIPS_FROM = 64 * 2**20


def stream_bytes(network: DarkIR, src: torch.Tensor) -> int:
    """Bytes of the widest residual stream for (B, 3, H, W) images, the padding included."""
    batch, _, height, width = src.shape
    padded = (height + -height % network.multiple) * (width + -width % network.multiple)
    return 4 * network.config.width * batch * padded


def one_pass_bytes(network: DarkIR, src: torch.Tensor) -> int:
    """Estimate of the peak memory of `network(src)` without gradients, in bytes."""
    streams = CPU_STREAMS if src.device.type == "cpu" else CUDA_STREAMS
    return streams * stream_bytes(network, src) + WORK_AREAS


def strips_are_better(network: torch.nn.Module, src: torch.Tensor, free: int) -> bool:
    """Whether a batch (B, 3, H, W) should go in strips, with `free` bytes left on its device. Only DarkIR can."""
    if not isinstance(network, DarkIR):
        return False
    if src.device.type == "cpu" and stream_bytes(network, src) >= CPU_STRIPS_FROM:
        return True
    return one_pass_bytes(network, src) > free
