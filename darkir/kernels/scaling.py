"""The channel attention's product as one kernel forward and one backward: x (B, C, H, W) * factor (B, C, 1, 1).

Not measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from darkir.kernels.tiles import (
    accumulators,
    arithmetic,
    dense,
    empty_like,
    grid,
    is_last,
    load,
    load_vector,
    place,
    share,
    sizes,
    store,
    store_sum,
    tile_shape,
)


@triton.jit
def _forward(
    x, factor, y, pixels, channels, LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    value = load(x, image, pixel, channel, pixels, channels, LAST, A)
    scale = load_vector(factor + image * channels, channel, channels, A)
    store(y, value * scale, image, pixel, channel, pixels, channels, LAST)


@triton.jit
def _backward(
    x, factor, grad, grad_x, sums, pixels, channels, steps,
    LAST: tl.constexpr, GRAD_LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, _, channel = place(0, steps, P, C)
    scale = load_vector(factor + image * channels, channel, channels, A)
    total = tl.zeros((P, C), A)
    for step in range(steps):
        image, pixel, channel = place(step, steps, P, C)
        incoming = load(grad, image, pixel, channel, pixels, channels, GRAD_LAST, A)
        total += incoming * load(x, image, pixel, channel, pixels, channels, LAST, A)
        store(grad_x, incoming * scale, image, pixel, channel, pixels, channels, LAST)
    store_sum(sums, total, image * tl.num_programs(0) + tl.program_id(0), channel, channels)


@torch.library.custom_op("darkir::triton_scale_channels", mutates_args=())
def scale_channels(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """x * factor, in the wider of the two dtypes and x's memory format."""
    x, y = dense(x), _output(x, factor)
    images, channels, pixels = sizes(x)
    with torch.cuda.device_of(x):
        _forward[grid(images, channels, pixels)](
            x, factor.contiguous(), y, pixels, channels, is_last(x), arithmetic(x), *tile_shape(channels)
        )
    return y


@torch.library.custom_op("darkir::triton_scale_channels_backward", mutates_args=())
def scale_channels_backward(
    x: torch.Tensor, factor: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of `scale_channels` for x and factor."""
    x, grad = dense(x), dense(grad)
    grad_x = empty_like(x, x.shape[1], x.dtype)
    images, channels, pixels = sizes(x)
    tiles, blocks, _ = grid(images, channels, pixels)
    steps = share(tiles, blocks * images)
    parts = triton.cdiv(tiles, steps)
    sums = accumulators(x, images, parts, channels)
    with torch.cuda.device_of(x):
        _backward[(parts, blocks, images)](
            x, factor.contiguous(), grad, grad_x, sums, pixels, channels, steps,
            is_last(x), is_last(grad), arithmetic(x), *tile_shape(channels),
        )  # fmt: skip
    return grad_x, sums.sum(1).to(factor.dtype).view(factor.shape)


def _output(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return empty_like(x, x.shape[1], torch.promote_types(x.dtype, factor.dtype))


@scale_channels.register_fake
def _(x, factor):
    return _output(x, factor)


@scale_channels_backward.register_fake
def _(x, factor, grad):
    return empty_like(x, x.shape[1], x.dtype), factor.new_empty(factor.shape)


scale_channels.register_autograd(
    lambda ctx, grad: scale_channels_backward(*ctx.saved_tensors, grad),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
