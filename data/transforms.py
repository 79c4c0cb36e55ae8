"""A resized pair -> a training sample: one crop and augmentation for both images, drawn from a generator that the caller seeds.

`--preprocess none` crops only; `light_aug` adds flips; `strong_aug` adds quarter turns for both images and, on the source only, an
exposure change and a colour cast, drawn in linear light (the target is what the photo should become, so its tones stay).
Drawing is NumPy on the host and needs no pixel; applying is torch on any device, uint8 in and out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from data.colour import srgb_encode

# How random numbers are drawn from (seed, epoch, ...), by version: a run goes on with the one that it began with. Version 1 told
# uses apart by the count of numbers alone, but a SeedSequence takes missing ones for 0: an epoch's order and the crop of its
# first photo came from one stream. Version 2 gives each use a number of its own, which comes first.
DRAWS = 2
ORDER, SAMPLE = 1, 2
EXPOSURE_STOPS = 0.5
CAST_GAIN = 0.06


@dataclass(frozen=True)
class Draw:
    """What was drawn for one sample, in the order in which it is applied; the tables are for the source only.

    down, across: whether rows, columns run backwards; turns: counter-clockwise quarter turns; tables: uint8 (3, 256), new code of
    every code of a channel, or None.
    """

    top: int
    left: int
    down: bool = False
    across: bool = False
    turns: int = 0
    tables: np.ndarray | None = None


def sample_generator(seed: int, epoch: int, draw: int, index: int, draws: int = DRAWS) -> np.random.Generator:
    """The generator of one sample: the same numbers whatever the worker, the order or the restart. draws: 1 or 2, see DRAWS."""
    return _generator(draws, SAMPLE, (seed, epoch, draw, index))


def order_generator(seed: int, epoch: int, draws: int = DRAWS) -> np.random.Generator:
    """The generator of the order of an epoch's samples, and of which of them are mixed in. draws: as for `sample_generator`."""
    return _generator(draws, ORDER, (seed, epoch))


def _generator(draws: int, use: int, numbers: tuple[int, ...]) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers if draws == 1 else (use, *numbers))))


def draw_sample(rng: np.random.Generator, width: int, height: int, length: int, preprocess: str) -> Draw:
    """Draw a length x length window of a width x height pair, both >= length, and its augmentation."""
    top, left = int(rng.integers(height - length + 1)), int(rng.integers(width - length + 1))
    if preprocess == "none":
        return Draw(top, left)
    down, across = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    if preprocess == "light_aug":
        return Draw(top, left, down, across)
    turns = int(rng.integers(4))
    return Draw(top, left, down, across, turns, tone_tables(draw_gains(rng)))


def cut(image: torch.Tensor, draw: Draw, length: int) -> torch.Tensor:
    """The drawn window of (3, H, W), flipped and turned: (3, length, length)."""
    window = image[:, draw.top : draw.top + length, draw.left : draw.left + length]
    backwards = [axis for axis, drawn in ((1, draw.down), (2, draw.across)) if drawn]
    if backwards:
        window = window.flip(backwards)
    return window.rot90(draw.turns, (1, 2)) if draw.turns else window


def lattice(draw: Draw, width: int, length: int) -> tuple[int, int, int]:
    """Where the pixels of `cut` lie in a plane of rows of `width` pixels: the first one's place, and the steps down and across.

    A window, flipped and turned, is still evenly spaced: out[i, j] = plane[first + i * down + j * across].
    """
    first, down, across = draw.top * width + draw.left, width, 1
    if draw.down:
        first, down = first + (length - 1) * down, -down
    if draw.across:
        first, across = first + (length - 1) * across, -across
    for _ in range(draw.turns):
        first, down, across = first + (length - 1) * across, -across, down
    return first, down, across


def toned(images: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Every code replaced by its entry in its channel's table: uint8 (..., 3, H, W) and (..., 3, 256) -> (..., 3, H, W)."""
    return tables.gather(-1, images.flatten(-2).long()).view(images.shape)


def draw_gains(rng: np.random.Generator) -> np.ndarray:
    """Gains of the three channels in linear light: an exposure of up to +-0.5 stop times a cast of up to +-6 % a channel."""
    return 2.0 ** rng.uniform(-EXPOSURE_STOPS, EXPOSURE_STOPS) * rng.uniform(1 - CAST_GAIN, 1 + CAST_GAIN, 3)


def tone_tables(gains: np.ndarray) -> np.ndarray:
    """For each gain the uint8 table sRGB code -> sRGB code after scaling linear light by it (IEC 61966-2-1); (len(gains), 256)."""
    codes = np.arange(256) / 255.0
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    return np.rint(srgb_encode(np.outer(gains, linear)) * 255.0).astype(np.uint8)
