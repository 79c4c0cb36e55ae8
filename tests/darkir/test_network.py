"""DarkIR as a whole: the published names and numbers, and images and weights on which the published gradients fail."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bench.reference_darkir import ReferenceDarkIR
from darkir import DarkIR, NetworkConfig, load_network
from darkir.errors import ModelError
from tests.helpers.paths import ROOT

PARITY = ROOT / "tests" / "fixtures" / "parity"
TINY = NetworkConfig(width=4, enc_blocks=(1, 1), middle_enc_blocks=1, middle_dec_blocks=1, dec_blocks=(1, 1))


def active(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give beta and gamma values: at their initial 0 every block is the identity and a test would see nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


def make(config: NetworkConfig = TINY) -> DarkIR:
    torch.manual_seed(0)
    return active(DarkIR(config))


def train_once(
    network: torch.nn.Module, x: torch.Tensor, scale: float = 1.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one step with both outputs against a fixed target, all times `scale`."""
    restored, side = network(x, with_side=True)
    loss = scale * ((restored - 0.4).abs().mean() + (side - 0.4).abs().mean())
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in network.named_parameters()}


def relative(difference: torch.Tensor, whole: torch.Tensor) -> float:
    return (difference.norm() / whole.norm()).item()


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    with np.load(PARITY / "darkir_tiny_io.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def test_outputs_loss_and_gradients_equal_the_published_network(published):
    network = load_network(PARITY / "darkir_tiny.pt")
    restored, side = network(published["input"], with_side=True)
    torch.testing.assert_close(restored, published["output"], atol=1e-5, rtol=0)
    torch.testing.assert_close(side, published["side"], atol=1e-5, rtol=0)

    loss = (restored - published["target"]).abs().mean()
    torch.testing.assert_close(loss.detach(), published["loss"], atol=1e-6, rtol=0)
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    expected = {name.removeprefix("grad/"): value for name, value in published.items() if name.startswith("grad/")}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert relative(gradient - expected[name], expected[name]) < 1e-4, name


def test_the_reference_equals_the_published_network(published):
    reference = ReferenceDarkIR(8)
    reference.load_state_dict(torch.load(PARITY / "darkir_tiny.pt", weights_only=True)["params"])
    with torch.no_grad():
        restored, side = reference(published["input"])
    torch.testing.assert_close(restored, published["output"], atol=1e-5, rtol=0)
    torch.testing.assert_close(side, published["side"], atol=1e-5, rtol=0)


def test_width_32_equals_the_reference_in_outputs_and_gradients():
    network = make(NetworkConfig())
    reference = ReferenceDarkIR(32)
    reference.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 29, 40)
    restored, side = network(x, with_side=True)
    expected, expected_side = reference(x)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(side, expected_side, atol=1e-5, rtol=0)

    weight = torch.rand(x.shape)
    ((restored * weight).mean() + side.square().mean()).backward()
    ((expected * weight).mean() + expected_side.square().mean()).backward()
    for (name, mine), theirs in zip(sorted(network.named_parameters()), parameters_by_name(reference), strict=True):
        assert relative(mine.grad - theirs.grad, theirs.grad) < 1e-4, name


def parameters_by_name(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for _, parameter in sorted(network.named_parameters())]


