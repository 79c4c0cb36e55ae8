"""One optimizer update: batches in, weights changed, plain numbers out. Nothing is changed when a number is not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from engine.distributed import World, average_gradients
from engine.inference import to_float
from engine.runtime import Precision
from engine.training.learner import Learner
from losses.objective import Objective

SMALLEST_SCALE = 1.0


class NonFinite(ArithmeticError):
    """A loss term or the gradient is not finite; the weights are as before the update. `what` names the term."""

    def __init__(self, what: str):
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class StepResult:
    """terms: the weighted loss terms by name; grad_norm: 2-norm before clipping (0.0 when skipped)."""

    terms: dict[str, float]
    grad_norm: float
    skipped: bool


def train_step(
    learner: Learner,
    objective: Objective,
    batches: list[dict],
    precision: Precision,
    device: torch.device,
    grad_clip: float,
    update: int,
    world: World,
) -> StepResult:
    """One update from the mean gradient of `batches` (each {"src", "tar": uint8 (B, 3, R, R)}), over all processes of `world`.

    Raises NonFinite before the weights change. A float16 gradient overflow is a skipped step, not an error, until the loss
    scale falls below 1.
    """
    learner.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, torch.Tensor] = {}
    for batch in batches:
        terms = weighted_terms(learner.forward, objective, batch, precision, device)
        loss = cast(torch.Tensor, sum(terms.values()))
        learner.scaler.scale(loss / len(batches)).backward()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.detach() / len(batches)
    average_gradients(list(learner.network.parameters()), world)
    learner.scaler.unscale_(learner.optimizer)
    norm = clip_gradients(learner.network, grad_clip)
    # One transfer for all numbers: every .item() would make the host wait for the device again.
    *values, grad_norm = world.mean(torch.stack([*sums.values(), norm])).tolist()
    numbers = dict(zip(sums, values, strict=True))
    skipped = _refuse_non_finite(numbers, grad_norm, learner.scaler)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if not skipped:
        learner.average.update(learner.network, update)
    return StepResult(numbers, 0.0 if skipped else grad_norm, skipped)


def discard_update(learner: Learner) -> None:
    """Forget the gradients of an update that raised NonFinite, so that the next one starts clean."""
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.scaler.is_enabled():
        learner.scaler.update()


def weighted_terms(
    forward: nn.Module, objective: Objective, batch: dict, precision: Precision, device: torch.device
) -> dict[str, torch.Tensor]:
    """Forward pass and the named, weighted float32 loss terms of one batch."""
    src, tar = to_float(batch["src"], device), to_float(batch["tar"], device)
    src = src.contiguous(memory_format=torch.channels_last)
    with precision.autocast():
        if objective.needs_side:
            restored, side = forward(src, with_side=True)
        else:
            restored, side = forward(src), None
        # Inside autocast only VGG's convolutions run in 16 bit: the loss terms take care of their own float32.
        return objective(restored.float(), None if side is None else side.float(), tar)


def clip_gradients(network: nn.Module, grad_clip: float) -> torch.Tensor:
    """Scale all gradients so that their 2-norm is at most `grad_clip` (0: leave them); returns the norm before."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if grad_clip:
        torch.nn.utils.clip_grads_with_norm_(network.parameters(), grad_clip, norm)
    return norm


def _refuse_non_finite(terms: dict[str, float], grad_norm: float, scaler: torch.amp.GradScaler) -> bool:
    """True when a float16 overflow makes this a skipped step; NonFinite when the numbers are really broken."""
    for name, value in terms.items():
        if not math.isfinite(value):
            raise NonFinite(f"loss term {name}")
    if math.isfinite(grad_norm):
        return False
    if not scaler.is_enabled():
        raise NonFinite("gradient")
    if scaler.get_scale() / 2 < SMALLEST_SCALE:
        raise NonFinite(f"gradient at loss scale {scaler.get_scale():g}")
    return True
