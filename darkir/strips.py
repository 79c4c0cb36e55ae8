"""A whole photo through DarkIR in bounded memory: the same output as `network(x)`, computed in strips.

    from darkir.strips import restore_in_strips
    restored = restore_in_strips(load_network("checkpoint_best.pt"), photo)

Nothing is approximated: neighbouring rows come from the strips beside, the channel attention's mean and the spectrum are
those of the whole frame. (Independent tiles would change both.) What exists at once comes to two residual streams of full
size (width x pixels), the skips included, and temporary features for one strip; one pass holds about twelve.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from darkir.errors import ModelError
from darkir.network import DarkIR, Stage
from darkir.strip_blocks import apply_in_strips, convolve_rows, rows_of, scratch_numbers, spans

# Bytes of a strip's widest features (2C channels), of which some eight are alive at once. On the CPU, where it is for each
# thread, strips that stay near the caches are fastest; on CUDA a strip should be worth its kernel launches.
CPU_STRIP_BYTES, GPU_STRIP_BYTES = 4 * 2**20, 128 * 2**20
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
    features = _enter(network, x, rows)
    skips = []
    for encoder, down in zip(network.encoders, network.downs, strict=True):
        _apply_stage(encoder, features, rows)
        skips.append(features)
        features = _go_down(down, features, rows)
    _apply_stage(network.middle_blks_enc, features, rows)
    encoded = features.clone()
    _apply_stage(network.middle_blks_dec, features, rows)
    features += encoded
    del encoded
    for decoder, up in zip(network.decoders, network.ups, strict=True):
        features = _go_up(up, features, skips.pop(), rows)
        _apply_stage(decoder, features, rows)
    _leave(network, features, x, restored, rows)


def _apply_stage(stage: Stage, features: torch.Tensor, rows: int) -> None:
    """A stage's blocks, in place; their scratch memory is taken once and given back at the end."""
    if len(stage.modules_list) == 0:
        return
    scratch = features.new_empty(scratch_numbers(*features.shape[1:]))
    for block in stage.modules_list:
        apply_in_strips(block, features, scratch, rows)


def _new_features(like: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    # Channels last: a row strip is then one contiguous piece of memory.
    return torch.empty((1, channels, height, width), dtype=dtype, device=like.device, memory_format=torch.channels_last)


def _enter(network: DarkIR, x: torch.Tensor, rows: int) -> torch.Tensor:
    """The photo, with zeros below and at the right up to a multiple of `network.multiple`, through the first convolution."""
    height, width = (length + -length % network.multiple for length in x.shape[-2:])
    features = _new_features(x, network.config.width, height, width)
    for first, last in spans(height, rows):
        seen = F.pad(rows_of(x, first - 1, last + 1), (0, width - x.shape[-1]))
        features[:, :, first:last] = convolve_rows(network.intro, seen, 1)
    return features


def _go_down(down: nn.Conv2d, features: torch.Tensor, rows: int) -> torch.Tensor:
    """(1, C, H, W) -> (1, 2C, H / 2, W / 2)."""
    _, channels, height, width = features.shape
    lower = _new_features(features, 2 * channels, height // 2, width // 2)
    for first, last in spans(height // 2, rows):
        lower[:, :, first:last] = down(features[:, :, 2 * first : 2 * last])
    return lower


def _go_up(up: nn.Module, features: torch.Tensor, skip: torch.Tensor, rows: int) -> torch.Tensor:
    """(1, 2C, H / 2, W / 2) and the encoder's features (1, C, H, W) -> their sum at the larger size, written into `skip`."""
    for first, last in spans(features.shape[-2], rows):
        skip[:, :, 2 * first : 2 * last] += up(features[:, :, first:last])
    return skip


def _leave(network: DarkIR, features: torch.Tensor, x: torch.Tensor, restored: torch.Tensor, rows: int) -> None:
    """The last convolution plus the photo, without what was padded, into `restored`."""
    height, width = x.shape[-2:]
    for first, last in spans(height, rows):
        change = convolve_rows(network.ending, rows_of(features, first - 1, last + 1), 1)
        restored[:, :, first:last] = change[..., :width] + x[:, :, first:last]
