"""A whole photo through DarkIR in bounded memory: the same output as `network(x)`, computed in strips of rows.

    from darkir.strips import restore_in_strips
    restored = restore_in_strips(load_network("checkpoint_best.pt"), photo)

Nothing is approximated: neighbouring rows come from the strips beside, the channel attention's mean and the spectrum are
those of the whole frame. (Independent tiles would change both.) What exists at once comes to two residual streams of full
size (width x pixels), the skips included, and temporary features for one strip; one pass holds about twelve.

Two things of a block concern the whole frame: the gated features, which wait for their mean, and later the spectrum. Both
stand in `scratch`, a flat tensor of at least `scratch_numbers` numbers, one after the other. The mean is summed strip by
strip, and a 2D Fourier transform is that of all rows, then that of all columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from darkir.blocks import DBlock, EBlock, FreMLP, gate
from darkir.errors import ModelError
from darkir.network import DarkIR

# Bytes of a strip's widest features (2C channels), of which some eight are alive at once. On the CPU, where it is for each
# thread, strips that stay near the caches are fastest; on CUDA a strip should be worth its kernel launches.
CPU_STRIP_BYTES, GPU_STRIP_BYTES = 4 * 2**20, 128 * 2**20
ALIGNMENT = 64  # numbers; features start where vector instructions like it
LEAST_ROWS = 8  # with fewer, what two strips share outweighs what is new


@torch.inference_mode()
def restore_in_strips(network: DarkIR, x: torch.Tensor, rows: int | None = None) -> torch.Tensor:
    """(B, 3, H, W) float RGB in [0, 1], any H and W -> restored, the same shape, not clamped; photo after photo.

    Equal to `network(x)` up to rounding. `rows` is the strip height at every level (1 or more), by default `strip_rows`.
    Features are kept in float32 (float64 for a float64 network); under autocast the convolutions run in its number format.
    Raises ModelError for a strip height below 1.
    """
    if rows is None:
        rows = strip_rows(network, x)
    if rows < 1:
        raise ModelError(f"a strip needs at least 1 row, not {rows}")
    restored = torch.empty_like(x)
    for photo, place in zip(x.split(1), restored.split(1), strict=True):
        _restore_photo(network, photo, place, rows)
    return restored


def strip_rows(network: DarkIR, x: torch.Tensor) -> int:
    """The strip height for which the widest features of one strip take ..._STRIP_BYTES, the same at every level."""
    share = torch.get_num_threads() * CPU_STRIP_BYTES if x.device.type == "cpu" else GPU_STRIP_BYTES
    bytes_a_row = 2 * network.config.width * x.shape[-1] * x.element_size()
    return max(LEAST_ROWS, share // bytes_a_row)


def _restore_photo(network: DarkIR, x: torch.Tensor, restored: torch.Tensor, rows: int) -> None:
    """One photo (1, 3, H, W) -> written into `restored`; the steps of `DarkIR.forward`."""
    features = _enter(network, x, rows)
    room = features.new_empty(_room_numbers(network, *features.shape[1:]))
    skips = []
    for encoder, down in zip(network.encoders, network.downs, strict=True):
        _apply_stage(encoder, features, room, rows)
        skips.append((features, room))
        _, channels, height, width = features.shape
        lower, room = _place(room, 2 * channels, height // 2, width // 2)
        for first, last in _spans(height // 2, rows):
            lower[:, :, first:last] = down(features[:, :, 2 * first : 2 * last])
        features = lower

    _apply_stage(network.middle_blks_enc, features, room, rows)
    encoded, room = _place(room, *features.shape[1:])
    encoded.copy_(features)
    _apply_stage(network.middle_blks_dec, features, room, rows)
    features += encoded

    for decoder, up in zip(network.decoders, network.ups, strict=True):
        skip, room = skips.pop()
        for first, last in _spans(features.shape[-2], rows):
            skip[:, :, 2 * first : 2 * last] += up(features[:, :, first:last])
        features = skip
        _apply_stage(decoder, features, room, rows)

    height, width = x.shape[-2:]
    for first, last in _spans(height, rows):
        change = _convolve_rows(network.ending, _rows_of(features, first - 1, last + 1))
        restored[:, :, first:last] = change[..., :width] + x[:, :, first:last]


def _enter(network: DarkIR, x: torch.Tensor, rows: int) -> torch.Tensor:
    """The photo, with zeros below and at the right up to a multiple of `network.multiple`, through the first convolution."""
    height, width = (length + -length % network.multiple for length in x.shape[-2:])
    channels, dtype = network.config.width, torch.float64 if x.dtype == torch.float64 else torch.float32
    features, _ = _place(x.new_empty(channels * height * width, dtype=dtype), channels, height, width)
    for first, last in _spans(height, rows):
        seen = F.pad(_rows_of(x, first - 1, last + 1), (0, width - x.shape[-1]))
        features[:, :, first:last] = _convolve_rows(network.intro, seen)
    return features


def _room_numbers(network: DarkIR, channels: int, height: int, width: int) -> int:
    """How many numbers all but the first level's features take at most: those of the levels below, and a block's scratch.

    One piece of memory for all, because freed pieces of different sizes would not be used again by every allocator.
    """
    taken, most = 0, scratch_numbers(channels, height, width)
    for _ in network.downs:
        channels, height, width = 2 * channels, height // 2, width // 2
        taken += _aligned(channels * height * width)
        most = max(most, taken + scratch_numbers(channels, height, width))
    encoded = _aligned(channels * height * width)
    return max(most, taken + encoded + scratch_numbers(channels, height, width))


def _place(room: torch.Tensor, channels: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (1, C, H, W) at the start of `room`, and the room behind them.

    Channels last: a strip of rows is then one contiguous piece of memory.
    """
    numbers = channels * height * width
    features = room[:numbers].view(1, height, width, channels).permute(0, 3, 1, 2)
    return features, room[_aligned(numbers) :]


