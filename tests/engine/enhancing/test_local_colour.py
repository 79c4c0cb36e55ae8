"""What a small copy went through is carried over to the full size: exactly where it is affine, smoothly where it varies."""

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.enhancing import restore
from engine.enhancing.restore import carry_over

MATRIX = torch.tensor([[1.3, 0.1, 0.0], [0.0, 0.8, 0.2], [-0.1, 0.0, 1.1]])
OFFSET = torch.tensor([0.05, -0.02, 0.1]).view(1, 3, 1, 1)


def photo(height: int, width: int) -> torch.Tensor:
    torch.manual_seed(0)
    coarse = F.interpolate(torch.rand(1, 3, 6, 7), (height, width), mode="bicubic")
    return (coarse + 0.1 * torch.rand(1, 3, height, width)).clamp(0, 1)


def small_copy(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(image, size, mode="bilinear", antialias=True)


def graded(image: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oi,bihw->bohw", MATRIX, image) + OFFSET


@pytest.mark.parametrize("size", [(120, 161), (37, 50)])
def test_an_affine_change_of_colour_is_carried_over_exactly(size):
    full = photo(*size)
    small = small_copy(full, (30, 40))
    torch.testing.assert_close(carry_over(full, small, graded(small), eps=1e-9), graded(full), atol=2e-3, rtol=0)


def test_strips_change_nothing(monkeypatch):
    full = photo(101, 90)
    small = small_copy(full, (25, 22))
    whole = carry_over(full, small, graded(small))
    monkeypatch.setattr(restore, "STRIP_PIXELS", 7 * 90)
    torch.testing.assert_close(carry_over(full, small, graded(small)), whole, atol=1e-6, rtol=0)


def test_a_change_that_varies_over_the_photo_is_followed_without_a_loss_of_detail():
    full = photo(160, 160)
    brighter = torch.linspace(0.5, 1.5, 160).view(1, 1, 1, 160)
    small, gains = (small_copy(image, (40, 40)) for image in (full, brighter.expand(1, 3, 160, 160)))
    wanted, small_wanted = full * brighter, small * gains
    carried = carry_over(full, small, small_wanted, radius=2)
    enlarged = F.interpolate(small_wanted, (160, 160), mode="bicubic")
    assert (carried - wanted).abs().mean() < 0.5 * (enlarged - wanted).abs().mean()


def test_flat_photos_stay_finite():
    for value in (0.0, 0.5, 1.0):
        full = torch.full((1, 3, 64, 48), value)
        small = small_copy(full, (16, 12))
        torch.testing.assert_close(carry_over(full, small, small + 0.1), full + 0.1)


def test_an_ensemble_keeps_its_sum_in_memory_not_every_output():
    outputs: list[weakref.ref] = []
    alive = []

    def restorer(src: torch.Tensor) -> torch.Tensor:
        alive.append(sum(output() is not None for output in outputs))
        outputs.append(weakref.ref(output := src * 0.5))
        return output

    pixels = np.full((16, 16, 3), 200, np.uint8)
    restored = restore.restore_photo(pixels, {str(n): restorer for n in range(5)}, None, None, torch.device("cpu"))
    assert (restored == 100).all() and alive == [0, 1, 1, 1, 1]
