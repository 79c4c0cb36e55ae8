"""PSNR, SSIM and L1 against hand-computed values and an independent SSIM."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from engine.metrics import image_metrics
from tests.helpers.metric_oracle import plain_metrics


def constant(value, batch=1, height=16, width=16):
    return torch.full((batch, 3, height, width), float(value))


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_hand_computed_values():
    (record,) = image_metrics(constant(0.5), constant(0.4))
    assert set(record) == {"psnr", "ssim", "l1"} and all(type(value) is float for value in record.values())
    assert record["psnr"] == pytest.approx(20.0, abs=1e-4)
    assert record["l1"] == pytest.approx(0.1, abs=1e-6)
    assert record["ssim"] == pytest.approx((2 * 0.2 + 1e-4) / (0.25 + 0.16 + 1e-4), abs=1e-4)


def test_one_wrong_pixel():
    restored, target = constant(0.0), constant(0.0)
    restored[0, 1, 3, 4] = 1.0
    (record,) = image_metrics(restored, target)
    assert record["psnr"] == pytest.approx(10 * np.log10(3 * 16 * 16), abs=1e-4)
    assert record["l1"] == pytest.approx(1 / (3 * 16 * 16))


@pytest.mark.parametrize("shape", [(11, 11), (24, 17)])
def test_ssim_agrees_with_an_independent_one(shape):
    target = noise(2, 3, *shape)
    restored = (target * 0.7 + 0.1 * noise(2, 3, *shape, seed=1)).clamp(0, 1)
    for index, record in enumerate(image_metrics(restored, target)):
        images = (image[index].double().permute(1, 2, 0).numpy() for image in (restored, target))
        assert record["ssim"] == pytest.approx(plain_metrics(*images)["ssim"], abs=2e-5)


def test_equal_images_are_capped_at_100_db():
    assert image_metrics(noise(1, 3, 16, 16), noise(1, 3, 16, 16)) == [{"psnr": 100.0, "ssim": 1.0, "l1": 0.0}]
    (almost,) = image_metrics(constant(0.5), constant(0.5 + 1e-6))
    assert almost["psnr"] == 100.0


def test_both_images_are_clamped():
    assert image_metrics(constant(1.4), constant(1.0)) == image_metrics(constant(1.0), constant(1.0))
    assert image_metrics(constant(0.0), constant(-3.0)) == image_metrics(constant(0.0), constant(0.0))


def test_an_image_does_not_depend_on_its_batch():
    restored, target = noise(5, 3, 37, 29, seed=1), noise(5, 3, 37, 29, seed=2)
    restored[1] = target[1]
    restored[2] = 0.0
    together = image_metrics(restored, target)
    for index, record in enumerate(together):
        (alone,) = image_metrics(restored[index : index + 1], target[index : index + 1])
        assert record["psnr"] == pytest.approx(alone["psnr"], abs=1e-4)
        assert record["ssim"] == pytest.approx(alone["ssim"], abs=1e-6)
        assert record["l1"] == pytest.approx(alone["l1"], abs=1e-7)


def test_autocast_and_half_precision_inputs_do_not_change_the_arithmetic():
    restored, target = noise(2, 3, 20, 20, seed=1), noise(2, 3, 20, 20, seed=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = image_metrics(restored, target)
    assert mixed == image_metrics(restored, target)
    half = restored.bfloat16()
    assert image_metrics(half, target) == image_metrics(half.float(), target)


def test_memory_layout_does_not_matter():
    restored, target = noise(2, 3, 20, 20, seed=1), noise(2, 3, 20, 20, seed=2)
    plain = image_metrics(restored, target)
    for mine, theirs in zip(image_metrics(restored.to(memory_format=torch.channels_last), target), plain, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(10, 64), (64, 10), (1, 1)])
def test_small_images_are_refused(height, width):
    with pytest.raises(InputError, match=f"{width} x {height} pixels"):
        image_metrics(constant(0, height=height, width=width), constant(0, height=height, width=width))


def test_unequal_shapes_are_refused():
    with pytest.raises(InputError, match="differ in shape"):
        image_metrics(constant(0, batch=1), constant(0, batch=2))
