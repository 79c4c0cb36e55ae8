"""GPU memory of a training step, measured on one sample, and what would fit when a batch does not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from data.loader import MIN_RESOLUTION

USABLE = 0.9  # the allocator's fragments and the libraries' work areas take the rest
MULTIPLE = 8


@dataclass(frozen=True)
class MemoryUse:
    """Bytes: what stands on the device whatever the batch, what one sample adds at its peak, and what the device has."""

    fixed: int
    per_sample: int
    capacity: int

    def largest_batch(self) -> int:
        """Estimate of the largest batch that fits at the measured resolution; 0 when not even one sample does."""
        return max(0, int((USABLE * self.capacity - self.fixed) // self.per_sample))

    def largest_resolution(self, resolution: int, batch_size: int) -> int:
        """Estimate of the largest resolution, a multiple of 8, that fits `batch_size` samples; memory grows with pixels."""
        room = max(0.0, USABLE * self.capacity - self.fixed) / (self.per_sample * batch_size)
        return int(math.sqrt(room) * resolution) // MULTIPLE * MULTIPLE


class MemoryProbe:
    """Measures what the statements in its `with` block take on a CUDA device; `use` stays None on other devices."""

    def __init__(self, device: torch.device):
        self.device = device
        self.use: MemoryUse | None = None

    def __enter__(self) -> MemoryProbe:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            self._capacity = torch.cuda.mem_get_info(self.device)[0] + self._before
        return self

    def __exit__(self, *exception: object) -> None:
        if self.device.type == "cuda" and exception[0] is None:
            after, peak = torch.cuda.memory_allocated(self.device), torch.cuda.max_memory_allocated(self.device)
            self.use = MemoryUse(after, max(1, peak - self._before), self._capacity)


def memory_advice(use: MemoryUse | None, batch_size: int, resolution: int) -> str:
    """The message for a batch that did not fit; figures are marked as the estimates that they are."""
    start = f"out of memory at --batch_size {batch_size} --resolution {resolution}; the last checkpoint is sound."
    advice = "Lower --batch_size and raise --accumulate_steps: the update stays the same. Or use --mixed_precision."
    if use is None:
        return f"{start} {advice}"
    batch, side = use.largest_batch(), use.largest_resolution(resolution, batch_size)
    ways = [f"--batch_size {batch}"] if batch else []
    ways += [f"--resolution {side}"] if side >= MIN_RESOLUTION else []
    fitting = f"{' or '.join(ways)} would have fitted" if ways else "no batch and no resolution would have fitted"
    return f"{start} Estimate from one measured sample: {fitting}. {advice}"
