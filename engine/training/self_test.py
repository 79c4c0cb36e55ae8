"""Before the long job, in seconds: real updates on a copy of the network, and what a sample takes of the GPU's memory.

Nothing of the run itself is touched.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from dataclasses import dataclass

import torch

from common.errors import RunFailed
from common.log import RunLog
from darkir.weights import Network
from data.cache import ResidentPairs
from data.config import MIN_RESOLUTION
from engine.distributed import World
from engine.inference import restorer, to_float
from engine.runtime import Precision
from engine.training.config import TrainConfig
from engine.training.feed import Feed
from engine.training.learner import Learner, make_learner
from engine.training.update import NonFinite, discard_update, train_step
from losses.objective import Objective

LR = 1e-3  # large enough that the output must change, whatever rate the run asks for
OVERFLOWS = 20  # a float16 run may lower its loss scale this often before its first update
USABLE = 0.9  # the allocator's fragments and the libraries' work areas take the rest
MULTIPLE = 8


@dataclass(frozen=True)
class Rehearsal:
    """A learner of its own that shares nothing with the run's, and what its updates need."""

    learner: Learner
    objective: Objective
    precision: Precision
    device: torch.device
    grad_clip: float

    def update(self, batch: dict) -> bool:
        """One update with `batch`; True when it was applied, False when a float16 gradient overflowed.

        Raises NonFinite, ready for the next update.
        """
        parts = (self.learner, self.objective, [batch], self.precision, self.device, self.grad_clip, 0, World())
        try:
            result = train_step(*parts)
        except NonFinite:
            discard_update(self.learner)
            raise
        return not result.skipped


def rehearse_on_copy(
    network: Network, objective: Objective, precision: Precision, device: torch.device, config: TrainConfig
) -> Rehearsal:
    """A rehearsal with a deep copy of `network`, which stands on `device`."""
    probe = dataclasses.replace(config, lr=LR, weight_decay=0.0, ema_decay=0.0)
    learner = make_learner(copy.deepcopy(network), precision, probe)
    return Rehearsal(learner, objective, precision, device, config.grad_clip)


def self_test(rehearsal: Rehearsal, feed: Feed, config: TrainConfig, log: RunLog) -> MemoryUse | None:
    """Rehearse the first updates of a run; the memory of one sample (CUDA only).

    Raises RunFailed when their numbers are broken or they do not fit into memory.
    """
    started, batch, memory = time.monotonic(), feed.first_batch(), None
    try:
        memory = check_first_update(rehearsal, batch)
    except NonFinite as fault:
        message = f"self-test: {fault.what} is not finite in the first batch; its photos: {feed.names([batch])}"
        if not config.skip_bad_batches:
            raise RunFailed(f"{message}. Look at them and at the starting weights, or use float32") from fault
        log(f"⚠️  {message}; --skip_bad_batches lets the run begin all the same")
    except torch.OutOfMemoryError as fault:
        raise RunFailed(memory_advice(None, config.batch_size, feed.samples.resolution, feed.resident)) from fault
    else:
        log(f"Self-test passed in {time.monotonic() - started:.1f} s: finite loss and gradient, output changes")
    return memory


def check_first_update(rehearsal: Rehearsal, batch: dict) -> MemoryUse | None:
    """Update the copy with one sample, twice, then with the whole batch; returns the memory of one sample (CUDA only).

    Raises NonFinite for a broken loss or gradient, torch.OutOfMemoryError, and RunFailed when an applied update leaves the
    output as it was: then nothing would ever be learned.
    """
    restore = restorer(rehearsal.learner.network, rehearsal.precision)
    src = to_float(batch["src"][:1], rehearsal.device)
    before = restore(src)
    single = {name: values[:1] for name, values in batch.items()}
    rehearsal.update(single)  # makes gradients and moments, which are no part of what a sample takes
    with MemoryProbe(rehearsal.device) as probe:
        rehearsal.update(single)
    if not any(rehearsal.update(batch) for _ in range(OVERFLOWS)):
        raise NonFinite(f"gradient in {OVERFLOWS} float16 updates")
    if torch.equal(before, restore(src)):
        raise RunFailed("self-test: an update changed nothing in the output; no weight of this network gets a gradient")
    return probe.use


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
