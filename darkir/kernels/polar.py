"""The pointwise parts of FreMLP's transforms, one kernel each; torch.fft does the transforms. What goes in and out is said in
darkir/spectral.py, whose rules for bins that vanish hold here too.

Each operator holds its FFT, so that compiled code sees real tensors only. A spectrum and its phasor are planes of pairs
(B, C, H, W // 2 + 1, 2), as torch.fft wants them; magnitudes have the memory format of the features that they come from,
so that the 1x1 convolutions on them need no copies. Not measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from darkir.kernels.tiles import (
    arithmetic,
    dense,
    empty_like,
    grid,
    is_last,
    load,
    memory_format,
    offset,
    place,
    sizes,
    store,
    tile_shape,
)
from darkir.spectral import PHASE_EPS

WARPS = 8  # four numbers a bin: half as many bins a thread as the other kernels have elements


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
def _polar(
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
def _polar_backward(
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
def _cartesian(
    magnitude, phasor, z, pixels, channels,
    LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    size = load(magnitude, image, pixel, channel, pixels, channels, LAST, A)
    real, imaginary = _load_pairs(phasor, image, pixel, channel, pixels, channels, A)
    _store_pairs(z, size * real, size * imaginary, image, pixel, channel, pixels, channels)


@triton.jit
def _cartesian_backward(
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


@torch.library.custom_op("darkir::triton_spectrum", mutates_args=())
def spectrum(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Real (B, C, H, W) -> magnitude (B, C, H, W // 2 + 1), phasor (the same, 2)."""
    z = torch.view_as_real(torch.fft.rfft2(x.contiguous()).contiguous())
    magnitude, phasor = _outputs(x)
    images, channels, pixels = sizes(magnitude)
    with torch.cuda.device_of(x):
        _polar[grid(images, channels, pixels)](
            z,
            magnitude,
            phasor,
            pixels,
            channels,
            is_last(magnitude),
            arithmetic(x),
            *tile_shape(channels),
            num_warps=WARPS,
        )
    return magnitude, phasor


@torch.library.custom_op("darkir::triton_spectrum_backward", mutates_args=())
def spectrum_backward(
    magnitude: torch.Tensor,
    phasor: torch.Tensor,
    grad_magnitude: torch.Tensor,
    grad_phasor: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """Gradient of `spectrum` for x, as planes."""
    magnitude, grad_magnitude = dense(magnitude), dense(grad_magnitude)
    grad_z = torch.empty(phasor.shape, dtype=phasor.dtype, device=phasor.device)
    images, channels, pixels = sizes(magnitude)
    with torch.cuda.device_of(phasor):
        _polar_backward[grid(images, channels, pixels)](
            magnitude, phasor.contiguous(), grad_magnitude, grad_phasor.contiguous(), grad_z, pixels, channels,
            magnitude.shape[-1], width, PHASE_EPS, is_last(magnitude), is_last(grad_magnitude), arithmetic(magnitude),
            *tile_shape(channels), num_warps=WARPS,
        )  # fmt: skip
    size = (magnitude.shape[-2], width)
    return torch.fft.irfft2(torch.view_as_complex(grad_z), s=size, norm="forward").contiguous()


@torch.library.custom_op("darkir::triton_synthesis", mutates_args=())
def synthesis(magnitude: torch.Tensor, phasor: torch.Tensor, width: int) -> torch.Tensor:
    """Magnitude and phasor -> real (B, C, H, width), as planes."""
    magnitude = dense(magnitude)
    z = torch.empty(phasor.shape, dtype=phasor.dtype, device=phasor.device)
    images, channels, pixels = sizes(magnitude)
    with torch.cuda.device_of(phasor):
        _cartesian[grid(images, channels, pixels)](
            magnitude, phasor.contiguous(), z, pixels, channels, is_last(magnitude), arithmetic(magnitude),
            *tile_shape(channels), num_warps=WARPS,
        )  # fmt: skip
    return torch.fft.irfft2(torch.view_as_complex(z), s=(magnitude.shape[-2], width)).contiguous()


@torch.library.custom_op("darkir::triton_synthesis_backward", mutates_args=())
def synthesis_backward(
    magnitude: torch.Tensor, phasor: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of `synthesis` for magnitude and phasor."""
    magnitude = dense(magnitude)
    grad_z = torch.view_as_real(torch.fft.rfft2(grad.contiguous(), norm="forward").contiguous())
    grad_magnitude = empty_like(magnitude, magnitude.shape[1], magnitude.dtype)
    grad_phasor = torch.empty(phasor.shape, dtype=phasor.dtype, device=phasor.device)
    images, channels, pixels = sizes(magnitude)
    with torch.cuda.device_of(phasor):
        _cartesian_backward[grid(images, channels, pixels)](
            magnitude, phasor.contiguous(), grad_z, grad_magnitude, grad_phasor, pixels, channels, magnitude.shape[-1],
            grad.shape[-1], is_last(magnitude), arithmetic(magnitude), *tile_shape(channels), num_warps=WARPS,
        )  # fmt: skip
    return grad_magnitude, grad_phasor


def _outputs(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (*x.shape[:-1], x.shape[-1] // 2 + 1)
    magnitude = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    return magnitude, torch.empty((*shape, 2), dtype=x.dtype, device=x.device)


@spectrum.register_fake
def _(x):
    return _outputs(x)


@spectrum_backward.register_fake
def _(magnitude, phasor, grad_magnitude, grad_phasor, width):
    return phasor.new_empty((*phasor.shape[:-2], width))


@synthesis.register_fake
def _(magnitude, phasor, width):
    return phasor.new_empty((*phasor.shape[:-2], width))


@synthesis_backward.register_fake
def _(magnitude, phasor, grad):
    return empty_like(magnitude, magnitude.shape[1], magnitude.dtype), phasor.new_empty(phasor.shape)


def _save_spectrum(ctx, inputs, output):
    ctx.save_for_backward(*output)
    ctx.width = inputs[0].shape[-1]


def _spectrum_gradient(ctx, grad_magnitude, grad_phasor):
    return spectrum_backward(*ctx.saved_tensors, grad_magnitude, grad_phasor, ctx.width)


def _save_synthesis(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], inputs[1])


def _synthesis_gradient(ctx, grad):
    return *synthesis_backward(*ctx.saved_tensors, grad), None


spectrum.register_autograd(_spectrum_gradient, setup_context=_save_spectrum)
synthesis.register_autograd(_synthesis_gradient, setup_context=_save_synthesis)