def _aligned(numbers: int) -> int:
    return numbers + -numbers % ALIGNMENT


def _apply_stage(stage: nn.Module, features: torch.Tensor, scratch: torch.Tensor, rows: int) -> None:
    for block in stage.modules():
        if isinstance(block, (EBlock, DBlock)):
            apply_in_strips(block, features, scratch, rows)


def apply_in_strips(block: EBlock | DBlock, x: torch.Tensor, scratch: torch.Tensor, rows: int) -> None:
    """x (1, C, H, W), float32 or float64 -> block(x), written into x."""
    gated, pooled = _gated_features(block, x, scratch, rows)
    for first, last in _spans(x.shape[-2], rows):
        strip = x[:, :, first:last]
        attended = block.add_attended(strip, gated[:, :, first:last], pooled)
        strip.copy_(block.add_gated_pair(attended) if isinstance(block, DBlock) else attended)
    if isinstance(block, EBlock):
        _modulate(block, x, scratch, rows)


def scratch_numbers(channels: int, height: int, width: int) -> int:
    """How many real numbers a block's half spectrum takes; the gated features take fewer."""
    return channels * height * (width // 2 + 1) * 2


def _gated_features(
    block: EBlock | DBlock, x: torch.Tensor, scratch: torch.Tensor, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the block's branches and gate make of x, stored in `scratch`, and its mean over all pixels (1, C, 1, 1)."""
    _, channels, height, width = x.shape
    gated, _ = _place(scratch, channels, height, width)
    # float64: thousands of strips may be added up.
    total = torch.zeros(1, channels, 1, 1, dtype=torch.float64, device=x.device)
    halo = max(block.dilations)
    for first, last, window in _wide_windows(block, x, rows, halo):
        strip = gated[:, :, first:last]
        strip.copy_(gate(block.mix(window, halo)))
        total += strip.sum((2, 3), keepdim=True)
    return gated, (total / (height * width)).to(x.dtype)


def _wide_windows(
    block: EBlock | DBlock, x: torch.Tensor, rows: int, halo: int
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield (first, last, widened features of the rows first - halo ... last + halo); rows outside the frame are zeros.

    What two windows share is computed once and handed on.
    """
    shared = _wide_rows(block, x, -halo, halo)
    for first, last in _spans(x.shape[-2], rows):
        window = torch.cat([shared, _wide_rows(block, x, first + halo, last + halo)], dim=2)
        yield first, last, window
        shared = window[:, :, last - first :].clone()


def _wide_rows(block: EBlock | DBlock, x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Rows first ... last of what the branches see (1, 2C, last - first, W)."""
    height, width = x.shape[-2:]
    top, bottom = max(first, 0), min(last, height)
    if bottom <= top:
        return x.new_zeros(1, 2 * x.shape[1], last - first, width)
    above, below = max(top - 1, 0), min(bottom + 1, height)
    wide = block.widen(block.norm1(x[:, :, above:below]))
    # A row above and below is only seen; at the frame's edge there is none, and zeros are seen as in one pass.
    return _pad_rows(wide[:, :, top - above : bottom - above], top - first, last - bottom)


def _modulate(block: EBlock, y: torch.Tensor, scratch: torch.Tensor, rows: int) -> None:
    """y -> y + gamma * y * FreMLP(norm2(y)), in place; the spectrum in float32 or float64, whatever the autocast."""
    _, channels, height, width = y.shape
    bins = width // 2 + 1
    numbers = scratch[: scratch_numbers(channels, height, width)]
    spectrum = torch.view_as_complex(numbers.view(1, channels, height, bins, 2))
    for first, last in _spans(height, rows):
        normed = block.norm2(y[:, :, first:last]).to(y.dtype)
        spectrum[:, :, first:last] = torch.fft.rfft(normed.contiguous())
    # As many bins at a time as a strip has pixels.
    for first, last in _spans(bins, max(1, rows * width // height)):
        # The rows last: transforms and products then run over contiguous numbers.
        columns = spectrum[..., first:last].transpose(-1, -2).contiguous()
        spectrum[..., first:last] = _change_columns(block.freq, columns).transpose(-1, -2)
    for first, last in _spans(height, rows):
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


def _spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    """0 ... length in parts of `size`, the last one shorter: (first, last + 1)."""
    for first in range(0, length, size):
        yield first, min(first + size, length)


def _rows_of(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Rows first ... last of x; zeros where x has none."""
    height = x.shape[-2]
    top, bottom = min(max(first, 0), height), min(max(last, 0), height)
    above = min(max(-first, 0), last - first)
    return _pad_rows(x[:, :, top:bottom], above, last - first - above - (bottom - top))


def _pad_rows(x: torch.Tensor, above: int, below: int) -> torch.Tensor:
    """Rows of zeros above and below; x itself when there are none."""
    return F.pad(x, (0, 0, above, below)) if above or below else x


def _convolve_rows(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A 3x3 convolution that pads left and right only: one row fewer comes out at the top and at the bottom."""
    return F.conv2d(x, conv.weight, conv.bias, padding=(0, 1), groups=conv.groups)
