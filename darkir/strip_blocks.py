"""One block of DarkIR on a whole frame, row strip by row strip: features (1, C, H, W) in, changed in place.

Temporary features exist for one strip at a time. Two things concern the whole frame: the gated features, which wait for
their mean, and later the spectrum. Both stand in `scratch`, a flat tensor of at least `scratch_numbers` numbers, one after
the other. The mean is summed strip by strip, and a 2D Fourier transform is that of all rows, then that of all columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from darkir.blocks import Block, DBlock, EBlock, FreMLP, gate


def spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    """0 ... length in parts of `size`, the last one shorter: (first, last + 1)."""
    for first in range(0, length, size):
        yield first, min(first + size, length)


def scratch_numbers(channels: int, height: int, width: int) -> int:
    """How many real numbers a block's half spectrum takes; the gated features take fewer."""
    return channels * height * (width // 2 + 1) * 2


def apply_in_strips(block: EBlock | DBlock, x: torch.Tensor, scratch: torch.Tensor, rows: int) -> None:
    """x (1, C, H, W), float32 or float64 -> block(x), written into x."""
    gated, pooled = _gated_features(block, x, scratch, rows)
    for first, last in spans(x.shape[-2], rows):
        strip = x[:, :, first:last]
        attended = block.add_attended(strip, gated[:, :, first:last], pooled)
        strip.copy_(block.add_gated_pair(attended) if isinstance(block, DBlock) else attended)
    if isinstance(block, EBlock):
        _modulate(block, x, scratch, rows)


def _gated_features(
    block: Block, x: torch.Tensor, scratch: torch.Tensor, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the block's branches and gate make of x, stored in `scratch`, and its mean over all pixels (1, C, 1, 1)."""
    _, channels, height, width = x.shape
    gated = scratch[: x.numel()].view(1, height, width, channels).permute(0, 3, 1, 2)
    # float64: thousands of strips may be added up.
    total = torch.zeros(1, channels, 1, 1, dtype=torch.float64, device=x.device)
    halo = max(block.dilations)
    for first, last, window in _wide_windows(block, x, rows, halo):
        mixed = None
        for branch, dilation in zip(block.branches, block.dilations, strict=True):
            reached = window[:, :, halo - dilation : halo + last - first + dilation]
            part = convolve_rows(branch.branch[0], reached, dilation)
            mixed = part if mixed is None else mixed.add_(part)
        strip = gated[:, :, first:last]
        strip.copy_(gate(mixed))
        total += strip.sum((2, 3), keepdim=True)
    return gated, (total / (height * width)).to(x.dtype)


def _wide_windows(block: Block, x: torch.Tensor, rows: int, halo: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield (first, last, widened features of the rows first - halo ... last + halo); rows outside the frame are zeros.

    What two windows share is computed once and handed on.
    """
    shared = _wide_rows(block, x, -halo, halo)
    for first, last in spans(x.shape[-2], rows):
        window = torch.cat([shared, _wide_rows(block, x, first + halo, last + halo)], dim=2)
        yield first, last, window
        shared = window[:, :, last - first :].clone()


def _wide_rows(block: Block, x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Rows first ... last of what the branches see (1, 2C, last - first, W)."""
    height, width = x.shape[-2:]
    top, bottom = max(first, 0), min(last, height)
    if bottom <= top:
        return x.new_zeros(1, 2 * x.shape[1], last - first, width)
    above, below = max(top - 1, 0), min(bottom + 1, height)
    features = block.norm1(x[:, :, above:below])
    if isinstance(block, DBlock):
        features = block.conv1(features)
    features = convolve_rows(block.extra_conv, _pad_rows(features, above - top + 1, bottom + 1 - below), 1)
    if isinstance(block, EBlock):
        features = block.conv1(features)
    return _pad_rows(features, top - first, last - bottom)


def rows_of(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Rows first ... last of x; zeros where x has none."""
    height = x.shape[-2]
    top, bottom = min(max(first, 0), height), min(max(last, 0), height)
    above = min(max(-first, 0), last - first)
    return _pad_rows(x[:, :, top:bottom], above, last - first - above - (bottom - top))


def _pad_rows(x: torch.Tensor, above: int, below: int) -> torch.Tensor:
    """Rows of zeros above and below; x itself when there are none."""
    return F.pad(x, (0, 0, above, below)) if above or below else x


def convolve_rows(conv: nn.Conv2d, x: torch.Tensor, dilation: int) -> torch.Tensor:
    """A 3x3 convolution that pads left and right only: `dilation` rows fewer come out at the top and at the bottom."""
    return F.conv2d(x, conv.weight, conv.bias, padding=(0, dilation), dilation=dilation, groups=conv.groups)


def _modulate(block: EBlock, y: torch.Tensor, scratch: torch.Tensor, rows: int) -> None:
    """y -> y + gamma * y * FreMLP(norm2(y)), in place; the spectrum in float32 or float64, whatever the autocast."""
    _, channels, height, width = y.shape
    bins = width // 2 + 1
    numbers = scratch[: scratch_numbers(channels, height, width)]
    spectrum = torch.view_as_complex(numbers.view(1, channels, height, bins, 2))
    for first, last in spans(height, rows):
        normed = block.norm2(y[:, :, first:last]).to(y.dtype)
        spectrum[:, :, first:last] = torch.fft.rfft(normed.contiguous())
    # As many bins at a time as a strip has pixels.
    for first, last in spans(bins, max(1, rows * width // height)):
        # The rows last: transforms and products then run over contiguous numbers.
        columns = spectrum[..., first:last].transpose(-1, -2).contiguous()
        spectrum[..., first:last] = _change_columns(block.freq, columns).transpose(-1, -2)
    for first, last in spans(height, rows):
        factor = torch.fft.irfft(spectrum[:, :, first:last], n=width)
        strip = y[:, :, first:last]
        strip.copy_(block.add_modulated(strip, factor))


def _change_columns(freq: FreMLP, columns: torch.Tensor) -> torch.Tensor:
    """Row transforms (1, C, columns, H) -> the same of the changed spectrum: the middle of FreMLP, on whole columns."""
    z = torch.fft.fft(columns)
    with torch.autocast(z.device.type, enabled=False):
        magnitude = z.abs()
        phasor = z.div_(magnitude).masked_fill_(magnitude == 0, 1)
        return torch.fft.ifft(phasor.mul_(freq.process1(magnitude)))
