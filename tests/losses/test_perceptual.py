"""The VGG19 term against torchvision's layers; what it computes in which number format, and what it keeps."""

import numpy as np
import pytest
import torch
from torchvision.models.vgg import make_layers

from losses.perceptual import IMAGENET_STD, LAYER_WEIGHTS, PerceptualLoss, read_vgg_weights
from tests.helpers.loss_terms import LAYER_SUM, constant, noise, only, relative, value_of


def test_vgg_of_constants(identity_vgg_file):
    # 0.9 and 0.6 lie above ImageNet's mean, so ReLU passes both; each layer then has |a - b| / std.
    expected = LAYER_SUM * 0.3 * np.mean([1 / std for std in IMAGENET_STD])
    assert value_of("vgg", constant(0.9), constant(0.6), vgg=identity_vgg_file) == pytest.approx(expected, rel=1e-5)


def test_vgg_is_the_weighted_l1_of_torchvisions_features(vgg_file):
    layers = make_layers([4, 4, "M", 4, 4, "M", 4, 4, 4, 4, "M", 4, 4, 4, 4, "M", 4])
    content = torch.load(vgg_file, weights_only=True)
    layers.load_state_dict({name.removeprefix("features."): tensor for name, tensor in content.items()})

    def features(image):
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        for index, layer in enumerate(layers):
            x = layer(x)
            if index - 1 in LAYER_WEIGHTS:  # the ReLU after a compared convolution
                yield x.clone()

    restored, target = noise(2, 3, 40, 33, seed=1).requires_grad_(), noise(2, 3, 40, 33, seed=2)
    pairs = zip(LAYER_WEIGHTS.values(), features(restored), features(target), strict=True)
    expected = sum(weight * (ours - theirs).abs().mean() for weight, ours, theirs in pairs)
    (wanted,) = torch.autograd.grad(expected, restored)
    value = PerceptualLoss(read_vgg_weights(str(vgg_file)))(restored, target)
    (gradient,) = torch.autograd.grad(value, restored)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert relative(gradient, wanted) < 1e-4


def test_target_features_carry_no_gradient(vgg_file):
    target = noise(1, 3, 32, 32).requires_grad_()
    restored = noise(1, 3, 32, 32, seed=1).requires_grad_()
    only("vgg", vgg=vgg_file)(restored, None, target)["vgg"].backward()
    assert target.grad is None and restored.grad.abs().max() > 0


def test_vgg_is_frozen(vgg_file):
    objective = only("vgg", vgg=vgg_file)
    assert list(objective.parameters()) and not any(parameter.requires_grad for parameter in objective.parameters())


@pytest.mark.parametrize(("asked", "got"), [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)])
def test_vgg_convolutions_follow_a_bfloat16_autocast_only(asked, got, vgg_file):
    perceptual = PerceptualLoss(read_vgg_weights(str(vgg_file)))
    dtypes = set()
    for stage in perceptual.stages:
        stage.register_forward_hook(lambda module, images, features: dtypes.add(features.dtype))
    with torch.autocast("cpu", dtype=asked):
        perceptual(noise(1, 3, 16, 16), noise(1, 3, 16, 16, seed=1))
    assert dtypes == {got}


def test_vgg_keeps_no_graph_and_no_copy_of_the_targets_features(vgg_file):
    perceptual = PerceptualLoss(read_vgg_weights(str(vgg_file)))
    maps = []
    for stage in perceptual.stages:
        stage.register_forward_hook(lambda module, images, features: maps.append(features))
    perceptual(noise(1, 3, 32, 32).requires_grad_(), noise(1, 3, 32, 32, seed=1).requires_grad_())
    assert [features.requires_grad for features in maps] == [True, False] * 5
    assert all(features.is_contiguous(memory_format=torch.channels_last) for features in maps)
