"""VGG19 weights files: where they come from, and what is refused."""

import math

import pytest
import torch

from common.errors import InputError
from losses import perceptual
from losses.perceptual import TORCHVISION_FILE, read_vgg_weights
from tests.helpers.loss_terms import only


@pytest.mark.parametrize("term", ["vgg", "side"])
def test_missing_weights_end_the_run_and_say_what_to_do(term, empty_hub):
    with pytest.raises(InputError) as refusal:
        only(term)
    for part in (str(empty_hub / TORCHVISION_FILE), "torchvision.models.vgg19", "--vgg_weights", "--lambda_vgg 0"):
        assert part in str(refusal.value)


def broken_files(tmp_path, vgg_file):
    good = torch.load(vgg_file, weights_only=True)
    torch.save({name: tensor for name, tensor in good.items() if "features.12" not in name}, tmp_path / "misses.pt")
    torch.save({**good, "features.7.weight": torch.zeros(4, 5, 3, 3)}, tmp_path / "shape.pt")
    torch.save({**good, "features.7.bias": torch.full((4,), math.nan)}, tmp_path / "nan.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "other.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("version https://git-lfs.example/spec/v1\n", encoding="utf-8")
    (tmp_path / "torn.pt").write_bytes(vgg_file.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.pt", "--vgg_weights .*absent.pt: no such file"),
        ("misses.pt", "features.12.weight or .bias is missing"),
        ("shape.pt", r"features.7 has shapes \(4, 5, 3, 3\) and \(4,\)"),
        ("nan.pt", "features.7 holds numbers that are not finite"),
        ("list.pt", "holds a list"),
        ("other.pt", "does not hold VGG19: features.0"),
        *((f"{name}.pt", f"{name}.pt is not a file of weights") for name in ("empty", "text", "torn")),
    ],
)
def test_unusable_file_is_named_with_the_reason(name, reason, tmp_path, vgg_file):
    broken_files(tmp_path, vgg_file)
    with pytest.raises(InputError, match=reason) as refusal:
        only("vgg", vgg=tmp_path / name)
    assert name in str(refusal.value) and "--vgg_weights" in str(refusal.value)


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (self.marker.touch, ())


def test_pickle_that_runs_code_is_refused(tmp_path):
    torch.save({"features.0.weight": RunsCode(tmp_path / "marker")}, tmp_path / "code.pt")
    with pytest.raises(InputError, match="code.pt is not a file of weights"):
        only("vgg", vgg=tmp_path / "code.pt")
    assert not (tmp_path / "marker").exists()


def test_file_under_torchvisions_name_must_have_its_hash(empty_hub, vgg_file):
    (empty_hub / TORCHVISION_FILE).write_bytes(vgg_file.read_bytes())
    with pytest.raises(InputError, match="is damaged: its sha256 starts with"):
        only("vgg")
    with pytest.raises(InputError, match="is damaged"):
        only("vgg", vgg=empty_hub / TORCHVISION_FILE)


def test_hub_cache_is_used_and_named(empty_hub, vgg_file, monkeypatch):
    (empty_hub / TORCHVISION_FILE).write_bytes(vgg_file.read_bytes())
    prefix = read_vgg_weights(str(vgg_file)).sha256[:8]
    monkeypatch.setattr(perceptual, "TORCHVISION_SHA256_PREFIX", prefix)
    line = only("vgg").describe()[1]
    assert str(empty_hub / TORCHVISION_FILE) in line and "torchvision's" in line and prefix in line


def test_log_says_when_the_file_is_not_torchvisions(vgg_file):
    assert "not torchvision's file, up to 4 channels" in only("vgg", vgg=vgg_file).describe()[1]
