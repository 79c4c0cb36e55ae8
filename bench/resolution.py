"""What a network trained at one size does at others: PSNR against size for three ways of running it on a whole photo.

  python -m bench.resolution --checkpoint outputs/fold_1/checkpoint_best.pt --pairs pairs.jsonl --sizes 128 256 512 896

whole: the frame in one pass. local pooling: the channel attention's mean taken over windows of the training size (TLC: Chu et
al., "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022); the spectrum stays that of the frame.
carried over: one pass at the training size, its change of colours carried over to the frame (engine/enhancing/restore.py). Prints
a Markdown table of means, and the difference to whole with its 95 % interval over independent units.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bench.measure import table
from common.log import RunLog
from darkir.blocks import Block, gate
from darkir.network import DarkIR
from data.dataset import EvaluationPairs
from data.fingerprint import fingerprint_pairs
from data.manifest import read_pairs
from data.units import unit_names
from engine.enhancing.restore import carry_over
from engine.inference import restorer, to_float
from engine.intervals import interval_words, paired_difference, summarise
from engine.metrics import image_metrics
from engine.models import read_models
from engine.runtime import Precision
from engine.testing.results import cell

CPU = torch.device("cpu")
WAYS = ("untouched", "whole", "local pooling", "carried over")


def pooling_locally(block: Block, height: int, window: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """`Block.add_branches` whose mean is that of `window` pixels of a frame of `height` pixels, at every level."""

    def add_branches(x: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        gated = gate(block.mix(wide))
        side = max(1, round(window * x.shape[-2] / height))
        size = [min(side, length) for length in gated.shape[-2:]]
        means = F.avg_pool2d(F.avg_pool2d(gated, (size[0], 1), stride=1), (1, size[1]), stride=1)
        down, across = (whole - part for whole, part in zip(gated.shape[-2:], means.shape[-2:], strict=True))
        margins = (across // 2, across - across // 2, down // 2, down - down // 2)
        return block.add_attended(x, gated, F.pad(means, margins, mode="replicate"))

    return add_branches


def restored_by_each_way(network: DarkIR, src: torch.Tensor, small: torch.Tensor, side: int) -> dict[str, torch.Tensor]:
    """The frame, and its copy at the training size -> the frame restored, by the name of the way."""
    whole = restorer(network, Precision("cpu", None))
    local_network, height = copy.deepcopy(network), src.shape[-2] + -src.shape[-2] % network.multiple
    for block in local_network.modules():
        if isinstance(block, Block):
            block.add_branches = pooling_locally(block, height, side)
    with torch.inference_mode():
        local = local_network(src).clamp(0, 1)
    carried = carry_over(src, small, whole(small)).clamp(0, 1)
    return dict(zip(WAYS, (src, whole(src), local, carried), strict=True))


def scores(network: DarkIR, pairs: list, sizes: list[int], side: int) -> dict[tuple[int, str], list[float]]:
    """PSNR of every photo by (size, way)."""
    at = {size: EvaluationPairs(pairs, size, "crop") for size in {*sizes, side}}
    psnr: dict[tuple[int, str], list[float]] = {(size, way): [] for size in sizes for way in WAYS}
    for index in range(len(pairs)):
        small = to_float(at[side][index]["src"][None], CPU)
        for size in sizes:
            src, tar = (to_float(at[size][index][name][None], CPU) for name in ("src", "tar"))
            for way, restored in restored_by_each_way(network, src, small, side).items():
                psnr[size, way].append(image_metrics(restored, tar)[0]["psnr"])
    return psnr


def psnr_table(psnr: dict[tuple[int, str], list[float]], sizes: list[int], units: list[str]) -> str:
    """Markdown: a row a way, a column a size. units: of each photo."""
    rows = []
    for way in WAYS:
        cells = []
        for size in sizes:
            cells.append(f"{np.mean(psnr[size, way]):.2f} dB")
            if way in WAYS[2:]:
                cells[-1] += f" ({cell(paired_difference(psnr[size, 'whole'], psnr[size, way], units), 2, '+')})"
        rows.append([way, *cells])
    return table(["", *(f"{size} px" for size in sizes)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a DarkIR trained with --fit crop")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs that the model never saw")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 896], help="short sides in pixels")
    parser.add_argument("--every", type=int, default=1, help="take every n-th pair only")
    args = parser.parse_args()
    (model,) = read_models(None, [args.checkpoint], RunLog())
    side = model.recorded("resolution")
    if side is None or model.recorded("fit") != "crop":
        parser.error(f"--checkpoint {args.checkpoint}: it must record the --resolution of a training with --fit crop")
    pairs = fingerprint_pairs(read_pairs(args.pairs)[:: args.every])
    psnr = scores(model.network, pairs, args.sizes, side)
    units = unit_names(pairs)
    ci95 = summarise(psnr[args.sizes[0], "whole"], units)["ci95"]
    print(f"Trained at {side} px; {interval_words(len(pairs), len(set(units)), ci95)}\n")
    print(psnr_table(psnr, args.sizes, units))


if __name__ == "__main__":
    main()
