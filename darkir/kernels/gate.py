"""SimpleGate as one kernel forward and one backward: (B, 2C, H, W) -> (B, C, H, W), the two halves multiplied.

Not measured on a GPU.
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
    load_half,
    place,
    sizes,
    store,
    store_half,
    tile_shape,
)


@triton.jit
def _forward(
    x, y, pixels, channels, LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    first = load_half(x, 0, image, pixel, channel, pixels, channels, LAST, A)
    second = load_half(x, 1, image, pixel, channel, pixels, channels, LAST, A)
    store(y, first * second, image, pixel, channel, pixels, channels, LAST)


@triton.jit
def _backward(
    x, grad, grad_x, pixels, channels,
    LAST: tl.constexpr, GRAD_LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    incoming = load(grad, image, pixel, channel, pixels, channels, GRAD_LAST, A)
    first = load_half(x, 0, image, pixel, channel, pixels, channels, LAST, A)
    second = load_half(x, 1, image, pixel, channel, pixels, channels, LAST, A)
    store_half(grad_x, incoming * second, 0, image, pixel, channel, pixels, channels, LAST)
    store_half(grad_x, incoming * first, 1, image, pixel, channel, pixels, channels, LAST)


@torch.library.custom_op("darkir::triton_gate", mutates_args=())
def gate(x: torch.Tensor) -> torch.Tensor:
    """First half of the channels times the second, in x's dtype and memory format."""
    x = dense(x)
    y = empty_like(x, x.shape[1] // 2, x.dtype)
    images, channels, pixels = sizes(y)
    with torch.cuda.device_of(x):
        _forward[grid(images, channels, pixels)](
            x, y, pixels, channels, is_last(x), arithmetic(x), *tile_shape(channels)
        )
    return y


@torch.library.custom_op("darkir::triton_gate_backward", mutates_args=())
def gate_backward(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Gradient of `gate` for x."""
    x, grad = dense(x), dense(grad)
    grad_x = empty_like(x, x.shape[1], x.dtype)
    images, channels, pixels = sizes(grad)
    with torch.cuda.device_of(x):
        _backward[grid(images, channels, pixels)](
            x, grad, grad_x, pixels, channels, is_last(x), is_last(grad), arithmetic(x), *tile_shape(channels)
        )
    return grad_x


@gate.register_fake
def _(x):
    return empty_like(x, x.shape[1] // 2, x.dtype)


@gate_backward.register_fake
def _(x, grad):
    return empty_like(x, x.shape[1], x.dtype)


gate.register_autograd(
    lambda ctx, grad: gate_backward(*ctx.saved_tensors, grad),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
