"""Pairs -> samples: uint8 tensors (3, H, W), sRGB, channel order RGB; they become float on the device that uses them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from data import images
from data.manifest import Pair
from data.transforms import augment, random_crop, sample_generator


class SampleKey(NamedTuple):
    """What determines a training sample, next to the seed: which pair, in which epoch, and its how-many-th draw there."""

    epoch: int
    draw: int
    index: int


def sized_pair(pair: Pair, resolution: int, fit: str, enlarge: bool) -> tuple[np.ndarray, np.ndarray]:
    """Decode both images and resize them with one filter: `crop` to the short side, `squash` to a square.

    `enlarge` says whether a photo smaller than the resolution grows (training) or stays native (validation, test).
    Returns two uint8 arrays (H, W, 3) of one size. Raises DataError naming the file.
    """
    src, tar = images.decode(pair.src_path), images.decode(pair.tar_path)
    height, width = src.shape[:2]
    size = sized(width, height, resolution, fit, enlarge)
    return images.resize(src, size), images.resize(tar, size)


def sized(width: int, height: int, resolution: int, fit: str, enlarge: bool) -> tuple[int, int]:
    """(width, height) of a photo as the network sees it before any crop."""
    if fit == "squash":
        return resolution, resolution
    return images.fit_crop_size(width, height, resolution, enlarge)


class TrainingPairs(Dataset):
    """Square training samples; `dataset[SampleKey]` is the same tensor pair in any process, order or restart."""

    def __init__(self, pairs: list[Pair], resolution: int, fit: str, preprocess: str, seed: int):
        self.pairs = pairs
        self.resolution = resolution
        self.fit = fit
        self.preprocess = preprocess
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: SampleKey) -> dict:
        rng = sample_generator(self.seed, key.epoch, key.draw, key.index)
        src, tar = sized_pair(self.pairs[key.index], self.resolution, self.fit, enlarge=True)
        src, tar = random_crop(src, tar, self.resolution, rng)
        src, tar = augment(src, tar, self.preprocess, rng)
        return {"src": planes(src), "tar": planes(tar), "index": key.index}


class EvaluationPairs(Dataset):
    """Whole frames, in file order; nothing random."""

    def __init__(self, pairs: list[Pair], resolution: int, fit: str):
        self.pairs = pairs
        self.resolution = resolution
        self.fit = fit

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        src, tar = sized_pair(self.pairs[index], self.resolution, self.fit, enlarge=False)
        return {"src": planes(src), "tar": planes(tar), "index": index}

    def size_of(self, index: int) -> tuple[int, int]:
        """(width, height) of the sample, from the recorded size of the photo, without decoding."""
        row = self.pairs[index].row
        return sized(row["width"], row["height"], self.resolution, self.fit, enlarge=False)


def planes(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) array -> contiguous (3, H, W) tensor that owns its memory."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
