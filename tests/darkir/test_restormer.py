"""Restormer as a network: the published names and numbers, any size, hard images, and recomputed activations."""

import copy

import numpy as np
import pytest
import torch

from darkir import DarkIR, NetworkConfig
from darkir.architectures import RestormerConfig
from darkir.blocks import recompute_activations
from darkir.errors import ModelError
from darkir.restormer import Restormer, cosine_similarity
from tests.helpers.paths import PARITY

TINY = RestormerConfig(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, heads=(1, 2, 2, 4))
NORMS = ("WithBias", "BiasFree")


def make(layer_norm: str = "WithBias") -> Restormer:
    torch.manual_seed(0)
    return Restormer(RestormerConfig(**{**vars(TINY), "layer_norm": layer_norm}))


def gradients(network: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    (network(x) - 0.4).abs().mean().backward()
    return {
        name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None
    }


def most_saved_bytes(network: torch.nn.Module, x: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for the gradient, each storage once, without the weights themselves."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


@pytest.mark.parametrize("layer_norm", NORMS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_loss_and_gradients_equal_the_published_network(layer_norm, memory_format):
    path = PARITY / f"restormer_tiny_{layer_norm.lower()}"
    with np.load(path.with_name(f"{path.name}_io.npz")) as stored:
        published = {name: torch.from_numpy(stored[name]) for name in stored.files}
    network = make(layer_norm)
    network.load_state_dict(torch.load(path.with_suffix(".pt"), weights_only=True)["params"])
    network = network.to(memory_format=memory_format)
    restored = network(published["input"])
    torch.testing.assert_close(restored, published["output"], atol=1e-5, rtol=0)
    loss = (restored - published["target"]).abs().mean()
    torch.testing.assert_close(loss.detach(), published["loss"], atol=1e-6, rtol=0)
    loss.backward()
    expected = {name.removeprefix("grad/"): value for name, value in published.items() if name.startswith("grad/")}
    assert expected.keys() == dict(network.named_parameters()).keys()
    for name, parameter in network.named_parameters():
        assert (parameter.grad - expected[name]).norm() < 1e-4 * expected[name].norm(), name


def test_names_shapes_and_count_are_the_published_ones():
    with torch.device("meta"):
        state = Restormer().state_dict()
    lines = [f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()]
    assert lines == (PARITY / "restormer_keys.txt").read_text(encoding="utf-8").splitlines()
    assert sum(tensor.numel() for tensor in state.values()) == 26_126_644


@pytest.mark.parametrize("size", [(52, 75), (8, 8), (1, 1), (7, 9)])
def test_any_size_is_padded_with_zeros_and_cropped(size):
    network, x = make(), torch.rand(1, 3, *size)
    restored = network(x)
    assert restored.shape == x.shape
    height, width = (-(-side // 8) * 8 for side in size)
    padded = torch.zeros(1, 3, height, width)
    padded[..., : size[0], : size[1]] = x
    assert torch.equal(restored, network(padded)[..., : size[0], : size[1]])


HARD = {
    "black": torch.zeros(1, 3, 16, 16),
    "white": torch.ones(1, 3, 16, 16),
    "gray": torch.full((1, 3, 16, 16), 0.5),
    "black half": torch.cat([torch.zeros(1, 3, 16, 8), torch.rand(1, 3, 16, 8)], dim=3),
}


@pytest.mark.parametrize("layer_norm", NORMS)
@pytest.mark.parametrize("image", HARD)
@pytest.mark.parametrize("bf16", [False, True])
def test_hard_images_train_with_finite_numbers(layer_norm, image, bf16):
    network = make(layer_norm)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        found = gradients(network, HARD[image])
    assert len(found) == len(list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_float16_features_of_a_large_photo_do_not_overflow():
    q, k = (torch.full((1, 2, 400 * 400), 2.0, dtype=torch.float16) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.float16):
        cosines = cosine_similarity(q, k)
    assert cosines.dtype == torch.float32
    torch.testing.assert_close(cosines, torch.ones(1, 2, 2))


@pytest.mark.parametrize("layer_norm", NORMS)
def test_float64_stays_float64(layer_norm):
    network, x = make(layer_norm).double(), torch.rand(1, 3, 16, 24, dtype=torch.float64)
    expected = make(layer_norm)(x.float())
    assert network(x).dtype == torch.float64
    torch.testing.assert_close(network(x).float(), expected, atol=1e-5, rtol=0)
    norm, features = network.latent[0].norm1, torch.randn(1, 64, 3, 5, dtype=torch.float64)
    centred = features - features.mean(dim=1, keepdim=True)
    deviation = (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    by_hand = (centred if layer_norm == "WithBias" else features) / deviation
    torch.testing.assert_close(norm(features), by_hand, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_blocks": (1, 1, 1)},
        {"heads": (1, 2, 4)},
        {"num_blocks": (0, 1, 1, 1)},
        {"num_refinement_blocks": 0},
        {"dim": 7},
        {"heads": (3, 2, 2, 4)},
        {"ffn_expansion": 0.5},
        {"ffn_expansion": float("nan")},
        {"layer_norm": "none"},
    ],
)
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(ModelError):
        RestormerConfig(**{**vars(TINY), **wrong})


ARCHITECTURES = {
    "darkir": lambda: DarkIR(NetworkConfig(width=8)),
    "restormer": make,
    "restormer BiasFree": lambda: make("BiasFree"),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("bf16", [False, True])
def test_recomputed_activations_change_no_bit_and_save_memory(architecture, bf16):
    torch.manual_seed(0)
    network = ARCHITECTURES[architecture]()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter += 0.1 * torch.randn_like(parameter)
    lean = copy.deepcopy(network)
    recompute_activations(lean)
    x = torch.rand(2, 3, 32, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        assert torch.equal(network(x), lean(x))
        expected, found = gradients(network, x), gradients(lean, x)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert most_saved_bytes(lean, x) < 0.5 * most_saved_bytes(network, x)
    with torch.inference_mode():
        assert torch.equal(network(x), lean(x))


def test_a_copy_of_a_network_keeps_recomputing():
    network = make()
    recompute_activations(network)
    x = torch.rand(1, 3, 16, 16)
    assert most_saved_bytes(copy.deepcopy(network), x) == most_saved_bytes(network, x) < most_saved_bytes(make(), x)
