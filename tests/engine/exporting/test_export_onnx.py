"""export_model.py --onnx: onnxruntime gives what PyTorch gives, or no file is left."""

import re
import sys

import pytest
import torch
from torch.torch_version import TorchVersion

import export_model
from common.errors import RunFailed
from common.options import plain
from darkir import NetworkConfig, RestormerConfig, load_network
from darkir.architectures import description
from darkir.ensemble import Ensemble
from darkir.weights import make_network
from engine.exporting import onnx_export
from tests.darkir.test_network import active
from tests.helpers.exits import refusal
from tests.helpers.export_runs import argv_of, change, export

ONE_BLOCK = NetworkConfig(width=4, enc_blocks=(1,), middle_enc_blocks=0, middle_dec_blocks=0, dec_blocks=(0,))
TWO_BLOCKS = NetworkConfig(width=4, enc_blocks=(1,), middle_enc_blocks=0, middle_dec_blocks=1, dec_blocks=(0,))
FEW_BLOCKS = RestormerConfig(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, heads=(1, 2, 2, 4))
old_torch = pytest.mark.skipif(onnx_export.exporter_is_old(), reason="this torch is too old for --onnx, which says so")


@old_torch
@pytest.mark.long
def test_onnx_gives_the_same_output_at_odd_sizes(own_run, two_folds, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    for fold in ("fold_1", "fold_2"):  # torch's exporter takes seconds a block
        network = active(make_network(TWO_BLOCKS))
        described = {"params": network.state_dict(), "network": plain(description(TWO_BLOCKS))}
        change(own_run / fold / "checkpoint_best.pt", **described)
    assert export(own_run, two_folds, tmp_path / "m.safetensors", "--onnx", tmp_path / "m.onnx") == 0
    network = load_network(tmp_path / "m.safetensors")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for size in ((1, 3, 301, 200), (2, 3, 33, 47)):
        photo = torch.rand(size)
        (output,) = session.run(["restored"], {"src": photo.numpy()})
        with torch.inference_mode():
            assert (network(photo) - torch.from_numpy(output)).abs().max() < 1e-4
    assert "opset 18" in (tmp_path / "m.md").read_text(encoding="utf-8")


@old_torch
@pytest.mark.parametrize(
    "configs",
    [
        pytest.param([ONE_BLOCK], id="darkir", marks=pytest.mark.long),  # below, in short
        pytest.param([ONE_BLOCK, ONE_BLOCK], id="an ensemble of darkir", marks=pytest.mark.long),
        pytest.param([FEW_BLOCKS], id="restormer", marks=pytest.mark.long),
    ],
)
def test_onnx_of_each_architecture_gives_the_same_output(tmp_path, configs):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    networks = {f"fold_{number}": active(make_network(config)).eval() for number, config in enumerate(configs)}
    whole = Ensemble(networks) if len(networks) > 1 else networks["fold_0"]
    assert onnx_export.write_onnx(whole, tmp_path / "m.onnx") < 1e-5


@old_torch
def test_onnx_that_differs_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(RunFailed, match="onnxruntime differs by .* nothing is written") as failure:
        onnx_export.write_onnx(active(make_network(ONE_BLOCK)).eval(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    assert float(re.search(r"differs by (\S+)", str(failure.value))[1]) < 1e-5, "one network is proved here"


@old_torch
def test_onnx_without_its_packages_is_refused_at_the_start(finished_run, two_folds, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    flags = ["--onnx", tmp_path / "m.onnx"]
    message = refusal(capsys, export_model.main, *argv_of(finished_run, two_folds, tmp_path / "m.safetensors", *flags))
    assert "--onnx" in message and "onnxruntime" in message and not list(tmp_path.iterdir())


def test_onnx_says_which_torch_it_needs(finished_run, two_folds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.0+cu124"))
    flags = ["--onnx", tmp_path / "m.onnx"]
    message = refusal(capsys, export_model.main, *argv_of(finished_run, two_folds, tmp_path / "m.safetensors", *flags))
    assert "--onnx needs torch 2.11 or newer" in message and "2.6.0+cu124" in message and not list(tmp_path.iterdir())