@pytest.mark.parametrize(("width", "parameters"), [(32, 3_321_638), (64, 12_957_254)])
def test_parameter_counts(width, parameters):
    with torch.device("meta"):
        network = DarkIR(NetworkConfig(width=width))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_names_and_shapes_at_width_64_are_the_published_ones():
    with torch.device("meta"):
        state = DarkIR(NetworkConfig(width=64)).state_dict()
    lines = [f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()]
    assert lines == (PARITY / "darkir_l_keys.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("size", [(52, 75), (97, 128), (8, 8), (1, 1), (7, 9)])
def test_any_size_keeps_its_size_and_trains(size):
    network = make(NetworkConfig(width=4))
    x = torch.rand(1, 3, *size)
    restored, side = network(x, with_side=True)
    assert restored.shape == x.shape
    assert side.shape[-2:] == ((size[0] + 7) // 8, (size[1] + 7) // 8)
    assert_trains(network, x)


def test_padding_is_zeros_at_the_bottom_and_right():
    network = make(NetworkConfig(width=4))
    x = torch.rand(1, 3, 13, 21)
    padded = torch.zeros(1, 3, 16, 24)
    padded[..., :13, :21] = x
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(padded)[..., :13, :21], atol=0, rtol=0)


def special_images() -> dict[str, torch.Tensor]:
    black = torch.zeros(1, 3, 24, 31)
    one_pixel = black.clone()
    one_pixel[..., 5, 7] = 1
    half = black.clone()
    half[..., :12, :] = 1
    return {
        "black": black,
        "constant": black + 0.5,
        "white": black + 1,
        "one pixel": one_pixel,
        "saturated half": half,
        "tiny": torch.rand(1, 3, 24, 31) * 1e-20,
        "denormal": torch.rand(1, 3, 24, 31) * 1e-40,
        "huge": torch.rand(1, 3, 24, 31) * 1e4,
    }


def assert_trains(network: torch.nn.Module, x: torch.Tensor) -> None:
    loss, gradients = train_once(network, x)
    assert torch.isfinite(loss)
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    assert not bad


@pytest.mark.parametrize("image", special_images())
def test_special_images_train_with_finite_numbers(image):
    torch.manual_seed(0)
    for network in (make(), DarkIR(TINY)):
        assert_trains(network, special_images()[image])


def dead_channel(network: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("norm2.weight", "norm2.bias")):
                parameter[1] = 1e-20
    return network


def test_a_dead_channel_trains_with_finite_numbers():
    assert_trains(dead_channel(make()), torch.rand(1, 3, 24, 31))


def test_a_dead_channel_breaks_the_published_gradients():
    # What the test above guards against is real: if this fails, the case no longer triggers anything.
    torch.manual_seed(0)
    reference = dead_channel(active(ReferenceDarkIR(4)))
    restored, _ = reference(torch.rand(1, 3, 24, 31))
    restored.mean().backward()
    assert any(p.grad is not None and p.grad.isnan().any() for p in reference.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.002), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("side_pixels", [64, 256])
def test_half_precision_autocast_stays_finite_and_close(dtype, tolerance, side_pixels):
    network = make()
    x = torch.rand(1, 3, side_pixels, side_pixels)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", dtype):
            restored = network(x)
    assert torch.isfinite(restored).all()
    assert (expected - x).abs().max() > 0.1, "the network changes nothing, so nothing is tested"
    assert relative(restored.float() - expected, expected) < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_half_precision_gradients_of_dilated_branches_are_right(dtype, memory_format):
    # oneDNN's own bfloat16 kernel is off by 100 % to NaN here: the branches must not reach it.
    x = torch.rand(1, 3, 64, 64).contiguous(memory_format=memory_format)
    scale = 4096.0  # what a loss scaler does: float16 has no numbers for gradients near 1e-7
    _, exact = train_once(make(), x, scale)
    network = make().to(memory_format=memory_format)
    with torch.autocast("cpu", dtype):
        _, gradients = train_once(network, x, scale)
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
        if "branches" in name:
            assert relative(gradient - exact[name], exact[name]) < 0.1, name


def test_float64_is_not_cast_down():
    network, x = make().double(), torch.rand(1, 3, 17, 24, dtype=torch.float64)
    restored = network(x)
    assert restored.dtype == torch.float64
    exact = restored.detach()
    rounded = make()(x.float()).double()
    assert 1e-9 < (exact - rounded).abs().max() < 1e-5


def test_channels_last_equals_contiguous():
    contiguous, channels_last = make(), make().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 24, 31)
    loss, gradients = train_once(contiguous, x)
    loss_last, gradients_last = train_once(channels_last, x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(loss_last, loss, atol=1e-6, rtol=1e-6)
    for name, gradient in gradients.items():
        assert relative(gradients_last[name] - gradient, gradient) < 1e-4, name


def test_what_a_gpu_computes_has_the_same_numbers(monkeypatch):
    network, twin = make(), make().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 24, 31)
    loss, gradients = train_once(network, x)
    monkeypatch.setattr("darkir.blocks.splits_pairs", lambda device: True)
    loss_split, gradients_split = train_once(twin, x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(loss_split, loss, atol=1e-6, rtol=1e-6)
    for name, gradient in gradients.items():
        assert relative(gradients_split[name] - gradient, gradient) < 1e-4, name


@pytest.mark.long
def test_compiles_as_one_graph_with_equal_numbers():
    network, twin = make(), make()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = torch.rand(2, 3, 24, 31)
    loss, gradients = train_once(network, x)
    compiled_loss, compiled_gradients = train_once(compiled, x)
    torch.testing.assert_close(compiled_loss, loss, atol=1e-6, rtol=1e-6)
    for name, gradient in gradients.items():
        assert relative(compiled_gradients[f"_orig_mod.{name}"] - gradient, gradient) < 1e-5, name


@pytest.mark.parametrize(
    "values",
    [
        {"width": 0},
        {"enc_blocks": (1, 2)},
        {"enc_blocks": (), "dec_blocks": ()},
        {"middle_enc_blocks": -1},
        {"dilations": ()},
        {"dilations": (0,)},
    ],
)
def test_impossible_shapes_are_refused(values):
    with pytest.raises(ModelError, match=next(iter(values))):
        NetworkConfig(**values)


def test_config_takes_lists_and_stays_hashable():
    config = NetworkConfig(enc_blocks=[1, 2, 3], dec_blocks=[3, 1, 1], dilations=[1, 4, 9])
    assert config == NetworkConfig()
    assert hash(config) == hash(NetworkConfig())


def test_importing_the_package_is_light_and_names_are_found():
    code = (
        "import sys, darkir; assert 'torch' not in sys.modules; assert 'load_network' in dir(darkir)\n"
        "from darkir import DarkIR, NetworkConfig, load_network\n"
        "assert not hasattr(darkir, 'Nothing')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
