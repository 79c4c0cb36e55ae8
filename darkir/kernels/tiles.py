"""What all kernels share: tensors as (image, pixel, channel), cut into tiles of pixels x channels.

A kernel takes planes (contiguous) and channels_last features alike, each tensor in its own order, told by a flag. Arithmetic
is float32 (float64 for float64 tensors), whatever is loaded and stored. Offsets are 64 bit: a photo of 24 megapixels at
128 channels has more than 2**31 elements. Sums over pixels go through partial sums that are added in a fixed order, never
through atomics, so that a run can be repeated to the last bit. All sizes depend on the shapes only; none was chosen by
measuring on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 2048  # elements: 16 a thread with 4 warps
CHANNELS = 32  # of a tile: one 128-byte line of float32
PROGRAMS = 2048  # programs of a reducing kernel, about 16 for each of an H100's 132 multiprocessors


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """The order in which kernels read x, and write what has its shape: channels_last, or planes."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def dense(x: torch.Tensor) -> torch.Tensor:
    """x itself where it has one of the two orders, else a copy in planes."""
    return x.contiguous(memory_format=memory_format(x))


def is_last(x: torch.Tensor) -> bool:
    """The flag that tells a kernel the order of a dense tensor."""
    return not x.is_contiguous()


def empty_like(x: torch.Tensor, channels: int, dtype: torch.dtype) -> torch.Tensor:
    """Room for a result of `channels` channels in x's order."""
    shape = (len(x), channels, *x.shape[2:])
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format(x))


def sizes(x: torch.Tensor) -> tuple[int, int, int]:
    """Images, channels, and pixels of one plane."""
    images, channels, height, width = x.shape
    return images, channels, height * width


def arithmetic(x: torch.Tensor) -> tl.dtype:
    """What a kernel computes in."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def accumulators(x: torch.Tensor, *shape: int) -> torch.Tensor:
    """Room for partial sums, in the kernel's arithmetic."""
    return x.new_empty(shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def tile_shape(channels: int) -> tuple[int, int]:
    """Pixels and channels of a tile of an elementwise kernel: good for either order, and for tensors of both."""
    block = min(CHANNELS, triton.next_power_of_2(channels))
    return TILE // block, block


def grid(images: int, channels: int, pixels: int) -> tuple[int, int, int]:
    """One program a tile of an elementwise kernel."""
    tile_pixels, tile_channels = tile_shape(channels)
    return triton.cdiv(pixels, tile_pixels), triton.cdiv(channels, tile_channels), images


def share(steps: int, others: int) -> int:
    """How many of `steps` one program takes, when each step exists `others` times, so that about PROGRAMS are left."""
    return triton.cdiv(steps, max(1, PROGRAMS // others))


@triton.jit
def place(step, steps, P: tl.constexpr, C: tl.constexpr):
    """Where a program's tile number `step` lies: image, pixels (P, 1), channels (1, C), all 64 bit."""
    pixel = (tl.program_id(0).to(tl.int64) * steps + step) * P + tl.arange(0, P)
    channel = tl.program_id(1).to(tl.int64) * C + tl.arange(0, C)
    return tl.program_id(2).to(tl.int64), pixel[:, None], channel[None, :]


@triton.jit
def offset(image, pixel, channel, pixels, channels, LAST: tl.constexpr):
    """Where the elements of a tile lie in a dense tensor of either order."""
    if LAST:
        return (image * pixels + pixel) * channels + channel
    return (image * channels + channel) * pixels + pixel


@triton.jit
def load(base, image, pixel, channel, pixels, channels, LAST: tl.constexpr, ARITHMETIC: tl.constexpr):
    """A tile for arithmetic; 0 outside of the tensor."""
    inside = (pixel < pixels) & (channel < channels)
    address = base + offset(image, pixel, channel, pixels, channels, LAST)
    return tl.load(address, mask=inside, other=0).to(ARITHMETIC)


@triton.jit
def store(base, value, image, pixel, channel, pixels, channels, LAST: tl.constexpr):
    """Write a tile, rounded to the tensor's dtype."""
    inside = (pixel < pixels) & (channel < channels)
    address = base + offset(image, pixel, channel, pixels, channels, LAST)
    tl.store(address, value.to(base.dtype.element_ty), mask=inside)


@triton.jit
def load_half(base, half, image, pixel, channel, pixels, channels, LAST: tl.constexpr, ARITHMETIC: tl.constexpr):
    """A tile of the first (0) or second (1) `channels` of a tensor with 2 * channels; 0 outside of the half."""
    inside = (pixel < pixels) & (channel < channels)
    address = base + offset(image, pixel, half * channels + channel, pixels, 2 * channels, LAST)
    return tl.load(address, mask=inside, other=0).to(ARITHMETIC)


@triton.jit
def store_half(base, value, half, image, pixel, channel, pixels, channels, LAST: tl.constexpr):
    """Write a tile of one half, rounded to the tensor's dtype."""
    inside = (pixel < pixels) & (channel < channels)
    address = base + offset(image, pixel, half * channels + channel, pixels, 2 * channels, LAST)
    tl.store(address, value.to(base.dtype.element_ty), mask=inside)


@triton.jit
def load_vector(base, channel, channels, ARITHMETIC: tl.constexpr):
    """One number a channel."""
    return tl.load(base + channel, mask=channel < channels, other=0).to(ARITHMETIC)


@triton.jit
def store_sum(base, tile, part, channel, channels):
    """Write a tile's sum over its pixels as row `part` of (parts, channels)."""
    total = tl.sum(tile, axis=0)[None, :]
    tl.store(base + part * channels + channel, total, mask=channel < channels)
