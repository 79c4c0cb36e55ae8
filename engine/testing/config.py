"""The command line of evaluate_darkir_test.py -> checked options. Needs no torch, so that a mistyped flag is told at once."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.exits import flagged
from common.files import is_no_folder
from common.options import add_options, from_args, make_parser, option, require
from darkir.architectures import MODEL_SIZES
from data.config import MAX_RESOLUTION, MIN_RESOLUTION, SPLITS_DIR, add_likeness_option


@dataclass(frozen=True)
class EvaluationConfig:
    """How the test photos are run through the networks."""

    resolution: int | None = option(
        None, "short side in pixels (a smaller photo stays native); default: as the checkpoints record"
    )
    fit: Literal["crop", "squash"] | None = option(
        None, "crop: whole frames, aspect kept; squash: a square; default: as the checkpoints record"
    )
    batch_size: int = option(4, "frames of one size in a batch; changes memory and time, not results")
    num_workers: int = option(4, "loader processes (0: load in the main process); changes no result")
    tta: bool = option(False, "average each network over the four flips of a photo: four times the time")
    mixed_precision: bool = option(False, "run the networks in 16 bit: bf16 where the device has it, else fp16")
    lpips_weights: str | None = option(
        None,
        "also score LPIPS, with this file of torchvision's AlexNet (or VGG16) weights; needs the package lpips; never downloads",
    )
    save_visuals: Literal["off", "scored", "full"] = option(
        "off",
        "also write a picture of every photo to visuals/, at the size that was scored; full: besides at its own size, restored "
        "there, which takes time. The report holds small ones of the worst in any case",
        alone="scored",
    )

    def __post_init__(self):
        if self.resolution is not None:
            fits = MIN_RESOLUTION <= self.resolution <= MAX_RESOLUTION
            require(fits, f"--resolution {self.resolution}: must be {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels")
        require(self.batch_size >= 1, f"--batch_size {self.batch_size}: must be at least 1")
        require(self.num_workers >= 0, f"--num_workers {self.num_workers}: must be 0 or more")


@dataclass(frozen=True)
class BaselineConfig:
    """What the results are compared with, if anything."""

    baseline: Path | None = option(
        None, "test_results.json of another evaluation of the same photos, per_image.csv beside it"
    )
    baseline_l1: float | None = option(
        None, "a bare mean L1 instead, above 0 and at most 1 (images in [0, 1]); gives no interval"
    )

    def __post_init__(self):
        both = self.baseline is not None and self.baseline_l1 is not None
        require(not both, "--baseline and --baseline_l1 together: give one of them")
        if self.baseline_l1 is not None:
            require(
                0 < self.baseline_l1 <= 1,
                f"--baseline_l1 {self.baseline_l1}: must be above 0 and at most 1, as the mean absolute error of images in [0, 1]",
            )


def parse_args(argv: list[str] | None, description: str) -> tuple[argparse.Namespace, EvaluationConfig, BaselineConfig]:
    """Flags -> (args, EvaluationConfig, BaselineConfig); a contradiction between flags is a usage error (exit 2)."""
    parser = make_parser(description)
    models = parser.add_argument_group("models")
    source = models.add_mutually_exclusive_group(required=True)
    source.add_argument("--cv_dir", type=Path, help="output folder of train_darkir_cv.py; takes every fold's best")
    source.add_argument("--checkpoint", type=Path, nargs="+", help="weights files to evaluate instead, one or more")
    models.add_argument("--arch", choices=MODEL_SIZES, help="refuse models of another architecture")
    models.add_argument("--model_size", choices=MODEL_SIZES["darkir"], help="refuse models of another size")
    models.add_argument("--n_folds", type=int, help="refuse another number of models")
    photos = parser.add_argument_group("photos")
    photos.add_argument(
        "--test_jsonl",
        type=Path,
        help="test pairs, one JSON object a line; default: data_splits/test.jsonl, where it is here",
    )
    photos.add_argument("--base_dir", type=Path, help="folder that relative paths start from; default: as recorded")
    add_likeness_option(photos, "models", "a test photo")
    photos.add_argument(
        "--group_key", help="row field; rows with the same value are one unit; default: as the split recorded, or group"
    )
    add_options(parser, EvaluationConfig, "evaluation")
    add_options(parser, BaselineConfig, "comparison")
    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", type=Path, default=Path("test_results"), help="folder of the results")
    run.add_argument("--device", default="auto", help="auto, cuda, cpu or cuda:N")
    args = parser.parse_args(argv)
    args.test_assumed = args.test_jsonl is None
    if args.test_assumed:
        args.test_jsonl = SPLITS_DIR / "test.jsonl"
        if not args.test_jsonl.is_file():
            parser.error(f"name the test pairs with --test_jsonl; looked for {args.test_jsonl}, which is not here")
    # One file may be an ensemble's, of several networks.
    if len(args.checkpoint or []) > 1 and args.n_folds not in (None, len(args.checkpoint)):
        parser.error(f"--n_folds {args.n_folds}, but --checkpoint names {len(args.checkpoint)} files")
    with flagged("--output_dir", args.output_dir):
        is_file = is_no_folder(args.output_dir)
        holds_training = any((args.output_dir / name).exists() for name in ("train.log", "cv_summary.json"))
    if holds_training:
        parser.error(
            f"--output_dir {args.output_dir} holds a training, whose files would be mixed with the results; name another folder"
        )
    if is_file:
        parser.error(f"--output_dir {args.output_dir} is a file, not a folder")
    return args, from_args(EvaluationConfig, args, parser), from_args(BaselineConfig, args, parser)
