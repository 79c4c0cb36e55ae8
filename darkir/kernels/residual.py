"""The two ends of a block as one kernel forward and one backward each; tensors (B, C, H, W), scale (1, C, 1, 1).

add_scaled: x + scale * change. add_modulated: x + scale * (x * factor). The tensors may have different memory formats: the
spectrum returns planes where the features are channels_last. Results have the widest dtype and the first tensor's format.
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
def _add_forward(
    x, scale, other, y, pixels, channels, MODULATE: tl.constexpr,
    X_LAST: tl.constexpr, OTHER_LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    value = load(x, image, pixel, channel, pixels, channels, X_LAST, A)
    change = load(other, image, pixel, channel, pixels, channels, OTHER_LAST, A)
    if MODULATE:
        change = value * change
    result = value + load_vector(scale, channel, channels, A) * change
    store(y, result, image, pixel, channel, pixels, channels, X_LAST)


@triton.jit
def _scaled_backward(
    scale, change, grad, grad_change, sums, pixels, channels, steps,
    CHANGE_LAST: tl.constexpr, GRAD_LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, _, channel = place(0, steps, P, C)
    factor = load_vector(scale, channel, channels, A)
    total = tl.zeros((P, C), A)
    for step in range(steps):
        image, pixel, channel = place(step, steps, P, C)
        incoming = load(grad, image, pixel, channel, pixels, channels, GRAD_LAST, A)
        total += incoming * load(change, image, pixel, channel, pixels, channels, CHANGE_LAST, A)
        store(grad_change, incoming * factor, image, pixel, channel, pixels, channels, CHANGE_LAST)
    store_sum(sums, total, image * tl.num_programs(0) + tl.program_id(0), channel, channels)


@triton.jit
def _modulated_backward(
    x, scale, factor, grad, grad_x, grad_factor, sums, pixels, channels, steps, X_LAST: tl.constexpr,
    FACTOR_LAST: tl.constexpr, GRAD_LAST: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, _, channel = place(0, steps, P, C)
    weight = load_vector(scale, channel, channels, A)
    total = tl.zeros((P, C), A)
    for step in range(steps):
        image, pixel, channel = place(step, steps, P, C)
        incoming = load(grad, image, pixel, channel, pixels, channels, GRAD_LAST, A)
        value = load(x, image, pixel, channel, pixels, channels, X_LAST, A)
        modulation = load(factor, image, pixel, channel, pixels, channels, FACTOR_LAST, A)
        total += incoming * (value * modulation)
        scaled = incoming * weight
        store(grad_x, incoming + scaled * modulation, image, pixel, channel, pixels, channels, X_LAST)
        store(grad_factor, scaled * value, image, pixel, channel, pixels, channels, FACTOR_LAST)
    store_sum(sums, total, image * tl.num_programs(0) + tl.program_id(0), channel, channels)


@torch.library.custom_op("darkir::triton_add", mutates_args=())
def add(x: torch.Tensor, scale: torch.Tensor, other: torch.Tensor, modulate: bool) -> torch.Tensor:
    """x + scale * other, or with modulate x + scale * (x * other)."""
    x, other, y = dense(x), dense(other), _output(x, scale, other)
    images, channels, pixels = sizes(x)
    with torch.cuda.device_of(x):
        _add_forward[grid(images, channels, pixels)](
            x, scale.contiguous(), other, y, pixels, channels, modulate, is_last(x), is_last(other), arithmetic(y),
            *tile_shape(channels),
        )  # fmt: skip
    return y


@torch.library.custom_op("darkir::triton_add_scaled_backward", mutates_args=())
def add_scaled_backward(
    scale: torch.Tensor, change: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of `add_scaled` for scale and change; the one for x is the incoming gradient itself."""
    change, grad = dense(change), dense(grad)
    grad_change = empty_like(change, change.shape[1], change.dtype)
    programs, steps, sums = _reduction(grad)
    _, channels, pixels = sizes(grad)
    with torch.cuda.device_of(grad):
        _scaled_backward[programs](
            scale.contiguous(), change, grad, grad_change, sums, pixels, channels, steps,
            is_last(change), is_last(grad), arithmetic(grad), *tile_shape(channels),
        )  # fmt: skip
    return sums.sum(0).to(scale.dtype).view(scale.shape), grad_change


@torch.library.custom_op("darkir::triton_add_modulated_backward", mutates_args=())
def add_modulated_backward(
    x: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `add_modulated` for x, scale and factor."""
    x, factor, grad = dense(x), dense(factor), dense(grad)
    grad_x, grad_factor = empty_like(x, x.shape[1], x.dtype), empty_like(factor, factor.shape[1], factor.dtype)
    programs, steps, sums = _reduction(grad)
    _, channels, pixels = sizes(grad)
    with torch.cuda.device_of(grad):
        _modulated_backward[programs](
            x, scale.contiguous(), factor, grad, grad_x, grad_factor, sums, pixels, channels, steps,
            is_last(x), is_last(factor), is_last(grad), arithmetic(grad), *tile_shape(channels),
        )  # fmt: skip
    return grad_x, sums.sum(0).to(scale.dtype).view(scale.shape), grad_factor


def _reduction(grad: torch.Tensor) -> tuple[tuple[int, int, int], int, torch.Tensor]:
    """Programs, the tiles that each of them walks, and room for what they sum: a row for each, for its channels."""
    images, channels, _ = sizes(grad)
    tiles, blocks, _ = grid(*sizes(grad))
    steps = share(tiles, blocks * images)
    parts = triton.cdiv(tiles, steps)
    return (parts, blocks, images), steps, accumulators(grad, images * parts, channels)


def _output(x: torch.Tensor, scale: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    dtype = torch.promote_types(torch.promote_types(x.dtype, other.dtype), scale.dtype)
    return empty_like(x, x.shape[1], dtype)


@add.register_fake
def _(x, scale, other, modulate):
    return _output(x, scale, other)


@add_scaled_backward.register_fake
def _(scale, change, grad):
    return scale.new_empty(scale.shape), empty_like(change, change.shape[1], change.dtype)


@add_modulated_backward.register_fake
def _(x, scale, factor, grad):
    grad_factor = empty_like(factor, factor.shape[1], factor.dtype)
    return empty_like(x, x.shape[1], x.dtype), scale.new_empty(scale.shape), grad_factor


def _save(ctx, inputs, output):
    x, scale, other, ctx.modulate = inputs
    ctx.dtype = x.dtype
    ctx.save_for_backward(*([x] if ctx.modulate else []), scale, other)


def _gradients(ctx, grad):
    if ctx.modulate:
        return *add_modulated_backward(*ctx.saved_tensors, grad), None
    return grad.to(ctx.dtype), *add_scaled_backward(*ctx.saved_tensors, grad), None


add.register_autograd(_gradients, setup_context=_save)


def add_scaled(x: torch.Tensor, scale: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """x + scale * change."""
    return add(x, scale, change, False)


def add_modulated(x: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """x + scale * (x * factor)."""
    return add(x, scale, factor, True)
