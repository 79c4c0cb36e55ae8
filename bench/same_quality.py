"""Do the fast paths train as well as the plain form? Trains the embedded sample in each form with several seeds; Markdown table.

  python -m bench.same_quality
  python -m bench.same_quality --vgg

Every run goes through train_darkir_cv.py: fold 1 of three of data/sample, DarkIR tiny, L1 and SSIM. The reference is the literal
network of bench/reference_darkir.py in NCHW with the same starting weights, pytorch-msssim's loss, and no cache. With --vgg, what
a cheaper perceptual term does: its VGG19 is small and random, which is no evidence for the real, trained one.
The score of a run is its best validation PSNR.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch.nn import functional

import create_data_splits
import train_darkir_cv
from bench.bench_losses import msssim_loss
from bench.measure import SAMPLE, machine, table
from bench.reference_darkir import ReferenceDarkIR
from darkir import DarkIR, NetworkConfig
from losses.perceptual import PerceptualLoss
from tests.helpers.small_vgg import write_small_random_vgg

EVERY = 4
VGG_CHANNELS = 16
HEADER = ("variant", "validation PSNR, dB", "spread, dB", "to the first line, dB")


@dataclass(frozen=True)
class Variant:
    """Flags of the training script, and what is replaced while it runs: {dotted name: replacement}."""

    name: str
    flags: tuple[str, ...] = ()
    replaced: tuple[tuple[str, Callable], ...] = ()


class LiteralDarkIR(ReferenceDarkIR):
    """The literal network behind DarkIR's interface, with the weights that DarkIR starts from."""

    def __init__(self, config: NetworkConfig):
        start = DarkIR(config).state_dict()
        super().__init__(config.width)
        self.load_state_dict(start)
        self.config = config

    def to(self, device: torch.device | None = None, memory_format: torch.memory_format | None = None) -> LiteralDarkIR:
        """On the device, in NCHW whatever is requested."""
        return self if device is None else super().to(device)

    def forward(self, x: torch.Tensor, with_side: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        restored, side = super().forward(x.contiguous())
        return (restored, side) if with_side else restored


class HalvedPerceptualLoss(PerceptualLoss):
    """The term at half the resolution."""

    def forward(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.avg_pool2d(restored, 2), functional.avg_pool2d(target, 2))


class SeldomPerceptualLoss(PerceptualLoss):
    """The term in every EVERY-th call, EVERY times as large."""

    calls = 0

    def forward(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return EVERY * super().forward(restored, target) if self.calls % EVERY == 0 else torch.zeros(())


NO_VGG = ("--lambda_vgg", "0")
FAST_PATHS = (
    Variant(
        "reference: literal network, pytorch-msssim, no cache",
        (*NO_VGG, "--cache", "off"),
        (("engine.training.resume.make_network", LiteralDarkIR), ("losses.objective.ssim_loss", msssim_loss)),
    ),
    Variant("as the scripts train", NO_VGG),
    Variant("--mixed_precision (bf16)", (*NO_VGG, "--mixed_precision", "--amp_dtype", "bf16")),
)
COMPILED = Variant("--compile", (*NO_VGG, "--compile"))
PERCEPTUAL = (
    Variant(f"random VGG19 of {VGG_CHANNELS} channels"),
    Variant("half the resolution", replaced=(("losses.objective.PerceptualLoss", HalvedPerceptualLoss),)),
    Variant(f"every {EVERY}th update", replaced=(("losses.objective.PerceptualLoss", SeldomPerceptualLoss),)),
    Variant("no perceptual term", NO_VGG),
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    parser.add_argument("--resolution", type=int, default=96, help="side of the training crop")
    parser.add_argument("--compile", action="store_true", help="also train the compiled network; takes minutes more")
    parser.add_argument("--vgg", action="store_true", help="compare perceptual terms instead")
    args = parser.parse_args(argv)
    variants = PERCEPTUAL if args.vgg else (*FAST_PATHS, COMPILED) if args.compile else FAST_PATHS
    print(f"{machine()}\n\n{args.epochs} epochs at {args.resolution} pixels, {args.seeds} seeds\n", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        weights = write_small_random_vgg(folder / "vgg19_random.pt", VGG_CHANNELS)
        split = ["--output_dir", folder / "splits", "--test_size", 12, "--n_folds", 3]  # that of make demo
        run(create_data_splits.main, ["--input_jsonl", SAMPLE, *split])
        flags = ["--data_splits_dir", folder / "splits", "--vgg_weights", weights]
        flags += ["--epochs", args.epochs, "--resolution", args.resolution]
        # Seed by seed, so that a run that is cut short has compared all variants.
        runs = [(variant, seed) for seed in range(args.seeds) for variant in variants]
        scores: dict[str, list[float]] = {variant.name: [] for variant in variants}
        for number, (variant, seed) in enumerate(runs):
            scores[variant.name].append(best_psnr(variant, [*flags, "--seed", seed], folder / f"run_{number}"))
    print(table(HEADER, rows(scores)))


def best_psnr(variant: Variant, flags: list[object], output_dir: Path) -> float:
    """The best validation PSNR in dB of one training."""
    fixed = ["--model_size", "tiny", "--batch_size", 4, "--lr", 1e-3, "--ema_decay", 0.9, "--save_every", 0]
    fixed += ["--preprocess", "light_aug", "--num_workers", 0, "--device", "cpu", "--fold", 1]
    with replaced(variant):
        run(train_darkir_cv.main, [*flags, *fixed, *variant.flags, "--output_dir", output_dir])
    history = json.loads((output_dir / "fold_1" / "history.json").read_text(encoding="utf-8"))
    return max(record["val_psnr"] for record in history)


def run(script: Callable[[list[str]], int], flags: list[object]) -> None:
    """A script, its log on stderr, so that stdout holds the table alone."""
    with contextlib.redirect_stdout(sys.stderr):
        code = script([str(flag) for flag in flags])
    if code:
        raise SystemExit(code)


@contextlib.contextmanager
def replaced(variant: Variant) -> Iterator[None]:
    """Raises RuntimeError in the end when something was not called: the variant would have been another one."""
    unused = dict.fromkeys(name for name, _ in variant.replaced)
    with contextlib.ExitStack() as stack:
        for name, replacement in variant.replaced:

            def stand_in(*arguments: object, name: str = name, replacement: Callable = replacement) -> object:
                unused.pop(name, None)
                return replacement(*arguments)

            stack.enter_context(mock.patch(name, stand_in))
        yield
    if unused:
        raise RuntimeError(f"{variant.name}: training did not call {', '.join(unused)}")


def rows(scores: dict[str, list[float]]) -> list[list[str]]:
    """Mean, standard deviation over the seeds, and the mean difference to the first variant, seed by seed."""
    first = next(iter(scores.values()))
    lines = []
    for name, values in scores.items():
        spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "one seed"
        change = statistics.mean(ours - theirs for ours, theirs in zip(values, first, strict=True))
        lines.append([name, f"{statistics.mean(values):.3f}", spread, "" if values is first else f"{change:+.3f}"])
    return lines


if __name__ == "__main__":
    main()
