"""The command line of export_model.py -> checked options. Needs no torch: --help and a mistyped flag answer at once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from common.exits import flagged
from common.options import make_parser
from data.config import add_likeness_option

BEST_FOLD = "best"
BEGUN = ".darkir-export."


def parse_args(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Flags -> args, with `card`, the model card's path, beside them. What could not be written is a usage error (exit 2)."""
    parser = make_parser(description)
    model = parser.add_argument_group("model")
    model.add_argument("--cv_dir", type=Path, required=True, help="output folder of train_darkir_cv.py, all folds done")
    model.add_argument(
        "--choose",
        default=BEST_FOLD,
        help="best: the best fold on the test photos, or by validation where those are of fewer than five units; fold_K: that "
        "fold; average: the mean of the folds' weights; ensemble: all folds' networks in one file, whose outputs are averaged",
    )
    photos = parser.add_argument_group("photos")
    photos.add_argument("--test_jsonl", type=Path, help="test pairs; default: those of the split that the run recorded")
    photos.add_argument("--base_dir", type=Path, help="folder that relative paths start from; default: as recorded")
    add_likeness_option(photos, "models", "a test photo")
    photos.add_argument(
        "--group_key",
        help="row field of --test_jsonl; rows with the same value are one unit; default: as recorded, or group",
    )
    photos.add_argument("--num_workers", type=int, default=4, help="loader processes (0: load in the main process)")
    files = parser.add_argument_group("files")
    files.add_argument("--output", type=Path, required=True, help="NAME.safetensors; the model card becomes NAME.md")
    files.add_argument(
        "--onnx", type=Path, help="also write NAME.onnx and check it (needs onnx, onnxscript, onnxruntime)"
    )
    files.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    parser.add_argument_group("run").add_argument("--device", default="auto", help="auto, cuda, cpu or cuda:N")
    args = parser.parse_args(argv)
    for flag, path, suffix in (("--output", args.output, ".safetensors"), ("--onnx", args.onnx, ".onnx")):
        with flagged(flag, path):
            if path is not None and (reason := _no_place(path, suffix)):
                parser.error(f"{flag} {path}: {reason}")
    args.card = args.output.with_suffix(".md")
    wanted = [path for path in (args.output, args.card, args.onnx) if path is not None]
    left = left_by_killed_export(args.output, wanted)
    there = [path for path in wanted if path.exists() and path not in left]
    if there and not args.overwrite:
        parser.error(f"{', '.join(map(str, there))} exists; choose another --output, or replace it with --overwrite")
    if args.group_key is not None and args.test_jsonl is None:
        parser.error("--group_key belongs to --test_jsonl; the split that the run recorded has its own")
    if args.num_workers < 0:
        parser.error(f"--num_workers {args.num_workers}: must be 0 or more")
    return args


def begun_file(output: Path) -> Path:
    """Stands while an export is written; lists the files that appear before `output` does, a line each."""
    return output.with_name(f"{BEGUN}{output.name}")


def left_by_killed_export(output: Path, paths: list[Path]) -> list[Path]:
    """Those of `paths` that an export of `output` that was killed has written: the same command may replace them."""
    begun = begun_file(output)
    listed = begun.read_bytes().splitlines() if begun.is_file() else []
    return [path for path in paths if os.fsencode(path.absolute()) in listed]


def _no_place(path: Path, suffix: str) -> str | None:
    """Why no file can be written as `path`: said before hours of scoring, not after."""
    if path.suffix != suffix:
        return f"the name must end in {suffix}"
    if str(path).encode("utf-8", "ignore").decode("utf-8") != str(path):
        return "the name is not UTF-8, which the model card is"
    if path.is_dir() or path.with_suffix(".md").is_dir():
        return "there is a folder of that name, or of the model card's"
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        return f"{nearest} is a file, not a folder"
    return None if os.access(nearest, os.W_OK) else f"{nearest} cannot be written to"
