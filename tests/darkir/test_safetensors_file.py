"""A .safetensors file of ours: read back as a checkpoint is, and refused when it was changed since it was written."""

import json

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from darkir import DarkIR, NetworkConfig, load_network
from darkir.checkpoint_file import to_bytes
from darkir.errors import ModelError
from darkir.weights import read_weights

CONFIG = NetworkConfig(
    width=4, enc_blocks=(1,), middle_enc_blocks=0, middle_dec_blocks=1, dec_blocks=(1,), dilations=(1, 6)
)
META = {
    "network": {"width": 4, "dilations": [1, 6]},
    "data": {"own": ["b", "a"], "earlier": ["c"], "known": True, "sources": []},
    "config": {"data": {"resolution": 48, "fit": "crop"}},
    "metrics": {"psnr": 20.5},
    "epoch": 3,
    "created_with": {"argv": []},
}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return DarkIR(CONFIG)


@pytest.fixture
def written(network, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(to_bytes(network.state_dict(), META, {"arch": "darkir"}))
    return path


def changed(path, tensors=None, **entries):
    """Write the file anew with other tensors or metadata; an entry of None is left out."""
    with safe_open(path, framework="pt") as file:
        metadata = {name: value for name, value in {**file.metadata(), **entries}.items() if value is not None}
    safetensors.torch.save_file(tensors or safetensors.torch.load_file(path), path, metadata)


def test_it_is_read_back_as_a_checkpoint_is(network, written):
    weights = read_weights(written)
    assert weights.meta == META and weights.config == CONFIG
    loaded = load_network(written)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


def test_other_programs_read_it(network, written):
    tensors = safetensors.torch.load_file(written)
    assert tensors.keys() == network.state_dict().keys()
    with safe_open(written, framework="pt") as file:
        assert file.metadata()["arch"] == "darkir" and json.loads(file.metadata()["network"]) == META["network"]


def test_the_same_content_gives_the_same_bytes(network, written):
    strided = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in network.state_dict().items()
    }
    assert to_bytes(strided, META, {"arch": "darkir"}) == written.read_bytes()


def test_metadata_of_others_are_no_facts(network, tmp_path):
    safetensors.torch.save_file(
        DarkIR(NetworkConfig(width=4)).state_dict(), tmp_path / "o.safetensors", {"data": "{}", "format": "pt"}
    )
    assert read_weights(tmp_path / "o.safetensors").meta == {}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"darkir_schema": "3"}, "darkir_schema 3; this toolkit reads 1 and 2"),
        ({"data": '{"own": [], "earlier": [], "known": true, "sources": []}'}, "the list of photos seen changed"),
        ({"data": "{"}, "broken metadata"),
        ({"data": '{"own": [1], "earlier": []}'}, "broken metadata"),
        ({"data": "[]"}, "broken metadata"),
        ({"config": "[" * 100_000}, "broken metadata"),
        ({"metrics": '{"psnr": NaN}'}, "broken metadata.*NaN"),
        ({"epoch": None}, "broken metadata.*epoch"),
        ({"params_sha256": None}, "broken metadata.*params_sha256"),
        ({"meta_sha256": None}, "broken metadata.*meta_sha256"),
        ({"network": '{"width":4,"dilations":[1,5]}'}, "an entry of network, .* changed since the export"),
        ({"network": "[]"}, "an entry of network, .* changed since the export"),
        ({"config": '{"data":{"resolution":896,"fit":"crop"}}'}, "an entry of network, .* changed since the export"),
    ],
)
def test_changed_metadata_are_refused(written, entries, reason):
    changed(written, **entries)
    with pytest.raises(ModelError, match=rf"m\.safetensors: .*{reason}"):
        load_network(written)


def test_changed_tensors_are_refused(written):
    content = bytearray(written.read_bytes())
    content[-1] ^= 1
    written.write_bytes(content)
    assert safetensors.torch.load_file(written), "safetensors alone does not notice"
    with pytest.raises(ModelError, match=r"m\.safetensors: the tensors changed since the export"):
        read_weights(written)


def test_a_torn_file_is_refused(written):
    written.write_bytes(written.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"m\.safetensors: damaged"):
        read_weights(written)
