"""FreMLP's transforms: torch.fft, and one kernel for everything pointwise. In and out as in darkir/spectral.py.

Each operator holds its FFT, so that compiled code sees real tensors only. Magnitudes have the memory format of the features
that they come from: the 1x1 convolutions on them need no copies. Not measured on a GPU.
"""

from __future__ import annotations

import torch

from darkir.kernels.polar import cartesian, cartesian_backward, polar, polar_backward
from darkir.kernels.tiles import arithmetic, dense, empty_like, grid, is_last, memory_format, sizes, tile_shape
from darkir.spectral import PHASE_EPS, connect

WARPS = 8  # four numbers a bin: half as many bins a thread as the other kernels have elements


@torch.library.custom_op("darkir::triton_spectrum", mutates_args=())
def spectrum(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Real (B, C, H, W) -> magnitude (B, C, H, W // 2 + 1), phasor (the same, 2)."""
    z = torch.view_as_real(torch.fft.rfft2(x.contiguous()).contiguous())
    magnitude, phasor = _outputs(x)
    images, channels, pixels = sizes(magnitude)
    with torch.cuda.device_of(x):
        polar[grid(images, channels, pixels)](
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
        polar_backward[grid(images, channels, pixels)](
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
        cartesian[grid(images, channels, pixels)](
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
        cartesian_backward[grid(images, channels, pixels)](
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


connect(spectrum, spectrum_backward, synthesis, synthesis_backward)
