"""A resized pair -> a training sample: one drawn crop and augmentation for both images, from a generator that the caller seeds.

`--preprocess none` crops only; `light_aug` adds flips; `strong_aug` adds quarter turns for both images and, on the source only, an
exposure change and a colour cast, drawn in linear light (the target is what the photo should become, so its tones stay).
"""

from __future__ import annotations

import numpy as np

from data.colour import srgb_encode

EXPOSURE_STOPS = 0.5
CAST_GAIN = 0.06


def sample_generator(seed: int, epoch: int, draw: int, index: int) -> np.random.Generator:
    """The generator of one sample: the same numbers whatever the worker, the order or the restart."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, draw, index))))


def random_crop(src: np.ndarray, tar: np.ndarray, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The same side x side window of both images, uint8 (H, W, 3) with H, W >= side."""
    height, width = src.shape[:2]
    top = int(rng.integers(height - side + 1))
    left = int(rng.integers(width - side + 1))
    window = (slice(top, top + side), slice(left, left + side))
    return src[window], tar[window]


def augment(
    src: np.ndarray, tar: np.ndarray, preprocess: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Apply the drawn augmentation to a pair of uint8 (S, S, 3) crops; shape and dtype stay."""
    if preprocess == "none":
        return src, tar
    for axis in (0, 1):
        if rng.random() < 0.5:
            src, tar = np.flip(src, axis), np.flip(tar, axis)
    if preprocess == "strong_aug":
        turns = int(rng.integers(4))
        src, tar = np.rot90(src, turns), np.rot90(tar, turns)
        src = jitter_tones(src, rng)
    return src, tar


def jitter_tones(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale the image in linear light by up to +-0.5 stop, and each channel by up to +-6 %; uint8 (H, W, 3) in and out."""
    gains = 2.0 ** rng.uniform(-EXPOSURE_STOPS, EXPOSURE_STOPS) * rng.uniform(1 - CAST_GAIN, 1 + CAST_GAIN, 3)
    tables = tone_tables(gains)
    return np.stack([tables[channel][image[..., channel]] for channel in range(3)], axis=-1)


def tone_tables(gains: np.ndarray) -> np.ndarray:
    """For each gain the uint8 table sRGB code -> sRGB code after scaling linear light by it (IEC 61966-2-1); (len(gains), 256)."""
    codes = np.arange(256) / 255.0
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    return np.rint(srgb_encode(np.outer(gains, linear)) * 255.0).astype(np.uint8)
