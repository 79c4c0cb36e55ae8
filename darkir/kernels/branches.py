"""The kernels of `gated_branches`: depthwise 3x3 convolutions of one tensor, summed, gated and pooled in one pass.

Tensors as in darkir/kernels/tiles.py; `taps` are the weights as (branches, 9, 2C), `biases` (branches, 2C). A convolution
pads with zeros. All branches share their centre, so that three of them make 25 taps instead of 27. A tile is P pixels of
COLUMNS columns; a program walks down a strip, tile by tile, so that it finds rows in the cache again. Not measured on a GPU.

The ungated sum is not kept for the backward pass but computed again from x: at 2C channels it would be the largest tensor
of the block, and writing and reading it moves more bytes than reading x once more.
"""

from __future__ import annotations

import triton
import triton.language as tl

from darkir.kernels.tiles import load_vector, offset, store_sum


@triton.jit
def _strip(width, steps, COLUMNS: tl.constexpr, P: tl.constexpr, C: tl.constexpr):
    """A program's part: image, rows of its first tile (P, 1), columns (P, 1), channels (1, C)."""
    blocks = tl.cdiv(width, COLUMNS)
    pixel = tl.arange(0, P)[:, None]
    row = (tl.program_id(0) // blocks).to(tl.int64) * steps * (P // COLUMNS) + pixel // COLUMNS
    column = (tl.program_id(0) % blocks).to(tl.int64) * COLUMNS + pixel % COLUMNS
    channel = tl.program_id(1).to(tl.int64) * C + tl.arange(0, C)[None, :]
    return tl.program_id(2).to(tl.int64), row, column, channel


@triton.jit
def _branch_sum(
    x, taps, biases, row, column, kept, height, width, wide, stride,
    DILATIONS: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """All branches at the pixels to which x points, summed; taps and biases point to the first of their rows."""
    width, wide = tl.cast(width, tl.int64), tl.cast(wide, tl.int64)
    total = tl.load(biases, mask=kept, other=0).to(A)
    weight = tl.load(taps + 4 * wide, mask=kept, other=0).to(A)
    for branch in tl.static_range(1, len(DILATIONS)):
        total += tl.load(biases + branch * wide, mask=kept, other=0).to(A)
        weight += tl.load(taps + (9 * branch + 4) * wide, mask=kept, other=0).to(A)
    inside = (row < height) & (column < width) & kept
    total += weight * tl.load(x, mask=inside, other=0).to(A)
    for branch in tl.static_range(len(DILATIONS)):
        for tap in tl.static_range(9):
            if tap != 4:
                down, right = (tap // 3 - 1) * DILATIONS[branch], (tap % 3 - 1) * DILATIONS[branch]
                inside = (
                    (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width) & kept
                )
                weight = tl.load(taps + (9 * branch + tap) * wide, mask=kept, other=0).to(A)
                shift = (down * width + right) * stride
                total += weight * tl.load(x + shift, mask=inside, other=0).to(A)
    return total


@triton.jit
def gate_branches(
    x, taps, biases, gated, sums, height, width, channels, steps, DILATIONS: tl.constexpr, LAST: tl.constexpr,
    A: tl.constexpr, COLUMNS: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Forward: the two halves of the sum multiplied, and their partial sums for the mean over the pixels."""
    image, row, column, channel = _strip(width, steps, COLUMNS, P, C)
    kept, pixels, stride = channel < channels, height * width, 2 * channels if LAST else 1
    total = tl.zeros((P, C), A)
    for _ in range(steps):
        pixel = row * width + column
        first = x + offset(image, pixel, channel, pixels, 2 * channels, LAST)
        second = x + offset(image, pixel, channels + channel, pixels, 2 * channels, LAST)
        product = _branch_sum(
            first, taps + channel, biases + channel, row, column, kept, height, width, 2 * channels, stride, DILATIONS, A
        ) * _branch_sum(
            second, taps + channels + channel, biases + channels + channel, row, column, kept, height, width,
            2 * channels, stride, DILATIONS, A,
        )  # fmt: skip
        inside = (row < height) & (column < width) & kept
        total += tl.where(inside, product, 0)
        address = gated + offset(image, pixel, channel, pixels, channels, LAST)
        tl.store(address, product.to(gated.dtype.element_ty), mask=inside)
        row += P // COLUMNS
    store_sum(sums, total, image * tl.num_programs(0) + tl.program_id(0), channel, channels)


@triton.jit
def sum_gradient(
    x, taps, biases, grad, grad_mean, grad_sum, height, width, channels, steps, DILATIONS: tl.constexpr,
    LAST: tl.constexpr, GRAD_LAST: tl.constexpr, A: tl.constexpr, COLUMNS: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Backward, first pass: the gradient through mean and gate, for the sum of the branches."""
    image, row, column, channel = _strip(width, steps, COLUMNS, P, C)
    kept, pixels, stride = channel < channels, height * width, 2 * channels if LAST else 1
    from_mean = load_vector(grad_mean + image * channels, channel, channels, A) / pixels
    for _ in range(steps):
        pixel = row * width + column
        first = offset(image, pixel, channel, pixels, 2 * channels, LAST)
        second = offset(image, pixel, channels + channel, pixels, 2 * channels, LAST)
        first_sum = _branch_sum(
            x + first, taps + channel, biases + channel, row, column, kept, height, width, 2 * channels, stride,
            DILATIONS, A,
        )  # fmt: skip
        second_sum = _branch_sum(
            x + second, taps + channels + channel, biases + channels + channel, row, column, kept, height, width,
            2 * channels, stride, DILATIONS, A,
        )  # fmt: skip
        inside = (row < height) & (column < width) & kept
        address = grad + offset(image, pixel, channel, pixels, channels, GRAD_LAST)
        incoming = tl.load(address, mask=inside, other=0).to(A) + from_mean
        tl.store(grad_sum + first, (incoming * second_sum).to(grad_sum.dtype.element_ty), mask=inside)
        tl.store(grad_sum + second, (incoming * first_sum).to(grad_sum.dtype.element_ty), mask=inside)
        row += P // COLUMNS


@triton.jit
def branch_gradients(
    x, taps, grad_sum, grad_x, tap_sums, bias_sums, height, width, wide, steps, DILATIONS: tl.constexpr,
    LAST: tl.constexpr, A: tl.constexpr, COLUMNS: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Backward, second pass: the gradient for x, and partial sums of those for taps and biases from the same loads."""
    image, row, column, channel = _strip(width, steps, COLUMNS, P, C)
    width, wide = tl.cast(width, tl.int64), tl.cast(wide, tl.int64)
    kept, stride = channel < wide, wide if LAST else 1
    centre = tl.load(taps + channel + 4 * wide, mask=kept, other=0).to(A)
    for branch in tl.static_range(1, len(DILATIONS)):
        centre += tl.load(taps + channel + (9 * branch + 4) * wide, mask=kept, other=0).to(A)
    bias_total, centre_total = tl.zeros((P, C), A), tl.zeros((P, C), A)
    totals = ()
    for _ in tl.static_range(8 * len(DILATIONS)):
        totals = totals + (tl.zeros((P, C), A),)
    for _ in range(steps):
        here = offset(image, row * width + column, channel, height * width, wide, LAST)
        inside = (row < height) & (column < width) & kept
        value = tl.load(x + here, mask=inside, other=0).to(A)
        incoming = tl.load(grad_sum + here, mask=inside, other=0).to(A)
        bias_total += incoming
        centre_total += incoming * value
        result = incoming * centre
        new_totals = ()
        for branch in tl.static_range(len(DILATIONS)):
            for tap in tl.static_range(9):
                if tap != 4:
                    down, right = (1 - tap // 3) * DILATIONS[branch], (1 - tap % 3) * DILATIONS[branch]
                    there = (
                        (row + down >= 0)
                        & (row + down < height)
                        & (column + right >= 0)
                        & (column + right < width)
                        & kept
                    )
                    shift = (down * width + right) * stride
                    incoming = tl.load(grad_sum + here + shift, mask=there, other=0).to(A)
                    result += incoming * tl.load(taps + channel + (9 * branch + tap) * wide, mask=kept, other=0).to(A)
                    new_totals = new_totals + (totals[8 * branch + tap - tap // 5] + incoming * value,)
        totals = new_totals
        tl.store(grad_x + here, result.to(grad_x.dtype.element_ty), mask=inside)
        row += P // COLUMNS
    part = image * tl.num_programs(0) + tl.program_id(0)
    store_sum(bias_sums, bias_total, part, channel, wide)
    for branch in tl.static_range(len(DILATIONS)):
        first = (part * len(DILATIONS) + branch) * 9
        store_sum(tap_sums, centre_total, first + 4, channel, wide)
        for tap in tl.static_range(9):
            if tap != 4:
                store_sum(tap_sums, totals[8 * branch + tap - tap // 5], first + tap, channel, wide)
