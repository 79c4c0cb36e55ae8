"""The benchmarks of the losses run and print their tables; nothing about time is asserted."""

import pytest
import torch

from bench import bench_losses, same_quality
from losses.perceptual import PerceptualLoss, read_vgg_weights
from tests.helpers.small_vgg import write_small_random_vgg

TINY_LOSSES = ["--rounds", "2", "--side", "32", "--batch", "1", "--width", "4", "--vgg_channels", "2"]


def rows_of(text):
    """The cells of a Markdown table's lines, without header and ruler, by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {name: cells for name, *cells in lines[2:]}


def test_every_term_has_its_line_and_its_error(capsys):
    bench_losses.main(TINY_LOSSES)
    rows = rows_of(capsys.readouterr().out)
    assert rows["the network"][3] == "100.0%"
    for name in ("L1", "SSIM", "SSIM, pytorch-msssim on contiguous planes", "edge", "freq", "VGG19"):
        assert float(rows[name][5]) < 1e-4, f"{name}: the error of its value"
    assert 1e-6 < float(rows["VGG19, bfloat16"][5]) < 0.1, "bfloat16 must have been on"


@pytest.mark.long
def test_variants_are_trained_and_compared_with_the_first(capsys):
    same_quality.main(["--epochs", "1", "--seeds", "1", "--resolution", "32"])
    rows = rows_of(capsys.readouterr().out)
    first, *others = rows.values()
    assert len(rows) == len(same_quality.FAST_PATHS)
    assert first[2] == "" and 5 < float(first[0]) < 40
    for psnr, _, change in others:
        assert float(psnr) - float(first[0]) == pytest.approx(float(change), abs=0.0021)


def test_the_cheaper_perceptual_terms_are_what_they_are_called(tmp_path):
    weights = read_vgg_weights(str(write_small_random_vgg(tmp_path / "vgg19_random.pt")))
    restored, target = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    full = PerceptualLoss(weights)(restored, target)
    seldom = same_quality.SeldomPerceptualLoss(weights)
    assert [seldom(restored, target) for _ in range(8)] == 2 * [0, 0, 0, 4 * full]
    # An image of 2 x 2 equal pixels has itself, at half the size, as its mean.
    large = (image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for image in (restored, target))
    torch.testing.assert_close(same_quality.HalvedPerceptualLoss(weights)(*large), full)


def test_a_replacement_that_training_does_not_call_is_an_error():
    variant = same_quality.Variant("idle", replaced=(("losses.objective.ssim_loss", bench_losses.msssim_loss),))
    message = "idle: training did not call losses.objective.ssim_loss"
    with pytest.raises(RuntimeError, match=message), same_quality.replaced(variant):
        pass
