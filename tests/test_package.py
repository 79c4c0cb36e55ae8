"""`pip install .` gives the model alone: the wheel's content, and networks loaded from it in a fresh interpreter."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import torch

import darkir
from darkir import DarkIR, NetworkConfig, load_network
from darkir.checkpoint_file import to_bytes
from tests.helpers.paths import ROOT
from tests.test_import_rules import imported_modules

CONFIG = NetworkConfig(
    width=4, enc_blocks=(1,), middle_enc_blocks=1, middle_dec_blocks=1, dec_blocks=(1,), dilations=(1, 6)
)
META = {
    "network": {"width": 4, "dilations": [1, 6]},
    "data": {"own": ["a"], "earlier": [], "known": True, "sources": []},
    "config": {},
    "metrics": {"psnr": 20.5},
    "epoch": 3,
    "created_with": {},
}
FRESH = """
import sys
sys.path += {paths}
import darkir
assert darkir.__file__.startswith({paths}[0]) and "torch" not in sys.modules
import torch
photo = torch.load("photo.pt", weights_only=True)
with torch.inference_mode():
    restored = [darkir.load_network(name)(photo) for name in {names}]
torch.save(restored, "restored.pt")
assert not {{"torchvision", "common", "losses", "data", "engine"}} & {{name.split(".")[0] for name in sys.modules}}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because setuptools writes beside the sources; with all packages, so that one too many would show."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
        elif (path / "__init__.py").exists() and path.name != "tests":
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.jpg"))
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(output)]
    ended = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (built,) = output.iterdir()
    return built


def test_the_wheel_holds_the_model_its_metadata_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (folder,) = {name.split("/")[0] for name in names if not name.startswith("darkir/")}
        facts = Parser().parsestr(archive.read(f"{folder}/METADATA").decode("utf-8"))
        assert "MIT License" in archive.read(f"{folder}/licenses/LICENSE").decode("utf-8")
    assert {name for name in names if name.startswith("darkir/")} == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "darkir").glob("*.py")
    }
    assert folder.endswith(".dist-info")
    assert facts["Version"] == darkir.__version__
    assert [re.match(r"[\w-]+", text)[0] for text in facts.get_all("Requires-Dist")] == ["torch", "safetensors"]
    assert (facts["License-Expression"], facts["Requires-Python"]) == ("MIT", ">=3.10")
    assert facts.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_networks_are_loaded_from_the_wheel_alone(wheel, tmp_path):
    torch.manual_seed(0)
    network, photo = DarkIR(CONFIG), torch.rand(1, 3, 13, 18)
    for name, parameter in network.named_parameters():
        if name.endswith(("beta", "gamma")):
            torch.nn.init.normal_(parameter, std=0.1)
    (tmp_path / "exported.safetensors").write_bytes(to_bytes(network.state_dict(), META, {}))
    torch.save({"params": network.state_dict(), **META}, tmp_path / "checkpoint.pt")
    torch.save(photo, tmp_path / "photo.pt")
    names = ["exported.safetensors", "checkpoint.pt"]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = FRESH.format(paths=[str(tmp_path / "installed"), sysconfig.get_path("purelib")], names=names)
    command = [sys.executable, "-I", "-S", "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    with torch.inference_mode():
        expected = [load_network(tmp_path / name)(photo) for name in names]
    assert not torch.equal(expected[0], photo), "the network changes nothing, so nothing is tested"
    found = torch.load(tmp_path / "restored.pt", weights_only=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("package", "allowed"), [("darkir", {"darkir", "torch", "safetensors"}), ("losses", {"losses", "common", "torch"})]
)
def test_model_and_losses_need_no_library_but_torch(package, allowed):
    for path in (ROOT / package).glob("*.py"):
        others = {name.split(".")[0] for name in imported_modules(path)} - allowed - sys.stdlib_module_names
        assert not others, f"{path}: {others}"
