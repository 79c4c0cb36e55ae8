"""Whole photos in strips: the one-pass output at every size and strip height, in bounded memory."""

import pytest
import torch

from darkir import DarkIR, NetworkConfig
from darkir.blocks import DBlock, EBlock
from darkir.errors import ModelError
from darkir.strips import CPU_STRIP_BYTES, LEAST_ROWS, apply_in_strips, restore_in_strips, scratch_numbers, strip_rows
from engine.training.updates.memory import LiveBytes
from tests.darkir.test_network import active

CONFIGS = {
    "default": NetworkConfig(width=4),
    "one level": NetworkConfig(width=4, enc_blocks=(1,), dec_blocks=(1,), dilations=(2, 11)),
    "stages without blocks": NetworkConfig(
        width=3, enc_blocks=(0, 2), middle_enc_blocks=1, middle_dec_blocks=0, dec_blocks=(1, 0), dilations=(3,)
    ),
}


def make(config: NetworkConfig, dtype: torch.dtype = torch.float32) -> DarkIR:
    torch.manual_seed(0)
    return active(DarkIR(config)).to(dtype)


def one_pass(network: DarkIR, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(x)


def error(restored: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the range of the expected values or of an image, whichever is larger."""
    return ((restored - expected).abs().max() / (expected.max() - expected.min()).clamp(min=1)).item()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [(53, 76), (37, 22), (7, 9), (1, 1), (2, 40)])
@pytest.mark.parametrize("rows", [1, 3, 16, 1000])
def test_equals_one_pass_at_every_size_and_strip_height(config, size, rows):
    network, x = make(CONFIGS[config]), torch.rand(1, 3, *size)
    expected = one_pass(network, x)
    assert error(x, expected) > 0.01, "the network changes nothing, so nothing is tested"
    restored = restore_in_strips(network, x, rows)
    assert restored.shape == x.shape
    assert error(restored, expected) < 1e-6


def images() -> dict[str, torch.Tensor]:
    black = torch.zeros(1, 3, 45, 62)
    half = black.clone()
    half[..., :20, :] = 1
    ramp = torch.linspace(0, 1, 62).expand(1, 3, 45, 62)
    return {"black": black, "constant": black + 0.5, "white": black + 1, "half": half, "ramp": ramp}


@pytest.mark.parametrize("image", images())
@pytest.mark.parametrize("rows", [1, 16])
def test_equals_one_pass_on_flat_images(image, rows):
    network, x = make(CONFIGS["default"]), images()[image]
    assert error(restore_in_strips(network, x, rows), one_pass(network, x)) < 1e-6


def test_is_exact_in_float64():
    network, x = make(NetworkConfig(width=8), torch.float64), torch.rand(1, 3, 75, 52, dtype=torch.float64)
    restored = restore_in_strips(network, x, 10)
    assert restored.dtype == torch.float64
    assert error(restored, one_pass(network, x)) < 1e-13


def test_a_batch_is_restored_photo_by_photo():
    network, x = make(CONFIGS["default"]), torch.rand(3, 3, 21, 34)
    restored = restore_in_strips(network, x, 8)
    assert error(restored, one_pass(network, x)) < 1e-6
    torch.testing.assert_close(restored[1:2], restore_in_strips(network, x[1:2], 8), atol=0, rtol=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_of_weights_and_photo_does_not_matter(memory_format):
    x = torch.rand(1, 3, 30, 41)
    expected = one_pass(make(CONFIGS["default"]), x)
    network = make(CONFIGS["default"]).to(memory_format=memory_format)
    assert error(restore_in_strips(network, x.contiguous(memory_format=memory_format), 8), expected) < 1e-6


def test_the_photo_is_left_as_it_was():
    x = torch.rand(1, 3, 24, 32)
    before = x.clone()
    restore_in_strips(make(CONFIGS["default"]), x, 8)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_it_is_finite_and_as_close_as_one_pass(dtype):
    network, x = make(CONFIGS["one level"]), torch.rand(1, 3, 256, 256)
    exact = one_pass(network, x)
    with torch.autocast("cpu", dtype):
        restored, whole = restore_in_strips(network, x, 32), one_pass(network, x)
    assert restored.dtype == torch.float32
    assert error(restored, exact) < 1.5 * error(whole, exact)


@pytest.mark.parametrize("block", [EBlock(4), DBlock(4, (1, 4, 9)), DBlock(4, (2, 13))], ids=["E", "D", "D, wide halo"])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_block_alone(block, rows):
    block, x = active(block), torch.randn(1, 4, 29, 18)
    with torch.inference_mode():
        expected, changed = block(x), x.clone()
        apply_in_strips(block, changed, torch.empty(scratch_numbers(4, 29, 18)), rows)
    assert error(changed, expected) < 1e-6


@pytest.mark.parametrize("rows", [1, 5])
def test_a_flat_image_keeps_the_published_spike(rows):
    # Its bins are exactly 0 but for the first, and a bin of 0 has the phase 0: see test_spectral.py.
    torch.manual_seed(0)
    block, x = EBlock(4), torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 16, 12).clone()
    with torch.inference_mode():
        block.gamma.fill_(0.5)
        expected = block(x)
        apply_in_strips(block, x, torch.empty(scratch_numbers(4, 16, 12)), rows)
    assert expected.std(dim=(2, 3)).max() > 0.01
    assert error(x, expected) < 1e-6


def peak_bytes(restore, before=()) -> int:
    with LiveBytes(before) as counted:
        restore()
    return counted.peak


def test_counted_memory():
    def chain():
        x = torch.zeros(1000)
        for _ in range(5):
            x = x + 1

    assert peak_bytes(chain) == 2 * 4000


@pytest.mark.parametrize("height", [128, 384])
def test_memory_is_two_residual_streams_whatever_the_height(height):
    network, x = make(NetworkConfig(width=16)), torch.rand(1, 3, height, 64)
    stream = 4 * 16 * height * 64
    in_strips = peak_bytes(lambda: restore_in_strips(network, x, 8), network.parameters())
    widest = 2 * 4 * 16 * 64 * (8 + 18)
    assert in_strips < (2 + 1 / 8) * stream * 33 / 32 + 2 * x.nbytes + 8 * widest
    assert peak_bytes(lambda: one_pass(network, x)) > 10 * stream


@pytest.mark.parametrize("rows", [0, -8])
def test_impossible_strip_heights_are_refused(rows):
    with pytest.raises(ModelError, match=str(rows)):
        restore_in_strips(make(CONFIGS["default"]), torch.rand(1, 3, 8, 8), rows)


def test_strip_height_follows_from_bytes():
    network = make(CONFIGS["default"])
    for width in (100, 400):
        rows = strip_rows(network, torch.empty(1, 3, 8, width))
        share = CPU_STRIP_BYTES * torch.get_num_threads()
        assert rows * 2 * 4 * width * 4 <= share < (rows + 1) * 2 * 4 * width * 4
    assert strip_rows(DarkIR(NetworkConfig()), torch.empty(1, 3, 8, 200_000)) == LEAST_ROWS
