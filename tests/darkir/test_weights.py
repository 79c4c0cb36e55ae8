"""Checkpoint files -> networks: every known wrapper loads, all else is refused with the file's name and what to do."""

import io
import random
import zipfile
from collections import OrderedDict

import pytest
import safetensors.torch
import torch

from darkir import DarkIR, NetworkConfig, load_network
from darkir.checkpoint_file import read_checkpoint
from darkir.errors import ModelError
from darkir.weights import load_into, read_weights
from tests.helpers import hostile
from tests.helpers.malicious import Malicious, saved

CONFIG = NetworkConfig(width=4, enc_blocks=(1, 2), middle_enc_blocks=2, middle_dec_blocks=1, dec_blocks=(2, 1))


@pytest.fixture
def network() -> DarkIR:
    torch.manual_seed(0)
    return DarkIR(CONFIG)


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def assert_same(loaded: DarkIR, network: DarkIR) -> None:
    assert loaded.config == network.config
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


WRAPPED = {
    "params": lambda state: {"params": state},
    "params_ema": lambda state: {"params_ema": state, "params": {name: tensor + 1 for name, tensor in state.items()}},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"state": {}, "param_groups": []}},
    "bare": lambda state: state,
    "distributed": lambda state: {"params": prefixed(state, "module.")},
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "both": lambda state: {"state_dict": prefixed(state, "module._orig_mod.")},
    "ordered": lambda state: OrderedDict(params=OrderedDict(state)),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("zip_format", [True, False])
def test_every_wrapper_loads(tmp_path, network, wrapper, zip_format):
    torch.save(WRAPPED[wrapper](network.state_dict()), tmp_path / "w.pt", _use_new_zipfile_serialization=zip_format)
    assert_same(load_network(tmp_path / "w.pt"), network)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_load(tmp_path, network, prefix):
    safetensors.torch.save_file(prefixed(network.state_dict(), prefix), tmp_path / "w.safetensors")
    assert_same(load_network(tmp_path / "w.safetensors"), network)


def test_half_precision_weights_become_float32(tmp_path, network):
    torch.save({"params": {name: t.half() for name, t in network.state_dict().items()}}, tmp_path / "half.pt")
    assert {parameter.dtype for parameter in load_network(tmp_path / "half.pt").parameters()} == {torch.float32}


def test_meta_is_everything_but_the_weights(tmp_path, network):
    facts = {"network": {"dilations": [1, 4, 9]}, "metrics": {"psnr": 20.5}, "schema_version": 1}
    torch.save({"params": network.state_dict(), **facts}, tmp_path / "best.pt")
    assert read_weights(tmp_path / "best.pt").meta == facts


def test_a_training_state_is_read_whole(tmp_path, network):
    optimizer = torch.optim.AdamW(network.parameters())
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimizer.step()
    state = {
        "params": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "step": 1,
    }
    torch.save(state, tmp_path / "last.pt")
    content = read_checkpoint(tmp_path / "last.pt")
    assert content.keys() == state.keys()
    assert content["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert torch.equal(content["rng"], state["rng"])


def test_dilations_come_from_the_description_or_must_be_named(tmp_path):
    network = DarkIR(NetworkConfig(width=4, enc_blocks=(1,), dec_blocks=(1,), middle_dec_blocks=0, dilations=(1, 6)))
    described = {"params": network.state_dict(), "network": {"dilations": [1, 6]}}
    torch.save(described, tmp_path / "described.pt")
    assert load_network(tmp_path / "described.pt").config == network.config
    torch.save(network.state_dict(), tmp_path / "bare.pt")
    with pytest.raises(ModelError, match=r"bare.pt: 2 branches a block.*dilations"):
        load_network(tmp_path / "bare.pt")


def test_a_full_match_is_reported(network):
    other = DarkIR(CONFIG)
    count = len(network.state_dict())
    assert load_into(other, network.state_dict(), "w.pt") == f"{count} of {count} tensors"
    assert torch.equal(other.intro.weight, network.intro.weight)


def test_missing_and_unexpected_tensors_are_named(network):
    params = dict(network.state_dict())
    dropped = [name for name in params if name.startswith("encoders.1.modules_list.0")]
    for name in dropped:
        del params[name]
    params["extra.weight"] = torch.zeros(1)
    other = DarkIR(CONFIG)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ModelError) as refusal:
        load_into(other, params, "w.pt")
    message = str(refusal.value)
    assert f"w.pt: {len(before) - len(dropped)} of {len(before)} tensors" in message
    assert f"missing {len(dropped)}: {', '.join(dropped[:5])} and {len(dropped) - 5} more" in message
    assert "unexpected 1: extra.weight" in message
    assert "--allow_partial" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())

    report = load_into(other, params, "w.pt", allow_partial=True)
    assert f"missing {len(dropped)}" in report
    assert "unexpected 1: extra.weight" in report
    assert torch.equal(other.intro.weight, network.intro.weight)
    assert torch.equal(other.state_dict()[dropped[0]], before[dropped[0]])


@pytest.mark.parametrize("allow_partial", [False, True])
def test_no_match_at_all_is_always_an_error(network, allow_partial):
    with pytest.raises(ModelError, match=rf"0 of {len(network.state_dict())} tensors"):
        load_into(network, {"conv.weight": torch.zeros(3)}, "w.pt", allow_partial)


