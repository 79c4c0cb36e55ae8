"""Equirectangular map (linear RGB) -> perspective view 256 x 192 -> under-exposed source and exposure-fused target.

Images are (H, W, 3) float; "linear" is scene-linear from 0 up, "sRGB" is encoded in [0, 1].
Only make_sample_pairs.py uses this.
Fusion: Mertens, Kautz, Van Reeth, "Exposure Fusion", Pacific Graphics 2007.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data.colour import srgb_encode

WIDTH, HEIGHT = 256, 192
SUPERSAMPLING = 2
BRACKET_STOPS = (-2.6, -1.3, 0.0, 1.3, 2.6)
MIDDLE_GRAY = 0.18
LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def render_view(panorama: np.ndarray, yaw: float, pitch: float, field_of_view: float) -> np.ndarray:
    """Perspective view of an equirectangular map (H, W, 3) float32 linear.

    Angles in degrees, the field of view is horizontal. Bilinear in linear light at twice the size, then averaged 2 x 2.
    Returns (192, 256, 3) float32 linear.
    """
    width, height = WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING
    focal = width / 2 / np.tan(np.radians(field_of_view) / 2)
    x, y = np.meshgrid(
        (np.arange(width) + 0.5 - width / 2) / focal, (height / 2 - np.arange(height) - 0.5) / focal, indexing="xy"
    )
    tilt = np.radians(pitch)
    up, forward = y * np.cos(tilt) + np.sin(tilt), np.cos(tilt) - y * np.sin(tilt)
    longitude = np.arctan2(x, forward) + np.radians(yaw)
    latitude = np.arctan2(up, np.hypot(x, forward))
    fine = sample_equirectangular(panorama, longitude, latitude)
    return fine.reshape(HEIGHT, SUPERSAMPLING, WIDTH, SUPERSAMPLING, 3).mean(axis=(1, 3))


def sample_equirectangular(panorama: np.ndarray, longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Bilinear look-up; longitude in radians wraps around, latitude in radians stops at the poles."""
    rows, columns = panorama.shape[:2]
    u = (longitude / (2 * np.pi) + 0.5) * columns - 0.5
    v = np.clip((0.5 - latitude / np.pi) * rows - 0.5, 0, rows - 1)
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    right, bottom = (left + 1) % columns, np.minimum(top + 1, rows - 1)
    a, b = (u - left)[..., None].astype(np.float32), (v - top)[..., None].astype(np.float32)
    left = left % columns
    upper = panorama[top, left] * (1 - a) + panorama[top, right] * a
    lower = panorama[bottom, left] * (1 - a) + panorama[bottom, right] * a
    return upper * (1 - b) + lower * b


def neutral_gain(view: np.ndarray) -> float:
    """Factor that brings the geometric mean of the luminance to middle gray."""
    luminance = np.maximum(view @ LUMA, 1e-4)
    return MIDDLE_GRAY / float(np.exp(np.log(luminance).mean()))


def soft_shoulder(linear: np.ndarray, knee: float = 0.6) -> np.ndarray:
    """Identity up to `knee`, then bent so that 2.0 and more lands on white: highlights roll off before they clip."""
    room = 1 - knee
    over = np.clip((linear - knee) / (2.0 - knee), 0, 1)
    return np.where(linear <= knee, linear, knee + room * (1 - (1 - over) ** ((2.0 - knee) / room)))


def underexposed(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Source in sRGB [0, 1]: 0.5 to 2.6 stops under neutral, colour cast, shot noise, clipped, soft shoulder."""
    stops = rng.uniform(0.5, 2.6)
    warmth, tint = rng.normal(0, 0.12), rng.normal(0, 0.04)
    cast = np.exp(np.array([warmth + tint / 2, -tint, -warmth + tint / 2]))
    linear = view * (neutral_gain(view) * 2.0**-stops * cast)
    electrons = rng.uniform(1500, 6000)  # at a signal of 1: about ISO 400 to 1600 on a small sensor
    linear = rng.poisson(np.clip(linear, 0, 2.0) * electrons) / electrons
    return srgb_encode(soft_shoulder(linear))


def blur(image: np.ndarray) -> np.ndarray:
    """Binomial 5 x 5 blur, edges reflected."""
    for axis in (0, 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (2, 2)
        padded, size = np.pad(image, pad, mode="symmetric"), image.shape[axis]
        taps = [np.take(padded, range(shift, shift + size), axis=axis) for shift in range(5)]
        image = (taps[0] + taps[4] + 4 * (taps[1] + taps[3]) + 6 * taps[2]) / 16
    return image


def enlarge(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Twice the size, cut to `shape`, smoothed."""
    return blur(image.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]])


def gaussian_pyramid(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """The image and `levels` - 1 halvings."""
    pyramid = [image]
    for _ in range(levels - 1):
        pyramid.append(blur(pyramid[-1])[::2, ::2])
    return pyramid


def fuse_exposures(exposures: np.ndarray, levels: int = 7) -> np.ndarray:
    """Blend (N, H, W, 3) sRGB [0, 1] to (H, W, 3): weights contrast x saturation x well-exposedness, by pyramids."""
    weights = []
    for image in exposures:
        luma = image @ LUMA
        contrast = np.abs(4 * luma - sum(np.roll(luma, shift, axis) for shift in (-1, 1) for axis in (0, 1)))
        exposedness = np.exp(-((image - 0.5) ** 2) / (2 * 0.2**2)).prod(axis=-1)
        weights.append((contrast + 0.02) * (image.std(axis=-1) + 0.2) * exposedness + 1e-8)
    weights = np.stack(weights) / np.sum(weights, axis=0)
    fused: list[Any] = [0.0] * levels  # numbers until the first exposure is added, then arrays
    for image, weight in zip(exposures, weights, strict=True):
        images, maps = gaussian_pyramid(image, levels), gaussian_pyramid(weight[..., None], levels)
        for level in range(levels):
            band = images[level]
            if level < levels - 1:
                band = band - enlarge(images[level + 1], band.shape)
            fused[level] = fused[level] + maps[level] * band
    result = fused[-1]
    for band in reversed(fused[:-1]):
        result = enlarge(result, band.shape) + band
    return result


def retouched(view: np.ndarray) -> np.ndarray:
    """Target in sRGB [0, 1]: neutral exposure fusion of five exposures."""
    neutral = view * neutral_gain(view)
    exposures = np.stack([srgb_encode(soft_shoulder(np.clip(neutral * 2.0**stops, 0, 2.0))) for stops in BRACKET_STOPS])
    fused = fuse_exposures(exposures)
    # Fusion of a wide bracket looks flat: stretch as a retoucher sets black and white points; mist stays mist.
    black, white = np.percentile(fused @ LUMA, (0.5, 99.5))
    return np.clip(0.5 + (fused - (black + white) / 2) * 0.96 / max(white - black, 0.75), 0, 1)
