"""The kernels of FreMLP's transforms: complex numbers <-> magnitude and phasor, and the gradients of both.

Complex numbers are planes of pairs (B, C, H, W // 2 + 1, 2), as torch.fft wants them; magnitudes have either memory format.
The rules for bins that vanish are those of darkir/spectral.py. Not measured on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from darkir.kernels.tiles import load, offset, place, store


@triton.jit
def _load_pairs(base, image, pixel, channel, pixels, channels, ARITHMETIC: tl.constexpr):
    """Real and imaginary parts of a tile of planes of pairs."""
    first = offset(image, pixel, channel, pixels, channels, False)
    inside = (pixel < pixels) & (channel < channels)
    address = base + (2 * first[:, :, None] + tl.arange(0, 2)[None, None, :])
    return tl.split(tl.load(address, mask=inside[:, :, None], other=0).to(ARITHMETIC))


@triton.jit
def _store_pairs(base, real, imaginary, image, pixel, channel, pixels, channels):
    first = offset(image, pixel, channel, pixels, channels, False)
    inside = (pixel < pixels) & (channel < channels)
    address = base + (2 * first[:, :, None] + tl.arange(0, 2)[None, None, :])
    value = tl.join(real, imaginary).to(base.dtype.element_ty)
    tl.store(address, value, mask=inside[:, :, None])


@triton.jit
def _column_weight(pixel, columns, width, INNER: tl.constexpr):
    """INNER for the columns that stand for two of the full spectrum (all but the first and, at even width, the last), else 1."""
    column = pixel % columns
    return tl.where((column >= 1) & (column < (width + 1) // 2), INNER, 1.0)


@triton.jit
def polar(
    z, magnitude, phasor, pixels, channels,
    LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    real, imaginary = _load_pairs(z, image, pixel, channel, pixels, channels, A)
    # Scaled by the larger part: squares of a nearly vanished bin would underflow to 0.
    larger = tl.maximum(tl.abs(real), tl.abs(imaginary), propagate_nan=tl.PropagateNan.ALL)
    vanished = larger == 0
    scale = tl.where(vanished, 1, larger)
    real, imaginary = real / scale, imaginary / scale
    length = tl.sqrt(real * real + imaginary * imaginary)
    store(magnitude, length * larger, image, pixel, channel, pixels, channels, LAST)
    length = tl.where(vanished, 1, length)
    real, imaginary = tl.where(vanished, 1, real / length), tl.where(vanished, 0, imaginary / length)
    _store_pairs(phasor, real, imaginary, image, pixel, channel, pixels, channels)


@triton.jit
def polar_backward(
    magnitude, phasor, grad_magnitude, grad_phasor, grad_z, pixels, channels, columns, width, EPS: tl.constexpr,
    LAST: tl.constexpr, GRAD_LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    size = load(magnitude, image, pixel, channel, pixels, channels, LAST, A)
    along = load(grad_magnitude, image, pixel, channel, pixels, channels, GRAD_LAST, A)
    real, imaginary = _load_pairs(phasor, image, pixel, channel, pixels, channels, A)
    grad_real, grad_imaginary = _load_pairs(grad_phasor, image, pixel, channel, pixels, channels, A)
    weight = _column_weight(pixel, columns, width, 0.5)
    settled = size > EPS
    turning = real * grad_imaginary - imaginary * grad_real
    turning = tl.where(settled, turning / tl.where(settled, size, 1), 0) * weight
    along = tl.where(size == 0, 0, along) * weight
    grad_real, grad_imaginary = real * along - imaginary * turning, imaginary * along + real * turning
    _store_pairs(grad_z, grad_real, grad_imaginary, image, pixel, channel, pixels, channels)


@triton.jit
def cartesian(
    magnitude, phasor, z, pixels, channels,
    LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    size = load(magnitude, image, pixel, channel, pixels, channels, LAST, A)
    real, imaginary = _load_pairs(phasor, image, pixel, channel, pixels, channels, A)
    _store_pairs(z, size * real, size * imaginary, image, pixel, channel, pixels, channels)


@triton.jit
def cartesian_backward(
    magnitude, phasor, grad_z, grad_magnitude, grad_phasor, pixels, channels, columns, width,
    LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    weight = _column_weight(pixel, columns, width, 2.0)
    size = load(magnitude, image, pixel, channel, pixels, channels, LAST, A)
    real, imaginary = _load_pairs(phasor, image, pixel, channel, pixels, channels, A)
    grad_real, grad_imaginary = _load_pairs(grad_z, image, pixel, channel, pixels, channels, A)
    grad_real, grad_imaginary = grad_real * weight, grad_imaginary * weight
    along = grad_real * real + grad_imaginary * imaginary
    store(grad_magnitude, along, image, pixel, channel, pixels, channels, LAST)
    _store_pairs(grad_phasor, grad_real * size, grad_imaginary * size, image, pixel, channel, pixels, channels)
