"""An output beside its target -> where it errs most, of what kind its error is, and how white its white walls are.

For people who look at pictures: nothing here is a record of results. Errors are split without remainder: the squared error of RGB
is the sum of the squares along gray and across it, and each of those the sum of what blocks have in common and the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.colour_metrics import lab_of

KINDS = ("exposure", "colour", "detail", "noise")
BLOCKS = 24  # over the short side: what they have in common is exposure or colour
TEXTURED = 0.02  # deviation of the target's gray within a block, in [0, 1]: from here on it shows detail
BOX, LEAST_BOX, BOXES = (
    160,
    16,
    3,
)  # pixels of the worst region's side: at most; at least; and at most a third of the short side
LIGHTEST, NEUTRAL, LEAST_SHARE = (
    70.0,
    6.0,
    0.01,
)  # L* and chroma of what counts as a white wall, and its least share of a frame


@dataclass(frozen=True)
class Judgement:
    """shares: KINDS -> share of the squared error, together 1 (all 0 without an error).

    box: (left, top, side) in pixels of the square where the output is farthest from the target; region: the same as (left, top,
    width, height) in shares of the frame. tint: how far the output's (a*, b*) is from the target's, on average over what is light
    and neutral in the target, white walls say; None where there is too little of it.
    """

    shares: dict[str, float]
    box: tuple[int, int, int]
    region: tuple[float, float, float, float]
    tint: tuple[float, float] | None


@torch.no_grad()
def judge(restored: torch.Tensor, target: torch.Tensor) -> Judgement:
    """Both (3, H, W) float sRGB, clamped to [0, 1] here, on one device."""
    restored, target = restored.float().clamp(0.0, 1.0), target.float().clamp(0.0, 1.0)
    error = restored - target
    left, top, side = _worst_box(error)
    height, width = error.shape[1:]
    region = (left / width, top / height, side / width, side / height)
    return Judgement(_shares(error, target), (left, top, side), region, _tint(restored, target))


def _shares(error: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """Common to a block along gray: exposure; across it: colour. The rest: detail where the target has texture, else noise."""
    block = max(2, min(error.shape[1:]) // BLOCKS)
    common = _block_means(error, block)
    rest = (error - common).square().sum(dim=0)
    along_gray = common.sum(dim=0).square() / 3
    gray = target.mean(dim=0, keepdim=True)
    variance = _block_means((gray - _block_means(gray, block)).square(), block)[0]
    parts = {
        "exposure": along_gray.sum(),
        "colour": common.square().sum() - along_gray.sum(),
        "detail": rest[variance >= TEXTURED**2].sum(),
        "noise": rest[variance < TEXTURED**2].sum(),
    }
    sums = {name: max(0.0, float(part)) for name, part in parts.items()}
    total = sum(sums.values())
    return {name: part / total if total else 0.0 for name, part in sums.items()}


def _block_means(planes: torch.Tensor, block: int) -> torch.Tensor:
    """Each pixel of (C, H, W) -> the mean of its block; those at the right and at the bottom may be smaller."""
    height, width = planes.shape[1:]
    means = F.avg_pool2d(planes[None], block, ceil_mode=True, count_include_pad=False)[0]
    return means.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :height, :width]


def _worst_box(error: torch.Tensor) -> tuple[int, int, int]:
    """(left, top, side) of the square with the largest mean absolute error, in steps of a quarter of its side."""
    height, width = error.shape[1:]
    side = min(BOX, max(LEAST_BOX, min(height, width) // BOXES), height, width)
    step = max(1, side // 4)
    means = F.avg_pool2d(error.abs().mean(dim=0)[None, None], side, step)[0, 0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    return column * step, row * step, side


def _tint(restored: torch.Tensor, target: torch.Tensor) -> tuple[float, float] | None:
    lab = lab_of(target)
    walls = (lab[0] > LIGHTEST) & (torch.hypot(lab[1], lab[2]) < NEUTRAL)
    if float(walls.float().mean()) < LEAST_SHARE:
        return None
    a, b = (lab_of(restored)[1:, walls] - lab[1:, walls]).mean(dim=1).tolist()
    return a, b


def tint_words(tint: tuple[float, float]) -> str:
    """`1.8 toward yellow`: how far from the target's white, in a* and b*, and where to."""
    a, b = tint
    hue = ("red" if a > 0 else "green") if abs(a) > abs(b) else ("yellow" if b > 0 else "blue")
    return f"{math.hypot(a, b):.1f} toward {hue}"
