"""What kind an output's error is, where it is worst, and the tint of white walls: on targets with one planted fault each."""

import pytest
import torch

from engine.testing.judgement import judge, tint_words


def room():
    """A light gray wall (3, 96, 120) with a textured third at the right."""
    torch.manual_seed(0)
    target = torch.full((3, 96, 120), 0.8)
    target[:, :, 80:] = (0.4 + 0.3 * torch.rand(1, 96, 40)).expand(3, -1, -1)
    return target


def faulty(kind):
    target = room()
    restored = target.clone()
    if kind == "exposure":
        restored -= 0.1
    elif kind == "colour":
        restored += torch.tensor([0.06, -0.06, 0.0])[:, None, None]
    elif kind == "detail":
        restored[:, :, 80:] = 0.55
    else:
        restored[:, :, :80] += 0.05 * torch.randn(3, 96, 80)
    return restored, target


@pytest.mark.parametrize("kind", ["exposure", "colour", "detail", "noise"])
def test_a_planted_fault_is_most_of_the_error(kind):
    shares = judge(*faulty(kind)).shares
    assert max(shares, key=shares.get) == kind and shares[kind] > 0.8
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)


def test_the_worst_region_is_where_the_fault_is():
    target = room()
    restored = target.clone()
    restored[:, 40:60, 50:75] = 0.2
    judged = judge(restored, target)
    left, top, side = judged.box
    assert left <= 55 and left + side >= 70 and top <= 45 and top + side >= 55
    assert judged.region == (left / 120, top / 96, side / 120, side / 96)


def test_walls_that_turn_yellow_are_told_and_a_photo_without_walls_has_no_tint():
    target = room()
    yellow = target * torch.tensor([1.0, 1.0, 0.9])[:, None, None]
    tint = judge(yellow, target).tint
    assert tint[1] > 5 and tint_words(tint).endswith("toward yellow")
    assert judge(yellow, target * 0.4).tint is None
    perfect = judge(target, target)
    assert set(perfect.shares.values()) == {0.0} and perfect.tint == pytest.approx((0, 0), abs=1e-3)
