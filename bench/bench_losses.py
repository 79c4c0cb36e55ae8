"""What each loss term costs beside the network that it trains: forward and backward on the CPU. Prints a Markdown table.

  python -m bench.bench_losses

All lines are called in turn in one process, on the same photos of data/sample. A term's line is its value and its gradient with
respect to the restored image; the network's is its output and the gradients of its weights. VGG19 has its real shape and random
weights: the time does not depend on what they are, the error of the gradient does. A term computed in every k-th update costs 1/k
of its line. Shares are of CPU time, which other programs disturb less. Errors are distances to the same term in float64: of the
value, and of the gradient (2-norm over 2-norm).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytorch_msssim
import torch
from torch.nn import functional

from bench.bench_network import photo_sets
from bench.measure import machine, peaks, relative_error, table, time_in_turn
from darkir import DarkIR, NetworkConfig
from losses.edge import edge_loss
from losses.frequency import frequency_loss
from losses.perceptual import CONVOLUTIONS, LAYER_WEIGHTS, PerceptualLoss, VGGWeights
from losses.pixel import l1_loss
from losses.ssim import ssim_loss

CHANNEL_FACTORS = (1, 1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8)  # of conv1_1 ... conv5_1; times 64 in VGG19
HEADER = (
    "forward and backward of", "wall ms", "IQR", "CPU ms", "of the network's", "peak MB", "error of value", "of gradient",
)  # fmt: skip

Term = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Variant:
    """A term (restored, target) -> loss, the float64 form that it is compared with, and whether autocast is on."""

    name: str
    term: Term
    exact: Term
    bfloat16: bool = False

    def loss(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
            return self.term(restored, target)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed calls a line")
    parser.add_argument("--side", type=int, default=128, help="side of the photos, 32 or more")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=int, default=32, help="of the network; 32: DarkIR-m")
    parser.add_argument("--vgg_channels", type=int, default=64, help="of conv1_1; 64: VGG19")
    args = parser.parse_args(argv)
    size = f"{args.side} x {args.side}, batch {args.batch}"
    print(f"{machine()}\n\nNetwork of width {args.width}, {size}, {torch.get_num_threads()} threads\n")
    variants = make_variants(PerceptualLoss(random_vgg19(args.vgg_channels)))
    src, target = photo_sets(args.side, args.batch)[0]
    calls = {
        "the network": network_call(args.width, src, target, bfloat16=False),
        "the network, bfloat16": network_call(args.width, src, target, bfloat16=True),
        **{variant.name: term_call(variant, src, target) for variant in variants},
    }
    costs, memory = time_in_turn(calls, args.rounds), peaks(calls)
    errors = {variant.name: errors_of(variant, src, target) for variant in variants}
    rows = []
    for name, cost in costs.items():
        share = f"{cost.median_cpu / costs['the network'].median_cpu:.1%}"
        # The network's own errors stand in bench_network's table.
        rows.append([name, *cost.columns(1), share, f"{memory[name] / 1e6:.0f}", *errors.get(name, ["", ""])])
    print(table(HEADER, rows))


def random_vgg19(channels: int) -> VGGWeights:
    """Random weights that keep the size of the features, in VGG19's shape when `channels` is 64."""
    generator = torch.Generator().manual_seed(0)
    tensors, fan_in = {}, 3
    for index, factor in zip(CONVOLUTIONS, CHANNEL_FACTORS, strict=True):
        weight = torch.randn(channels * factor, fan_in, 3, 3, generator=generator) * (2 / (9 * fan_in)) ** 0.5
        tensors |= {f"features.{index}.weight": weight, f"features.{index}.bias": torch.zeros(channels * factor)}
        fan_in = channels * factor
    return VGGWeights(tensors, Path("random"), "random")


def make_variants(perceptual: PerceptualLoss) -> list[Variant]:
    """One line of the table each."""
    exact = exact_perceptual(perceptual)
    return [
        Variant("L1", l1_loss, l1_loss.__wrapped__),
        Variant("SSIM, pytorch-msssim on contiguous planes", msssim_loss, msssim_loss),
        Variant("SSIM", ssim_loss, msssim_loss),
        Variant("edge", edge_loss, edge_loss.__wrapped__),
        Variant("freq", frequency_loss, frequency_loss.__wrapped__),
        Variant("VGG19", perceptual, exact),
        Variant("VGG19, bfloat16", perceptual, exact, bfloat16=True),
        Variant("VGG19 of half the resolution", halved(perceptual), halved(exact)),
        Variant("VGG19 of half the resolution, bfloat16", halved(perceptual), halved(exact), bfloat16=True),
    ]


def msssim_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - SSIM as pytorch-msssim computes it, in the dtype of its arguments."""
    planes = restored.contiguous(), target.contiguous()
    return 1.0 - pytorch_msssim.ssim(*planes, data_range=1.0, win_size=11, win_sigma=1.5)


def halved(term: Term) -> Term:
    """The term of both images at half their size."""
    return lambda restored, target: term(functional.avg_pool2d(restored, 2), functional.avg_pool2d(target, 2))


def exact_perceptual(perceptual: PerceptualLoss) -> Term:
    """The same term with everything in float64."""
    network = copy.deepcopy(perceptual).double()

    def term(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        ours, theirs = ((image - network.mean) / network.std for image in (restored, target))
        total = torch.zeros((), dtype=torch.float64)
        for weight, stage in zip(LAYER_WEIGHTS.values(), network.stages, strict=True):
            ours, theirs = stage(ours), stage(theirs)
            total = total + weight * functional.l1_loss(ours, theirs)
        return total

    return term


def network_call(width: int, src: torch.Tensor, target: torch.Tensor, bfloat16: bool) -> Callable[[int], None]:
    """Forward pass, L1 and backward pass of a fresh network."""
    torch.manual_seed(0)
    network = DarkIR(NetworkConfig(width=width)).to(memory_format=torch.channels_last)
    src = src.contiguous(memory_format=torch.channels_last)

    def learn(number: int) -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            restored = network(src)
        functional.l1_loss(restored.float(), target).backward()

    return learn


def term_call(variant: Variant, src: torch.Tensor, target: torch.Tensor) -> Callable[[int], None]:
    """Value and gradient; the source stands for the network's output, in the memory format that this has."""

    def learn(number: int) -> None:
        gradient_of(variant.loss, src.contiguous(memory_format=torch.channels_last), target)

    return learn


def gradient_of(term: Term, restored: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    restored = restored.detach().requires_grad_()
    value = term(restored, target)
    (gradient,) = torch.autograd.grad(value, restored)
    return value.detach(), gradient


def errors_of(variant: Variant, src: torch.Tensor, target: torch.Tensor) -> list[str]:
    """Relative errors of value and gradient."""
    exact = gradient_of(variant.exact, src.double(), target.double())
    found = gradient_of(variant.loss, src, target)
    return [f"{relative_error(got, wanted):.0e}" for got, wanted in zip(found, exact, strict=True)]


if __name__ == "__main__":
    main()
