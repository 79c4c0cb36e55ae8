"""Before the long job, in seconds: real updates on a copy of the network, and what a sample takes of the GPU's memory.

Nothing of the run itself is touched.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass

import torch

from common.errors import RunFailed
from common.log import RunLog
from darkir.weights import Network
from engine.distributed import World
from engine.inference import restorer, to_float
from engine.runtime import Precision
from engine.training.config import TrainConfig
from engine.training.feed import Feed
from engine.training.updates.execution import Stepper, train_step
from engine.training.updates.learner import make_learner
from engine.training.updates.memory import MemoryProbe, MemoryUse, memory_advice
from engine.training.updates.update import NonFinite
from losses.objective import Objective

LR = 1e-3  # large enough that the output must change, whatever rate the run asks for
OVERFLOWS = 20  # a float16 run may lower its loss scale this often before its first update


@dataclass(frozen=True)
class Rehearsal:
    """Updates of a learner of its own, which shares nothing with the run's."""

    stepper: Stepper
    precision: Precision

    @property
    def network(self) -> Network:
        return self.stepper.learner.network

    def update(self, batch: dict) -> bool:
        """One update with `batch`; True when it was applied, False when a float16 gradient overflowed. Raises NonFinite."""
        return not train_step(self.stepper, [batch], 0, LR).result().skipped


def rehearse_on_copy(network: Network, objective: Objective, precision: Precision, config: TrainConfig) -> Rehearsal:
    """A rehearsal with a deep copy of `network`, on its device; as written, without the compiler."""
    probe = dataclasses.replace(config, lr=LR, weight_decay=0.0, ema_decay=0.0)
    learner = make_learner(copy.deepcopy(network), precision, probe)
    return Rehearsal(Stepper(learner, objective, precision, World(), config.grad_clip, config.tf32 == "on"), precision)


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
    restore = restorer(rehearsal.network, rehearsal.precision)
    src = to_float(batch["src"][:1], rehearsal.stepper.device)
    before = restore(src)
    single = {name: values[:1] for name, values in batch.items()}
    rehearsal.update(single)  # makes gradients and moments, which are no part of what a sample takes
    with MemoryProbe(rehearsal.stepper.device) as probe:
        rehearsal.update(single)
    if not any(rehearsal.update(batch) for _ in range(OVERFLOWS)):
        raise NonFinite(f"gradient in {OVERFLOWS} float16 updates")
    if torch.equal(before, restore(src)):
        raise RunFailed("self-test: an update changed nothing in the output; no weight of this network gets a gradient")
    return probe.use
