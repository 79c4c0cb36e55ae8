"""Random weights in the structure of VGG19, a few channels wide: the perceptual term without the real file."""

from pathlib import Path

import torch

from losses.perceptual import CONVOLUTIONS


def write_small_random_vgg(path: Path, width: int = 4, seed: int = 0) -> Path:
    """Write a random VGG19 of `width` channels to `path` under torchvision's parameter names; returns `path`."""
    generator = torch.Generator().manual_seed(seed)
    tensors, channels = {}, 3
    for index in CONVOLUTIONS:
        spread = (2 / (9 * channels)) ** 0.5
        tensors[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3, generator=generator) * spread
        tensors[f"features.{index}.bias"] = torch.randn(width, generator=generator) * 0.1
        channels = width
    torch.save(tensors, path)
    return path
