"""The weighted objective: no requested term is dropped, none is built for nothing, what cannot be is refused."""

import math

import pytest
import torch

from common.errors import InputError
from losses.config import TERMS, LossConfig
from losses.objective import Objective
from tests.helpers.loss_terms import NOTHING, constant, noise, only, value_of


def test_every_requested_term_is_there_and_weighted(vgg_file):
    weights = dict(zip(TERMS, (1.0, 0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
    config = LossConfig(**{f"lambda_{term}": weight for term, weight in weights.items()}, vgg_weights=str(vgg_file))
    restored, target, side = noise(1, 3, 128, 128, seed=1), noise(1, 3, 128, 128, seed=2), noise(1, 3, 16, 16, seed=3)
    objective = Objective(config, "cpu")
    terms = objective(restored, side, target)
    assert list(terms) == list(TERMS) == ["l1", "vgg", "ssim", "edge", "freq", "side"]
    for term, weighted in terms.items():
        assert weighted.dtype == torch.float32 and weighted.ndim == 0
        alone = value_of(term, restored, target, side, vgg=vgg_file)
        assert alone > 0 and weighted.item() == pytest.approx(weights[term] * alone, rel=1e-5)
    assert objective.describe()[0] == "Loss: 1 l1 + 0.1 vgg + 0.2 ssim + 0.3 edge + 0.4 freq + 0.5 side"


def test_weight_zero_builds_and_computes_nothing(empty_hub):
    objective = only("l1")
    assert not list(objective.children()) and not objective.needs_side and len(objective.describe()) == 1
    # 4 x 4 is too small for SSIM and VGG19, so neither can have run.
    assert list(objective(constant(1, size=4), None, constant(0, size=4))) == ["l1"]


def test_defaults_are_the_documented_ones():
    assert LossConfig().active() == {"l1": 1.0, "vgg": 0.1, "ssim": 0.1}


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("term", TERMS)
def test_bad_weight_names_its_flag(term, weight):
    with pytest.raises(ValueError, match=f"--lambda_{term} "):
        LossConfig(**{f"lambda_{term}": weight})


def test_all_weights_zero_is_refused():
    with pytest.raises(ValueError, match="--lambda_l1, .*--lambda_side"):
        LossConfig(**NOTHING)


@pytest.mark.parametrize(("term", "size"), [("ssim", 10), ("vgg", 15)])
def test_too_small_images_name_flag_and_remedy(term, size, vgg_file):
    objective = only(term, vgg=vgg_file)
    with pytest.raises(
        InputError, match=rf"--lambda_{term}: the images are {size} x {size}, .* --resolution {size + 1}"
    ):
        objective(constant(0, size), None, constant(0, size))
    objective(constant(0, size + 1), None, constant(0, size + 1))


def test_too_small_side_output_names_flag_and_remedy(vgg_file):
    with pytest.raises(InputError, match="--lambda_side: the side output is 15 x 15.* --resolution 128"):
        only("side", vgg=vgg_file)(constant(0, 120), constant(0, 15), constant(0, 120))


def test_missing_side_output_and_unequal_shapes_are_refused(vgg_file):
    with pytest.raises(InputError, match="--lambda_side"):
        only("side", vgg=vgg_file)(constant(0, 128), None, constant(0, 128))
    with pytest.raises(InputError, match="differ in shape"):
        only("l1")(constant(0, 16, batch=1), None, constant(0, 16, batch=2))
