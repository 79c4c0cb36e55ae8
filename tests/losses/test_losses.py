"""Loss terms against values computed by hand and published code; their gradients and precision."""

import numpy as np
import pytest
import pytorch_msssim
import torch

from data.dataset import planes
from data.images import decode
from losses.config import TERMS
from losses.edge import KERNEL, laplacian
from losses.perceptual import IMAGENET_STD
from losses.side import resize_to
from losses.ssim import TAPS, ssim_per_image
from tests.helpers.loss_terms import LAYER_SUM, constant, noise, only, relative, value_of
from tests.helpers.paths import ROOT

SAMPLE = ROOT / "data" / "sample" / "images"


def sample_images(height, width):
    """The upper left corner of a real pair."""
    files = (SAMPLE / "city_00_src.jpg", SAMPLE / "city_00_tar.jpg")
    return tuple((planes(decode(file))[None] / 255)[..., :height, :width] for file in files)


def test_l1_of_constants():
    assert value_of("l1", constant(0.75), constant(0.25)) == pytest.approx(0.5)
    assert value_of("l1", constant(-0.5), constant(1.0)) == pytest.approx(1.5)  # not clamped


def test_ssim_of_constants():
    a, b, c1 = 0.8, 0.4, 0.01**2
    expected = 1 - (2 * a * b + c1) / (a * a + b * b + c1)
    assert value_of("ssim", constant(a), constant(b)) == pytest.approx(expected, abs=1e-5)
    assert value_of("ssim", noise(1, 3, 16, 16), noise(1, 3, 16, 16)) == pytest.approx(0, abs=1e-6)


def test_ssim_window_has_every_bit_of_pytorch_msssims():
    window = pytorch_msssim.SSIM(win_size=11, win_sigma=1.5, channel=1).win.flatten()
    assert torch.equal(torch.tensor(TAPS), window)


