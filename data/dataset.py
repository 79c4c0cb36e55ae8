"""Pairs -> samples: uint8 tensors (3, H, W), sRGB, channel order RGB; they become float on the device that uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from data import images
from data.fingerprint import decode_unchanged
from data.manifest import Pair
from data.transforms import DRAWS, Draw, cut, draw_sample, sample_generator, toned

# What gives a dataset its images: decoded_pair, or a cache that gives the same faster.
Source = Callable[[Pair, tuple[int, int]], tuple[torch.Tensor, torch.Tensor]]


class SampleKey(NamedTuple):
    """What determines a training sample, next to the seed: which pair, in which epoch, and its how-many-th draw there."""

    epoch: int
    draw: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls


def decoded_pair(pair: Pair, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both images of `pair`, decoded and resized with one filter to `size` (width, height): uint8 (3, H, W).

    Raises InputError naming the file, also when it changed since its fingerprint was taken.
    """
    src, tar = (planes(images.resize(decode_unchanged(pair, role), size)) for role in ("src", "tar"))
    return src, tar


def frame_size(pair: Pair, resolution: int, fit: str, enlarge: bool) -> tuple[int, int]:
    """(width, height) of a pair before any crop, from the size that its row records, without decoding.

    `crop` brings the short side to the resolution, `squash` both; `enlarge` says whether a photo smaller than the resolution grows
    (training) or stays native (validation, test).
    """
    if fit == "squash":
        return resolution, resolution
    return images.fit_crop_size(pair.row["width"], pair.row["height"], resolution, enlarge)


class TrainingPairs(Dataset):
    """Square training samples; `dataset[SampleKey]` is the same tensor pair in any process, order or restart.

    The tensors may be views of a read-only cache: collating them into a batch is the one copy.
    """

    def __init__(
        self,
        pairs: list[Pair],
        resolution: int,
        fit: str,
        preprocess: str,
        seed: int,
        source: Source = decoded_pair,
        draws: int = DRAWS,
    ):
        """draws: the version of the random draws (data/transforms.py)."""
        self.pairs = pairs
        self.resolution = resolution
        self.fit = fit
        self.preprocess = preprocess
        self.seed = seed
        self.source = source
        self.draws = draws

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: SampleKey) -> dict:
        draw = self.draw(key)
        pair = self.source(self.pairs[key.index], self.size_of(key.index))
        src, tar = (cut(image, draw, self.resolution) for image in pair)
        if draw.tables is not None:
            src = toned(src, torch.from_numpy(draw.tables))
        return {"src": src, "tar": tar, "index": key.index}

    def draw(self, key: SampleKey) -> Draw:
        """Window and augmentation of a sample, without its pixels."""
        rng = sample_generator(self.seed, key.epoch, key.draw, key.index, self.draws)
        return draw_sample(rng, *self.size_of(key.index), self.resolution, self.preprocess)

    def size_of(self, index: int) -> tuple[int, int]:
        """(width, height) of the pair before the crop, without decoding."""
        return frame_size(self.pairs[index], self.resolution, self.fit, enlarge=True)


class EvaluationPairs(Dataset):
    """Whole frames, in file order; nothing random. The tensors may be views of a read-only cache."""

    def __init__(self, pairs: list[Pair], resolution: int, fit: str, source: Source = decoded_pair):
        self.pairs = pairs
        self.resolution = resolution
        self.fit = fit
        self.source = source

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        src, tar = self.source(self.pairs[index], self.size_of(index))
        return {"src": src, "tar": tar, "index": index}

    def size_of(self, index: int) -> tuple[int, int]:
        """(width, height) of the sample, without decoding."""
        return frame_size(self.pairs[index], self.resolution, self.fit, enlarge=False)


def planes(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) array -> contiguous (3, H, W) tensor that owns its memory."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
