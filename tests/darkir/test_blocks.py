"""The parts of a block against the formulas that they stand for, in outputs and gradients."""

import pytest
import torch
import torch.nn.functional as F

from darkir.blocks import DBlock, EBlock, gate

CHANNELS = 4
SIZES = [(1, 1), (2, 5), (9, 9), (13, 20), (31, 24)]
FORMATS = [torch.contiguous_format, torch.channels_last]


def branches(x: torch.Tensor, weights: list, biases: list, dilations: tuple[int, ...]) -> torch.Tensor:
    """The gated sum of dilated depthwise convolutions, by the book."""
    total = 0
    for weight, bias, dilation in zip(weights, biases, dilations, strict=True):
        total = total + F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=len(weight))
    return total[:, : len(weights[0]) // 2] * total[:, len(weights[0]) // 2 :]


def leaves(size: tuple[int, int], memory_format: torch.memory_format, count: int) -> list[torch.Tensor]:
    """Input, then weights, then biases of `count` branches, all wanting gradients."""
    torch.manual_seed(0)
    x = torch.randn(2, CHANNELS, *size).contiguous(memory_format=memory_format)
    weights = [torch.randn(CHANNELS, 1, 3, 3) for _ in range(count)]
    return [each.requires_grad_() for each in (x, *weights, *(torch.randn(CHANNELS) for _ in range(count)))]


def block_with(dilations: tuple[int, ...], weights: list, biases: list) -> DBlock:
    """A block whose branches compute with these tensors themselves, so that gradients reach them."""
    block = DBlock(CHANNELS // 2, dilations)
    for branch, weight, bias in zip(block.branches, weights, biases, strict=True):
        convolution = branch.branch[0]
        del convolution.weight, convolution.bias
        convolution.weight, convolution.bias = weight, bias
    return block


@pytest.mark.parametrize("dilations", [(1,), (1, 4, 9), (9, 2)])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_gated_branches_equal_dilated_convolutions(size, memory_format, dilations):
    count = len(dilations)
    inputs = leaves(size, memory_format, count)
    gated = gate(block_with(dilations, inputs[1 : 1 + count], inputs[1 + count :]).mix(inputs[0]))
    expected = branches(inputs[0], inputs[1 : 1 + count], inputs[1 + count :], dilations)
    torch.testing.assert_close(gated, expected, atol=1e-5, rtol=1e-5)
    weight = torch.rand(expected.shape)
    mine, theirs = (torch.autograd.grad((each * weight).sum(), inputs) for each in (gated, expected))
    for gradient, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_modulation_keeps_the_memory_format_of_its_input(memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, CHANNELS, 6, 5).contiguous(memory_format=memory_format)
    block, factor = EBlock(CHANNELS), torch.randn(2, CHANNELS, 6, 5)
    torch.nn.init.normal_(block.gamma)
    total = block.add_modulated(x, factor)
    torch.testing.assert_close(total, x + block.gamma * x * factor, atol=1e-6, rtol=1e-5)
    assert total.is_contiguous(memory_format=memory_format)
