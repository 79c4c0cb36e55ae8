"""Loss terms against hand-computed values; gradients, precision, VGG19 files, and that no requested term is dropped."""

import math
from pathlib import Path

import numpy as np
import pytest
import pytorch_msssim
import torch
from torchvision.models.vgg import make_layers

from data.dataset import planes
from data.images import decode
from losses import vgg_weights
from losses.edge import KERNEL, laplacian
from losses.errors import LossError
from losses.objective import TERMS, LossConfig, Objective
from losses.perceptual import IMAGENET_STD, LAYER_WEIGHTS, PerceptualLoss
from losses.side import resize_to
from losses.ssim import ssim_per_image
from losses.vgg_weights import CONVOLUTIONS, TORCHVISION_FILE, read_vgg_weights
from tests.small_vgg import write_small_random_vgg

SAMPLE = Path(__file__).parent.parent / "data" / "sample" / "images"
NOTHING = dict.fromkeys((f"lambda_{term}" for term in TERMS), 0.0)
LAYER_SUM = 1 / 32 + 1 / 16 + 1 / 8 + 1 / 4 + 1


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


def sample_images(height, width):
    """The upper left corner of a real pair."""
    files = (SAMPLE / "city_00_src.jpg", SAMPLE / "city_00_tar.jpg")
    return tuple((planes(decode(file))[None] / 255)[..., :height, :width] for file in files)


def relative(difference_of, exact):
    """2-norm of the difference over the 2-norm of `exact`; 0 when both are 0."""
    return ((difference_of - exact).norm() / exact.norm().clamp(min=1e-30)).item()


def value_of(term, restored, target, side=None, **options):
    terms = only(term, **options)(restored, side, target)
    assert list(terms) == [term]
    return terms[term].item()


# Values computed by hand.


def test_l1_of_constants():
    assert value_of("l1", constant(0.75), constant(0.25)) == pytest.approx(0.5)
    assert value_of("l1", constant(-0.5), constant(1.0)) == pytest.approx(1.5)  # not clamped


def test_ssim_of_constants():
    a, b, c1 = 0.8, 0.4, 0.01**2
    expected = 1 - (2 * a * b + c1) / (a * a + b * b + c1)
    assert value_of("ssim", constant(a), constant(b)) == pytest.approx(expected, abs=1e-5)
    assert value_of("ssim", noise(1, 3, 16, 16), noise(1, 3, 16, 16)) == pytest.approx(0, abs=1e-6)


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


def test_side_of_constants(identity_vgg_file):
    expected = 0.3 + 0.01 * LAYER_SUM * 0.3 * np.mean([1 / std for std in IMAGENET_STD])
    side, target = constant(0.9, size=16), constant(0.6, size=128)
    assert value_of("side", target, target, side, vgg=identity_vgg_file) == pytest.approx(expected, rel=1e-5)


def test_side_target_is_antialiased():
    stripes = torch.zeros(1, 3, 128, 128)
    stripes[..., ::8] = 1.0  # none of these columns is next to a sampling point
    small = resize_to(stripes, torch.empty(1, 3, 16, 16))
    torch.testing.assert_close(small[..., 1:-1], torch.full((1, 3, 16, 14), 1 / 8), atol=0.02, rtol=0)


# Weights and names.


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


# Gradients.


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


def test_target_features_carry_no_gradient(vgg_file):
    target = noise(1, 3, 32, 32).requires_grad_()
    restored = noise(1, 3, 32, 32, seed=1).requires_grad_()
    only("vgg", vgg=vgg_file)(restored, None, target)["vgg"].backward()
    assert target.grad is None and restored.grad.abs().max() > 0


def test_vgg_is_frozen(vgg_file):
    objective = only("vgg", vgg=vgg_file)
    assert list(objective.parameters()) and not any(parameter.requires_grad for parameter in objective.parameters())


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


# Shapes.


@pytest.mark.parametrize(("term", "size"), [("ssim", 10), ("vgg", 15)])
def test_too_small_images_name_flag_and_remedy(term, size, vgg_file):
    objective = only(term, vgg=vgg_file)
    with pytest.raises(
        LossError, match=rf"--lambda_{term}: the images are {size} x {size}, .* --resolution {size + 1}"
    ):
        objective(constant(0, size), None, constant(0, size))
    objective(constant(0, size + 1), None, constant(0, size + 1))


def test_too_small_side_output_names_flag_and_remedy(vgg_file):
    with pytest.raises(LossError, match="--lambda_side: the side output is 15 x 15.* --resolution 128"):
        only("side", vgg=vgg_file)(constant(0, 120), constant(0, 15), constant(0, 120))


def test_missing_side_output_and_unequal_shapes_are_refused(vgg_file):
    with pytest.raises(LossError, match="--lambda_side"):
        only("side", vgg=vgg_file)(constant(0, 128), None, constant(0, 128))
    with pytest.raises(LossError, match="differ in shape"):
        only("l1")(constant(0, 16, batch=1), None, constant(0, 16, batch=2))


# VGG19 files.


@pytest.mark.parametrize("term", ["vgg", "side"])
def test_missing_weights_end_the_run_and_say_what_to_do(term, empty_hub):
    with pytest.raises(LossError) as refusal:
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
    with pytest.raises(LossError, match=reason) as refusal:
        only("vgg", vgg=tmp_path / name)
    assert name in str(refusal.value) and "--vgg_weights" in str(refusal.value)


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (self.marker.touch, ())


def test_pickle_that_runs_code_is_refused(tmp_path):
    torch.save({"features.0.weight": RunsCode(tmp_path / "marker")}, tmp_path / "code.pt")
    with pytest.raises(LossError, match="code.pt is not a file of weights"):
        only("vgg", vgg=tmp_path / "code.pt")
    assert not (tmp_path / "marker").exists()


def test_file_under_torchvisions_name_must_have_its_hash(empty_hub, vgg_file):
    (empty_hub / TORCHVISION_FILE).write_bytes(vgg_file.read_bytes())
    with pytest.raises(LossError, match="is damaged: its sha256 starts with"):
        only("vgg")
    with pytest.raises(LossError, match="is damaged"):
        only("vgg", vgg=empty_hub / TORCHVISION_FILE)


def test_hub_cache_is_used_and_named(empty_hub, vgg_file, monkeypatch):
    (empty_hub / TORCHVISION_FILE).write_bytes(vgg_file.read_bytes())
    prefix = read_vgg_weights(str(vgg_file)).sha256[:8]
    monkeypatch.setattr(vgg_weights, "TORCHVISION_SHA256_PREFIX", prefix)
    line = only("vgg").describe()[1]
    assert str(empty_hub / TORCHVISION_FILE) in line and "torchvision's" in line and prefix in line


def test_log_says_when_the_file_is_not_torchvisions(vgg_file):
    assert "not torchvision's file, up to 4 channels" in only("vgg", vgg=vgg_file).describe()[1]
