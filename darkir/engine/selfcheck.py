"""Before the long job, in seconds: one real update on a copy of the network. Nothing of the run itself is touched."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch

from darkir.architectures import Network
from darkir.engine.distributed import World
from darkir.engine.errors import RunFailed
from darkir.engine.evaluation import restorer, to_float
from darkir.engine.learner import Learner, make_learner
from darkir.engine.memory import MemoryProbe, MemoryUse
from darkir.engine.runtime import Precision
from darkir.engine.step import NonFinite, train_step
from darkir.engine.train_config import TrainConfig
from losses.objective import Objective

LR = 1e-3  # large enough that the output must change, whatever rate the run asks for
OVERFLOWS = 20  # a float16 run may lower its loss scale this often before its first update


@dataclass(frozen=True)
class Rehearsal:
    """A learner of its own that shares nothing with the run's, and what its updates need."""

    learner: Learner
    objective: Objective
    precision: Precision
    device: torch.device
    grad_clip: float

    def update(self, batch: dict) -> bool:
        """One update with `batch`; True when it was applied, False when a float16 gradient overflowed."""
        result = train_step(
            self.learner, self.objective, [batch], self.precision, self.device, self.grad_clip, 0, World()
        )
        return not result.skipped


def rehearse_on_copy(
    network: Network, objective: Objective, precision: Precision, device: torch.device, config: TrainConfig
) -> Rehearsal:
    """A rehearsal with a deep copy of `network`."""
    probe = dataclasses.replace(config, lr=LR, weight_decay=0.0, ema_decay=0.0)
    return Rehearsal(
        make_learner(copy.deepcopy(network), precision, probe), objective, precision, device, config.grad_clip
    )


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
