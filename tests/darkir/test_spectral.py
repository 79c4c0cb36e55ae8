"""FreMLP: equal to the published magnitude / angle / cos / sin form, with exact gradients that stay finite."""

import copy

import pytest
import torch

from bench import reference_darkir
from darkir import spectral
from darkir.blocks import FreMLP

CHANNELS = 3


def modules(seed: int = 0) -> tuple[FreMLP, reference_darkir.FreMLP]:
    torch.manual_seed(seed)
    ours, theirs = FreMLP(CHANNELS), reference_darkir.FreMLP(CHANNELS)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(module: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    weight = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).cos().view_as(x)
    (module(x) * weight).sum().backward()
    return [x.grad, *(parameter.grad for parameter in module.parameters())]


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 5), (1, 1), (1, 4), (5, 1)])
def test_equals_the_published_form_at_any_size(size):
    ours, theirs = modules()
    x = torch.rand(2, CHANNELS, *size) - 0.3
    torch.testing.assert_close(ours(x), theirs(x), atol=2e-6, rtol=1e-5)


def test_a_flat_image_keeps_the_published_spike():
    # All bins but the first are 0 and have the phase 0 there: a phasor of 0 would lose what the biases put into them.
    ours, theirs = modules()
    x = torch.full((1, CHANNELS, 8, 8), 0.25)
    torch.testing.assert_close(ours(x), theirs(x), atol=2e-6, rtol=1e-5)
    assert theirs(x).std() > 0.01


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
def test_gradients_equal_the_published_form_in_float64(size):
    ours, theirs = (module.double() for module in modules())
    x = torch.rand(2, CHANNELS, *size, dtype=torch.float64) - 0.3
    for mine, published in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, published, atol=1e-11, rtol=1e-9)


def test_gradients_at_a_flat_image_equal_the_published_form():
    # Every bin but the first is exactly 0: neither the magnitude nor the phase has a gradient there.
    ours, theirs = (module.double() for module in modules())
    x = torch.full((1, CHANNELS, 8, 8), 0.25, dtype=torch.float64)
    for mine, published in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, published, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("width", [5, 6])
def test_gradcheck_in_float64(width):
    torch.manual_seed(1)
    fremlp = FreMLP(1).double()
    x = torch.rand(1, 1, 4, width, dtype=torch.float64, requires_grad=True)
    assert fremlp(x).dtype == torch.float64
    assert torch.autograd.gradcheck(fremlp, (x,))


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-24, 1e-19, 1e-13, 1e-6, 1e6])
def test_gradients_are_finite_at_every_scale(scale):
    torch.manual_seed(2)
    for x in (torch.rand(1, CHANNELS, 8, 10), torch.ones(1, CHANNELS, 8, 10)):
        for gradient in gradients(modules()[0], x * scale):
            assert torch.isfinite(gradient).all()


def test_the_published_form_is_not_finite_where_ours_is():
    # The reason for our own gradient; when torch mends angle() and abs(), this test may go.
    torch.manual_seed(2)
    x = torch.rand(1, CHANNELS, 8, 10) * 1e-24
    assert not torch.isfinite(gradients(modules()[1], x)[0]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_reach_the_spectrum(dtype):
    ours, _ = modules()
    x = (
        torch.rand(1, CHANNELS, 32, 32) * 100
    )  # the first magnitude is near 50,000: processed in float16 it would overflow
    with torch.autocast("cpu", dtype):
        under_autocast = ours(x)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, ours(x), atol=0, rtol=0)
    assert ours(x.to(dtype)).dtype == torch.float32


def test_only_magnitude_and_phasor_are_kept_for_the_gradient():
    kept = []
    x = torch.rand(1, CHANNELS, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        magnitude, phasor = spectral.spectrum(x)
        spectral.synthesis(magnitude, phasor, 16)
    assert len({tensor.data_ptr() for tensor in kept}) == 2


def test_operators_are_sound_under_torch_compile():
    x = torch.rand(1, 2, 5, 6, requires_grad=True)
    half = spectral.real_to_half(x).detach().requires_grad_()
    for operator, arguments in [(spectral.real_to_half, (x,)), (spectral.half_to_real, (half, 6))]:
        torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("width", [5, 6])
def test_what_the_compiler_sees_has_the_same_numbers(width):
    """Real arithmetic there, complex views without it; the kink at 0, noise and vanishing channels included."""
    torch.manual_seed(3)
    ours, _ = modules()
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True, backend="aot_eager")
    noise = torch.rand(1, CHANNELS, 8, width) - 0.3
    for x in (noise, noise * 1e-13, noise * 1e-24, torch.full((1, CHANNELS, 8, width), 0.25), torch.zeros_like(noise)):
        torch.testing.assert_close(compiled(x), ours(x), atol=2e-6, rtol=1e-5)
        for module in (ours, compiled):
            module.zero_grad()
        for mine, theirs in zip(gradients(compiled, x), gradients(ours, x), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4 * theirs.abs().max().item() + 1e-6, rtol=1e-4)