@pytest.mark.parametrize("allow_partial", [False, True])
def test_another_size_is_always_an_error_that_names_both(allow_partial):
    with torch.device("meta"):
        large, medium = DarkIR(NetworkConfig(width=64)), DarkIR(NetworkConfig(width=32))
    with pytest.raises(ModelError) as refusal:
        load_into(medium, large.state_dict(), "l.pt", allow_partial)
    assert "width 64 (--model_size l)" in str(refusal.value)
    assert "width 32 (--model_size m)" in str(refusal.value)


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path, zip_format):
    proof = tmp_path / "ran"
    (tmp_path / "evil.pt").write_bytes(
        saved({"params": Malicious(proof, random.Random(1))}, "zip" if zip_format else "legacy")
    )
    with pytest.raises(ModelError, match=r"evil.pt: refused.*run code"):
        read_weights(tmp_path / "evil.pt")
    assert not proof.exists()


def test_a_plain_pickle_that_would_run_code_is_refused_unrun(tmp_path):
    proof = tmp_path / "ran"
    (tmp_path / "evil.pth").write_bytes(saved({"params": Malicious(proof, random.Random(1))}, "raw"))
    with pytest.raises(ModelError, match="evil.pth"):
        read_weights(tmp_path / "evil.pth")
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"<html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xff\xd8\xff\xe0 a photo", "expected a .pt"),
        (b"PK\x03\x04 torn at the start", "torn or damaged"),
        (b"\x80\x02}q\x00(X", "not a readable checkpoint"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{not json", "safetensors"),
    ],
)
def test_what_is_not_a_checkpoint_is_named(tmp_path, content, reason):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ModelError, match=rf"w\.pt: .*{reason}"):
        read_weights(tmp_path / "w.pt")


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(ModelError, match="not a file; name the checkpoint"):
        read_weights(tmp_path)
    with pytest.raises(ModelError, match=r"gone\.pt: no such file"):
        read_weights(tmp_path / "gone.pt")


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.999])
def test_a_torn_file_is_refused(tmp_path, network, keep):
    torch.save({"params": network.state_dict()}, tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ModelError, match=r"w\.pt: torn or damaged"):
        read_checkpoint(tmp_path / "w.pt")


def test_one_flipped_bit_in_a_tensor_is_found(tmp_path, network):
    torch.save({"params": network.state_dict()}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    place = content.find(network.intro.weight.detach().numpy().tobytes())
    assert place > 0
    content[place] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    assert torch.load(tmp_path / "w.pt", weights_only=True), "torch alone does not notice"
    with pytest.raises(ModelError, match=r"w\.pt: damaged at .*checksum"):
        read_checkpoint(tmp_path / "w.pt")


def test_an_entry_marked_as_a_folder_is_found(tmp_path):
    torch.save({"params": {"a": torch.ones(3)}}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.start_dir
    content[start + 38] |= 0x10  # external attributes of the first directory entry
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"w\.pt: damaged"):
        read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, network, value):
    state = network.state_dict()
    state["ending.bias"][1] = value
    torch.save({"params": state}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: 1 of \d+ tensors hold NaN or Infinity: ending\.bias"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(2)], "holds a list"),
        ({"params": {}}, "no weights found"),
        ({"epoch": 3, "optimizer": {}}, "no weights found.*epoch, optimizer"),
        ({"params": {"intro.weight": 3.0}}, "no weights found"),
        ({"params": {"a": torch.eye(2).to_sparse()}}, "no weights found"),
        ({"params": {"a": torch.zeros(1), "module.a": torch.ones(1)}}, "twice"),
        ({"params": {"conv.weight": torch.zeros(3)}}, "not the weights of a whole DarkIR"),
    ],
)
def test_files_without_usable_weights_are_named(tmp_path, content, reason):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=rf"w\.pt: .*{reason}"):
        load_network(tmp_path / "w.pt")


def described(network: DarkIR) -> dict:
    """What this toolkit's own files hold, as far as reading looks at it."""
    data = {"own": [], "earlier": [], "known": True, "sources": []}
    return {
        "params": network.state_dict(),
        "network": {"dilations": [1, 4, 9]},
        "config": {},
        "data": data,
        "created_with": {},
    }


@pytest.mark.parametrize("kind", hostile.REFUSED)
def test_what_claims_more_than_a_file_holds_is_refused_in_no_time(tmp_path, network, kind):
    torch.save(hostile.REFUSED[kind](described(network)), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: "):
        load_network(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", hostile.ACCEPTED)
def test_odd_records_beside_sound_weights_do_no_harm(tmp_path, network, kind):
    torch.save(hostile.ACCEPTED[kind](described(network)), tmp_path / "w.pt")
    assert_same(load_network(tmp_path / "w.pt"), network)


@pytest.mark.parametrize("value", [129, 10**9, 10**30])
def test_dilations_that_no_memory_holds_are_refused(tmp_path, network, value):
    torch.save(hostile.with_dilation(described(network), value), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: .*at most 128"):
        load_network(tmp_path / "w.pt")


def test_a_zip_file_that_unpacks_to_a_terabyte_is_refused_before_it_is_unpacked(tmp_path):
    (tmp_path / "w.pt").write_bytes(hostile.zip_bomb())
    with pytest.raises(ModelError, match=r"w\.pt: .*1,024 GiB"):
        read_checkpoint(tmp_path / "w.pt")
