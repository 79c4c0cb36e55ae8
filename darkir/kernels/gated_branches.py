"""The operator around the kernels of darkir/kernels/branches.py: (B, 2C, H, W) -> gated (B, C, H, W), mean (B, C, 1, 1).

Not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton

from darkir.kernels.branches import branch_gradients, gate_branches, sum_gradient
from darkir.kernels.tiles import CHANNELS, accumulators, arithmetic, dense, empty_like, is_last, share, sizes

PIXELS = 32  # of a tile; in one row where the image is as wide: whole memory lines for planes, too


@torch.library.custom_op("darkir::triton_gated_branches", mutates_args=())
def gated_branches(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilations: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """weight (branches * 2C, 1, 3, 3) and bias (branches * 2C,) hold all branches, one after the other."""
    x = dense(x)
    gated = empty_like(x, x.shape[1] // 2, x.dtype)
    images, channels, pixels = sizes(gated)
    programs, steps, tile = _strips(x, channels, PIXELS)
    sums = accumulators(x, images, programs[0], channels)
    with torch.cuda.device_of(x):
        gate_branches[programs](
            x, _taps(weight, x), bias.contiguous(), gated, sums, *x.shape[2:], channels, steps,
            tuple(dilations), is_last(x), arithmetic(x), *tile,
        )  # fmt: skip
    return gated, (sums.sum(1) / pixels).to(x.dtype).view(images, channels, 1, 1)


@torch.library.custom_op("darkir::triton_gated_branches_backward", mutates_args=())
def gated_branches_backward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    dilations: Sequence[int],
    grad: torch.Tensor,
    grad_mean: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `gated_branches` for x, weight and bias."""
    x, grad, taps = dense(x), dense(grad), _taps(weight, x)
    grad_sum, grad_x = (empty_like(x, x.shape[1], x.dtype) for _ in range(2))
    images, wide, _ = sizes(x)
    size, form = x.shape[2:], (tuple(dilations), is_last(x))
    programs, steps, tile = _strips(x, wide // 2, PIXELS)
    with torch.cuda.device_of(x):
        sum_gradient[programs](
            x, taps, bias.contiguous(), grad, grad_mean.contiguous(), grad_sum, *size, wide // 2, steps,
            *form, is_last(grad), arithmetic(x), *tile,
        )  # fmt: skip
        # Every tap has a tile of sums in registers: with several branches only small tiles fit.
        programs, steps, tile = _strips(x, wide, PIXELS if len(dilations) == 1 else PIXELS // 2)
        tap_sums = accumulators(x, images * programs[0], len(dilations), 9, wide)
        bias_sums = accumulators(x, images * programs[0], wide)
        branch_gradients[programs](
            x, taps, grad_sum, grad_x, tap_sums, bias_sums, *size, wide, steps, *form, arithmetic(x), *tile,
        )  # fmt: skip
    grad_weight = tap_sums.sum(0).transpose(1, 2).to(weight.dtype).reshape(weight.shape)
    return grad_x, grad_weight.contiguous(), bias_sums.sum(0).to(bias.dtype).repeat(len(dilations))


def _taps(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """weight as (branches, 9, 2C): one tap of neighbouring channels lies together."""
    return weight.reshape(-1, x.shape[1], 9).transpose(1, 2).contiguous()


def _strips(x: torch.Tensor, channels: int, pixels: int) -> tuple[tuple[int, int, int], int, tuple[int, int, int]]:
    """Programs, the tiles that each of them walks, and a tile's columns, pixels and channels."""
    images, _, height, width = x.shape
    columns, block = (min(pixels, triton.next_power_of_2(width)), min(CHANNELS, triton.next_power_of_2(channels)))
    side_by_side, channel_blocks = triton.cdiv(width, columns), triton.cdiv(channels, block)
    tiles = triton.cdiv(height, pixels // columns)
    steps = share(tiles, side_by_side * channel_blocks * images)
    programs = side_by_side * triton.cdiv(tiles, steps), channel_blocks, images
    return programs, steps, (columns, pixels, block)


@gated_branches.register_fake
def _(x, weight, bias, dilations):
    gated = empty_like(x, x.shape[1] // 2, x.dtype)
    return gated, x.new_empty((*gated.shape[:2], 1, 1))


@gated_branches_backward.register_fake
def _(x, weight, bias, dilations, grad, grad_mean):
    return empty_like(x, x.shape[1], x.dtype), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _save(ctx, inputs, output):
    *tensors, ctx.dilations = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, grad, grad_mean):
    return *gated_branches_backward(*ctx.saved_tensors, ctx.dilations, grad, grad_mean), None


gated_branches.register_autograd(_gradients, setup_context=_save)
