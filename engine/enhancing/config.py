"""The command line of enhance_photos.py -> checked options. Needs no torch: --help and a mistyped flag answer at once."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.exits import flagged
from common.files import is_no_folder
from common.options import add_options, from_args, make_parser, option, require
from data.config import MIN_RESOLUTION


@dataclass(frozen=True)
class EnhanceConfig:
    """How photos become restored photos."""

    scale: Literal["native", "training"] = option(
        "native",
        "native: the networks see every pixel of the photo; training: they see a copy of the size that they were "
        "trained at, and its change of tones and colours is carried over to the full photo: many times faster",
    )
    max_side: int | None = option(None, "shrink larger photos to this long side in pixels; default: native size")
    tta: bool = option(False, "average each network over the four flips of a photo: four times the time")
    mixed_precision: bool = option(False, "run the networks in 16 bit: bf16 where the device has it, else fp16")
    format: Literal["same", "jpeg", "png", "tiff"] = option(
        "same", "same: JPEG, PNG and TIFF stay what they are, others become JPEG; 16 bits stay 16 bits but in JPEG"
    )
    jpeg_quality: int = option(95, "1 to 100; colour is not subsampled")

    def __post_init__(self) -> None:
        require(self.max_side is None or self.max_side >= MIN_RESOLUTION, f"--max_side {self.max_side}: too small")
        require(1 <= self.jpeg_quality <= 100, f"--jpeg_quality {self.jpeg_quality}: must be 1 to 100")


def parse_args(argv: list[str] | None, description: str) -> tuple[argparse.Namespace, EnhanceConfig]:
    """Flags -> (args, EnhanceConfig); `args.shard` becomes the slice of the photos that it means, `args.not_enhanced` the name of
    the list of those that failed; `args.unused` says which given flag has no effect."""
    parser = make_parser(description)
    models = parser.add_argument_group("models").add_mutually_exclusive_group(required=True)
    models.add_argument("--cv_dir", type=Path, help="output folder of train_darkir_cv.py; takes every fold's best")
    models.add_argument(
        "--checkpoint", type=Path, nargs="+", help="weights files instead, one or more (.pt, .safetensors)"
    )
    photos = parser.add_argument_group("photos")
    photos.add_argument(
        "--input", type=Path, nargs="+", required=True, help="photos, or folders that are searched for photos"
    )
    photos.add_argument("--output", type=Path, required=True, help="folder of the results")
    photos.add_argument("--shard", help="i/n: only the i-th of n parts of the photos, for job arrays")
    photos.add_argument("--overwrite", action="store_true", help="make again what is there already")
    add_options(parser, EnhanceConfig, "enhancement")
    parser.add_argument_group("run").add_argument("--device", default="auto", help="auto, cuda, cpu or cuda:N")
    args = parser.parse_args(argv)
    with flagged("--output", args.output):
        if is_no_folder(args.output):
            parser.error(f"--output {args.output} is a file, not a folder")
    parts = re.fullmatch(r"(\d{1,9})/(\d{1,9})", "1/1" if args.shard is None else args.shard)
    if not (parts and 1 <= int(parts[1]) <= int(parts[2])):
        parser.error(f"--shard {args.shard}: must be i/n with i from 1 to n, such as 2/8")
    part, count = int(parts[1]), int(parts[2])
    # A list of its own for each part: they run at the same time.
    args.not_enhanced = "not_enhanced.txt" if args.shard is None else f"not_enhanced_{part}_of_{count}.txt"
    args.shard = slice(part - 1, None, count)
    config = from_args(EnhanceConfig, args, parser)
    lossless = config.format in ("png", "tiff") and "jpeg_quality" in parser.given
    args.unused = [f"Note: --jpeg_quality is not used: --format {config.format}"] if lossless else []
    return args, config