SSIM_IMAGES = {
    "natural": sample_images(96, 131),
    "odd and small": sample_images(11, 13),
    "noise": (noise(2, 3, 64, 75), noise(2, 3, 64, 75, seed=1)),
    "black": (torch.zeros(1, 3, 33, 32), torch.zeros(1, 3, 33, 32)),
    "black against noise": (torch.zeros(1, 3, 33, 32), noise(1, 3, 33, 32)),
    "constant": (constant(0.3, 33), constant(0.5, 33)),
    "bright constant": (constant(0.91, 33), constant(0.97, 33)),
    "over-exposed": (constant(1.6, 33), constant(1.0, 33)),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", SSIM_IMAGES)
def test_ssim_is_pytorch_msssims(name, layout):
    def value_and_gradient(ssim, dtype):
        x = restored.to(dtype).requires_grad_()
        values = ssim(x, target.to(dtype))
        return values.detach(), torch.autograd.grad(values.sum(), x)[0]

    def published(x, y):
        window = torch.exp(-((torch.arange(11) - 5).to(x) ** 2) / (2 * 1.5**2))
        window = (window / window.sum()).expand(3, 1, 1, 11)
        return pytorch_msssim.ssim(x, y, data_range=1.0, size_average=False, win=window)

    restored, target = (image.contiguous(memory_format=layout) for image in SSIM_IMAGES[name])
    ours, gradient = value_and_gradient(ssim_per_image, torch.float32)
    theirs, their_gradient = value_and_gradient(published, torch.float32)
    _, exact_gradient = value_and_gradient(published, torch.float64)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    # On flat images float32 itself is off by 1e-3 in E[x^2] - E[x]^2, in the library as here.
    allowed = max(1e-5, 2 * relative(their_gradient, exact_gradient))
    assert relative(gradient, exact_gradient) <= allowed


def test_frequency_of_constants_is_all_in_the_dc_bin():
    # |DC| = mean * sqrt(H W); one of H (W / 2 + 1) bins differs, by (a - b)^2 H W.
    height, width = 12, 20
    restored, target = torch.full((2, 3, height, width), 0.9), torch.full((2, 3, height, width), 0.4)
    assert value_of("freq", restored, target) == pytest.approx(0.5**2 * width / (width // 2 + 1), rel=1e-5)


def test_frequency_ignores_a_shift():
    target = noise(1, 3, 16, 16)
    assert value_of("freq", target.roll((3, 5), (2, 3)), target) == pytest.approx(0, abs=1e-10)


def published_laplacian(plane):
    """Burt and Adelson's steps on one (H, W) plane, in plain loops and float64."""

    def blur(image):
        padded = np.pad(image, 2, mode="edge")
        taps = np.outer(KERNEL, KERNEL)
        rows, columns = image.shape
        return np.array([[(padded[y : y + 5, x : x + 5] * taps).sum() for x in range(columns)] for y in range(rows)])

    sparse = np.zeros_like(plane)
    sparse[::2, ::2] = blur(plane)[::2, ::2] * 4
    return plane - blur(sparse)


def test_edge_matches_the_published_steps():
    restored, target = noise(1, 3, 9, 12, seed=1), noise(1, 3, 9, 12, seed=2)
    planes = (restored[0].double().numpy(), target[0].double().numpy())
    per_channel = [published_laplacian(a) - published_laplacian(b) for a, b in zip(*planes, strict=True)]
    assert value_of("edge", restored, target) == pytest.approx(np.square(per_channel).mean(), rel=1e-4)


def test_laplacian_of_a_constant_is_zero_inside():
    assert laplacian(constant(0.7))[..., 4:-4, 4:-4].abs().max() < 1e-6


def test_side_of_constants(identity_vgg_file):
    expected = 0.3 + 0.01 * LAYER_SUM * 0.3 * np.mean([1 / std for std in IMAGENET_STD])
    side, target = constant(0.9, size=16), constant(0.6, size=128)
    assert value_of("side", target, target, side, vgg=identity_vgg_file) == pytest.approx(expected, rel=1e-5)


def test_side_target_is_antialiased():
    stripes = torch.zeros(1, 3, 128, 128)
    stripes[..., ::8] = 1.0  # none of these columns is next to a sampling point
    small = resize_to(stripes, torch.empty(1, 3, 16, 16))
    torch.testing.assert_close(small[..., 1:-1], torch.full((1, 3, 16, 14), 1 / 8), atol=0.02, rtol=0)


SCENES = {
    "black": (constant(0, 128, 1), constant(0, 128, 1)),
    "constant": (constant(0.3, 128, 1), constant(0.5, 128, 1)),
    "saturated": (constant(1.6, 128, 1), constant(1, 128, 1)),
    "below black": (constant(-0.6, 128, 1), constant(0, 128, 1)),
    "equal": (noise(1, 3, 128, 128), noise(1, 3, 128, 128)),
    "different": (noise(1, 3, 128, 128), noise(1, 3, 128, 128, seed=1)),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("term", TERMS)
def test_gradient_is_finite(term, scene, vgg_file):
    restored, target = (image.clone() for image in SCENES[scene])
    side = restored[..., :16, :16].clone().requires_grad_()
    restored.requires_grad_()
    value = only(term, vgg=vgg_file)(restored, side, target)[term]
    value.backward()
    gradient = side.grad if term == "side" else restored.grad
    assert value.isfinite() and gradient.isfinite().all()
    if scene in ("saturated", "below black", "different"):
        assert gradient.abs().max() > 0, "values outside [0, 1] must keep their gradient"


@pytest.mark.parametrize("term", TERMS)
def test_autocast_leaves_terms_in_float32(term, vgg_file):
    restored, target, side = noise(1, 3, 128, 128, seed=1), noise(1, 3, 128, 128, seed=2), noise(1, 3, 16, 16, seed=3)
    objective = only(term, vgg=vgg_file)
    plain = objective(restored, side, target)[term]
    with torch.autocast("cpu", dtype=torch.float16):
        assert objective(restored, side, target)[term].item() == plain.item()
    restored.requires_grad_()
    side.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = objective(restored.bfloat16(), side.bfloat16(), target)[term]
    mixed.backward()
    assert mixed.dtype == torch.float32 and mixed.item() == pytest.approx(plain.item(), rel=0.02)
    assert (side if term == "side" else restored).grad.isfinite().all()
