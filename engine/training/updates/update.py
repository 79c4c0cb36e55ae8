"""One optimizer update: batches in, weights changed, numbers out. Nothing is changed when a number is not finite.

All of it happens on the device, the decision whether the update counts included, so that the host never waits: it reads the
numbers of an update when the next one has been started (engine/training/updates/loop.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from engine.distributed import World, average_gradients
from engine.runtime import Precision
from engine.training.updates.learner import Learner
from losses.objective import Objective

SMALLEST_SCALE = 1.0

Batch = tuple[torch.Tensor, torch.Tensor]  # source and target, uint8 (B, 3, R, R) on the device
Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class NonFinite(ArithmeticError):
    """A loss term or the gradient is not finite; the weights are as before the update. `what` names the term.

    ranks: the processes whose own numbers were not finite; none when only their mean was not.
    """

    def __init__(self, what: str, ranks: Sequence[int] = ()):
        super().__init__(what)
        self.what, self.ranks = what, list(ranks)


@dataclass(frozen=True)
class StepResult:
    """terms: the weighted loss terms by name; grad_norm: 2-norm before clipping (0.0 when skipped); stop: a process wishes to."""

    terms: dict[str, float]
    grad_norm: float
    skipped: bool
    stop: bool


class LossTerms(nn.Module):
    """Source and target, uint8 (B, 3, R, R) -> the weighted terms, float32 (terms,): all that the compiler sees as one graph."""

    def __init__(self, network: nn.Module, objective: Objective, precision: Precision):
        super().__init__()
        self.network, self.objective, self.precision = network, objective, precision

    def forward(self, src: torch.Tensor, tar: torch.Tensor) -> torch.Tensor:
        """In the order of `objective.weights`."""
        src, tar = src.float() / 255.0, tar.float() / 255.0
        src = src.contiguous(memory_format=torch.channels_last)
        with self.precision.autocast():
            if self.objective.needs_side:
                restored, side = self.network(src, with_side=True)
            else:
                restored, side = self.network(src), None
            # Inside autocast only VGG's convolutions run in 16 bit: the loss terms take care of their own float32.
            terms = self.objective(restored.float(), None if side is None else side.float(), tar)
        return torch.stack(list(terms.values()))


def make_gradients(learner: Learner, forward: Forward, batches: list[Batch]) -> torch.Tensor:
    """Leave the mean gradient of `batches`, times the loss scale, in the network's parameters; returns the mean terms.

    Where a term is not finite the gradient is NaN throughout, so that its norm tells of both.
    """
    learner.optimizer.zero_grad(set_to_none=True)
    mean: torch.Tensor | None = None
    for batch in batches:
        terms = forward(*batch) / len(batches)
        known = terms.detach()
        learner.scaler.scale(terms.sum() * _one_or_nan(known.isfinite().all())).backward()
        mean = known if mean is None else mean + known
    assert mean is not None
    return mean


def _one_or_nan(sound: torch.Tensor) -> torch.Tensor:
    """1.0 where `sound`, else NaN; without a number that travels from the host, which no CUDA graph may hold."""
    return sound.float().masked_fill(~sound, math.nan)


def update_weights(
    learner: Learner, forward: Forward, batches: list[Batch], grad_clip: float, world: World
) -> torch.Tensor:
    """One update on the device, at the rates of `learner.prepare`; a gradient that is not finite leaves all as it is.

    Returns (terms + 2,): the terms of this process, the 2-norm of the gradient of all of them, and whether this process's own
    gradient was not finite (0.0 or 1.0).
    """
    terms = make_gradients(learner, forward, batches)
    parameters = [parameter for parameter in learner.network.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # The mean is not finite in any process when it is not in one: whose it was must be known before.
    own = torch.nn.utils.get_total_norm(gradients) if world.size > 1 else None
    average_gradients(parameters, world)
    if learner.scaler.is_enabled():
        # A norm may overflow where no gradient does; the scaler looks at gradients only.
        torch._foreach_mul_(gradients, _one_or_nan(torch.nn.utils.get_total_norm(gradients).isfinite()))
    learner.scaler.unscale_(learner.optimizer)
    norm = torch.nn.utils.get_total_norm(gradients)
    if grad_clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
    refused = (~norm.isfinite()).float()
    if not learner.scaler.is_enabled():
        # What a loss scaler tells a fused optimizer: it then changes nothing, without the host's knowing.
        learner.optimizer.found_inf = refused  # type: ignore[attr-defined]
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.average.move(learner.network, learner.share * (1.0 - refused))
    broken = refused if own is None else (~own.isfinite()).float()
    return torch.cat([terms, norm.view(1), broken.view(1)])


class Started:
    """The numbers of an update that has been started, on their way to the host.

    numbers: means over processes, of the terms `names`, the gradient's norm, the loss scale that the update left, the wish to stop,
    and for each process whether its own gradient was not finite. scaled: whether there is a loss scale, else 1.
    """

    def __init__(self, names: list[str], numbers: torch.Tensor, scaled: bool):
        self.names, self.scaled = names, scaled
        self.numbers = numbers.to("cpu", non_blocking=True)
        self.arrived = torch.cuda.Event() if numbers.is_cuda else None
        if self.arrived is not None:
            self.arrived.record(
                torch.cuda.current_stream(numbers.device)
            )  # torch's own choice is another with --device cuda:1

    def result(self) -> StepResult:
        """Wait for them. Raises NonFinite when the update was left out for a number that is not finite.

        A float16 gradient overflow is a skipped step, not an error, until the loss scale falls below 1.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        count = len(self.names)
        values, (grad_norm, scale, stop, *broken) = self.numbers[:count].tolist(), self.numbers[count:].tolist()
        ranks = [rank for rank, share in enumerate(broken) if share > 0]
        terms = dict(zip(self.names, values, strict=True))
        for name, value in terms.items():
            if not math.isfinite(value):
                raise NonFinite(f"loss term {name}", ranks)
        skipped = not math.isfinite(grad_norm)
        if skipped and not self.scaled:
            raise NonFinite("gradient", ranks)
        if skipped and scale < SMALLEST_SCALE:
            raise NonFinite(f"gradient at loss scale {2 * scale:g}", ranks)
        return StepResult(terms, 0.0 if skipped else grad_norm, skipped, stop > 0)
