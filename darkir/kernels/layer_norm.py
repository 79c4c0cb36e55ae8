"""LayerNorm2d as one kernel forward and one backward: (B, C, H, W) -> the same shape, every pixel over its channels.

The backward pass recomputes mean and deviation from x, which it reads anyway: nothing but x and the weight is kept.
Not measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from darkir.kernels.tiles import (
    TILE,
    accumulators,
    arithmetic,
    dense,
    empty_like,
    is_last,
    load,
    load_vector,
    place,
    share,
    sizes,
    store,
    store_sum,
)


@triton.jit
def _normalised(value, channel, channels, EPS: tl.constexpr):
    mean = tl.sum(value, axis=1, keep_dims=True) / channels
    centred = tl.where(channel < channels, value - mean, 0)
    variance = tl.sum(centred * centred, axis=1, keep_dims=True) / channels
    scale = 1 / tl.sqrt(variance + EPS)
    return centred * scale, scale


@triton.jit
def _forward(
    x, weight, bias, y, pixels, channels,
    LAST: tl.constexpr, EPS: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, pixel, channel = place(0, 1, P, C)
    value = load(x, image, pixel, channel, pixels, channels, LAST, A)
    normalised, _ = _normalised(value, channel, channels, EPS)
    result = normalised * load_vector(weight, channel, channels, A) + load_vector(bias, channel, channels, A)
    store(y, result, image, pixel, channel, pixels, channels, LAST)


@triton.jit
def _backward(
    x, weight, grad, grad_x, weight_sums, bias_sums, pixels, channels, steps,
    LAST: tl.constexpr, GRAD_LAST: tl.constexpr, EPS: tl.constexpr, A: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    weight_sum, bias_sum = tl.zeros((P, C), A), tl.zeros((P, C), A)
    for step in range(steps):
        image, pixel, channel = place(step, steps, P, C)
        value = load(x, image, pixel, channel, pixels, channels, LAST, A)
        incoming = load(grad, image, pixel, channel, pixels, channels, GRAD_LAST, A)
        normalised, scale = _normalised(value, channel, channels, EPS)
        weight_sum += incoming * normalised
        bias_sum += incoming
        weighted = incoming * load_vector(weight, channel, channels, A)
        mean = tl.sum(weighted, axis=1, keep_dims=True) / channels
        along = tl.sum(weighted * normalised, axis=1, keep_dims=True) / channels
        result = scale * (weighted - mean - normalised * along)
        store(grad_x, result, image, pixel, channel, pixels, channels, LAST)
    image, _, channel = place(0, steps, P, C)
    part = image * tl.num_programs(0) + tl.program_id(0)
    store_sum(weight_sums, weight_sum, part, channel, channels)
    store_sum(bias_sums, bias_sum, part, channel, channels)


def _tile(channels: int, planes: bool) -> tuple[int, int, int]:
    """Pixels, channels and warps of a tile: all channels of a pixel, and 32 pixels of a plane for whole memory lines."""
    block = triton.next_power_of_2(channels)
    pixels = max(32 if planes else 1, TILE // block)
    return pixels, block, min(16, max(4, pixels * block // 512))


@torch.library.custom_op("darkir::triton_layer_norm", mutates_args=())
def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the channels, as `dtype` and in x's memory format."""
    x, y = dense(x), empty_like(x, x.shape[1], dtype)
    images, channels, pixels = sizes(x)
    tile_pixels, tile_channels, warps = _tile(channels, planes=not is_last(x))
    with torch.cuda.device_of(x):
        _forward[(triton.cdiv(pixels, tile_pixels), 1, images)](
            x, weight, bias, y, pixels, channels, is_last(x), eps, arithmetic(x), tile_pixels, tile_channels,
            num_warps=warps,
        )  # fmt: skip
    return y


@torch.library.custom_op("darkir::triton_layer_norm_backward", mutates_args=())
def layer_norm_backward(
    x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `layer_norm` for x, weight and bias."""
    x, grad = dense(x), dense(grad)
    grad_x = empty_like(x, x.shape[1], x.dtype)
    images, channels, pixels = sizes(x)
    planes = not (is_last(x) and is_last(grad))
    tile_pixels, tile_channels, warps = _tile(channels, planes)
    tiles = triton.cdiv(pixels, tile_pixels)
    steps = share(tiles, images)
    parts = triton.cdiv(tiles, steps)
    weight_sums, bias_sums = accumulators(x, 2, images * parts, channels)
    with torch.cuda.device_of(x):
        _backward[(parts, 1, images)](
            x, weight, grad, grad_x, weight_sums, bias_sums, pixels, channels, steps,
            is_last(x), is_last(grad), eps, arithmetic(x), tile_pixels, tile_channels, num_warps=2 * warps,
        )  # fmt: skip
    return grad_x, weight_sums.sum(0).to(weight.dtype), bias_sums.sum(0).to(weight.dtype)


@layer_norm.register_fake
def _(x, weight, bias, eps, dtype):
    return empty_like(x, x.shape[1], dtype)


@layer_norm_backward.register_fake
def _(x, weight, grad, eps):
    return empty_like(x, x.shape[1], x.dtype), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _save(ctx, inputs, output):
    x, weight, _, ctx.eps, _ = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx, grad):
    return *layer_norm_backward(*ctx.saved_tensors, grad, ctx.eps), None, None


layer_norm.register_autograd(_gradients, setup_context=_save)
