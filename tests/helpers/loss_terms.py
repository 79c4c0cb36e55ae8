"""One loss term on small images: how tests make the images, the term and its VGG19."""

import pytest
import torch

from losses.config import TERMS, LossConfig
from losses.objective import Objective
from losses.perceptual import CONVOLUTIONS
from tests.helpers.small_vgg import write_small_random_vgg

NOTHING = dict.fromkeys((f"lambda_{term}" for term in TERMS), 0.0)
LAYER_SUM = 1 / 32 + 1 / 16 + 1 / 8 + 1 / 4 + 1  # of the weights of VGG19's layers


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    return write_small_random_vgg(tmp_path_factory.mktemp("vgg") / "vgg19_random_small.pt")


@pytest.fixture
def identity_vgg_file(tmp_path):
    """Three channels, every convolution passes its input on: features are the positive part of the normalised image."""
    weight = torch.zeros(3, 3, 3, 3)
    weight[range(3), range(3), 1, 1] = 1.0
    content = {}
    for index in CONVOLUTIONS:
        content |= {f"features.{index}.weight": weight, f"features.{index}.bias": torch.zeros(3)}
    torch.save(content, tmp_path / "vgg19_identity.pt")
    return tmp_path / "vgg19_identity.pt"


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def only(term, vgg=None, weight=1.0):
    return Objective(LossConfig(**{**NOTHING, f"lambda_{term}": weight}, vgg_weights=vgg and str(vgg)), "cpu")


def constant(value, size=16, batch=2):
    return torch.full((batch, 3, size, size), float(value))


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def relative(difference_of, exact):
    """2-norm of the difference over the 2-norm of `exact`; 0 when both are 0."""
    return ((difference_of - exact).norm() / exact.norm().clamp(min=1e-30)).item()


def value_of(term, restored, target, side=None, **options):
    terms = only(term, **options)(restored, side, target)
    assert list(terms) == [term]
    return terms[term].item()
