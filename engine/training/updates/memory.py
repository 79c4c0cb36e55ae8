"""What an update takes of a device's memory: counted before it is tried, measured where that is possible, and what would fit."""

from __future__ import annotations

import copy
import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from darkir.weights import Network
from data.cache import ResidentPairs
from data.config import MIN_RESOLUTION
from engine.runtime import Precision
from engine.training.updates.update import LossTerms
from losses.objective import Objective

USABLE = 0.9  # the allocator's fragments and the libraries' work areas take the rest
MULTIPLE = 8
# What oneDNN's work areas and whole pages add: 285 MB a sample measured, 231 MB counted (m, 128 x 128; in bfloat16 157 and 147).
CPU_OVERHEAD = 1.2
STANDING = 5  # float32 numbers a parameter: weight, average, gradient and AdamW's two moments


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


def memory_used(device: torch.device) -> str | None:
    """For the log, the most of a GPU's memory that this process had so far; None on the CPU."""
    if device.type != "cuda":
        return None
    gib = 2**30
    tensors, held = torch.cuda.max_memory_allocated(device) / gib, torch.cuda.max_memory_reserved(device) / gib
    whole = torch.cuda.mem_get_info(device)[1] / gib
    return f"GPU memory at its peak: {tensors:.1f} GiB of tensors, {held:.1f} GiB reserved, of {whole:.1f} GiB"


def memory_advice(
    use: MemoryUse | None, batch_size: int, resolution: int, resident: ResidentPairs | None = None
) -> str:
    """The message for a batch that did not fit; figures are marked as the estimates that they are."""
    text = f"out of memory at --batch_size {batch_size} --resolution {resolution}; the last checkpoint is sound."
    if use is not None:
        batch, side = use.largest_batch(), use.largest_resolution(resolution, batch_size)
        ways = [f"--batch_size {batch}"] if batch else []
        ways += [f"--resolution {side}"] if side >= MIN_RESOLUTION else []
        fitting = f"{' or '.join(ways)} would have fitted" if ways else "no batch and no resolution would have fitted"
        text += f" Estimate from one measured sample: {fitting}."
    text += " Lower --batch_size and raise --accumulate_steps: the update stays the same. Or use --mixed_precision."
    return text if resident is None else f"{text} {resident.advice}"


def counted_use(
    network: Network, objective: Objective, precision: Precision, resolution: int, capacity: int
) -> MemoryUse:
    """What updates at `resolution` take, counted on tensors without content: nothing is computed, nothing allocated.

    As they are written: what the compiler saves is not known before it has been at work.
    """
    device = torch.device(precision.device_type)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        terms = LossTerms(copy.deepcopy(network), copy.deepcopy(objective), precision)
        _empty(terms, mode, device)
        peaks = []
        for batch in (1, 2):
            images = torch.empty(batch, 3, resolution, resolution, dtype=torch.uint8, device=device)
            with LiveBytes(terms.parameters()) as live:
                terms(images, images).sum().backward()
            peaks.append(live.peak)
            terms.zero_grad(set_to_none=True)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    overhead = CPU_OVERHEAD if device.type == "cpu" else 1.0
    return MemoryUse(4 * STANDING * parameters, int(overhead * (peaks[1] - peaks[0])), capacity)


def _empty(module: nn.Module, mode: FakeTensorMode, device: torch.device) -> None:
    """Replace the tensors of `module` by ones without content on `device`, which need not be there."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            fake = mode.from_tensor(parameter.detach()).to(device)
            part.register_parameter(name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, mode.from_tensor(buffer).to(device))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make and that are alive while it is active; `peak` is the most at once."""

    def __init__(self, known: Any = ()):
        super().__init__()
        self.kept = [tensor.untyped_storage() for tensor in known]
        self.live, self.peak, self.seen = 0, 0, {storage._cdata for storage in self.kept}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size
