"""The command line of train_darkir_cv.py -> checked options. Needs no torch, so that a mistyped flag is told at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.options import add_options, finite_float, from_args, make_parser
from darkir.architectures import encoder_stages
from engine.training.config import SECTIONS, Options


def parse_args(argv: list[str] | None, description: str) -> tuple[argparse.Namespace, Options]:
    """Flags -> (args, Options); a contradiction between flags is a usage error (exit 2)."""
    parser = make_parser(description)
    rows = parser.add_argument_group("rows")
    rows.add_argument("--data_splits_dir", type=Path, help="split folder written by create_data_splits.py")
    rows.add_argument("--train_jsonl", type=Path, help="train one model on these pairs instead of the folds of a split")
    rows.add_argument(
        "--val_jsonl", type=Path, help="validation pairs of a single run; default: val.jsonl beside --train_jsonl"
    )
    rows.add_argument("--test_jsonl", type=Path, help="test pairs that a single run must not see")
    rows.add_argument(
        "--val_ratio", type=finite_float, default=0.1, help="share held out when a single run has no validation pairs"
    )
    rows.add_argument(
        "--base_dir", type=Path, help="folder that relative paths start from; default: as the split recorded"
    )
    rows.add_argument("--n_folds", type=int, default=3, help="number of folds in the split")
    rows.add_argument("--fold", type=int, help="train only this fold, counted from 1")
    run = parser.add_argument_group("run")
    run.add_argument(
        "--output_dir", type=Path, help="default: outputs_ARCH_RESOLUTION_SIZE_cv, without _cv for a single run"
    )
    run.add_argument(
        "--overwrite", action="store_true", help="discard what a former run left in the folders of this one"
    )
    run.add_argument(
        "--resume", type=Path, help="continue from this state file (or start from a file with weights only)"
    )
    run.add_argument(
        "--dry_run", action="store_true", help="check everything, estimate time, disk and memory, write nothing"
    )
    run.add_argument("--device", default="auto", help="auto, cuda, cpu or cuda:N")
    run.add_argument("--kernels", help=argparse.SUPPRESS)  # of old commands
    for config_class, title in SECTIONS.values():
        add_options(parser, config_class, title)
    args = parser.parse_args(argv)
    configs = {name: from_args(config_class, args, parser) for name, (config_class, _) in SECTIONS.items()}
    options = Options(**configs, overwrite=args.overwrite, resume=args.resume)
    _refuse_contradictions(args, options, parser)
    if args.output_dir is None:
        model, suffix = options.model, "_cv" if args.data_splits_dir else ""
        args.output_dir = Path(f"outputs_{model.arch}_{options.data.resolution}_{model.model_size}{suffix}")
    return args, options


def _refuse_contradictions(args: argparse.Namespace, options: Options, parser: argparse.ArgumentParser) -> None:
    if (args.data_splits_dir is None) == (args.train_jsonl is None):
        parser.error("give either --data_splits_dir (folds) or --train_jsonl (one model)")
    if args.train_jsonl is not None and args.fold is not None:
        parser.error("--fold belongs to --data_splits_dir; a run from --train_jsonl has no folds")
    if args.data_splits_dir is not None and (args.val_jsonl or args.test_jsonl):
        parser.error("--val_jsonl and --test_jsonl belong to --train_jsonl; a split brings its own")
    if not 0 < args.val_ratio < 1:
        parser.error(f"--val_ratio {args.val_ratio}: must be between 0 and 1")
    if args.resume is not None and args.overwrite:
        parser.error("--resume continues a run and --overwrite discards it: give one of them")
    if args.fold is not None and not 1 <= args.fold <= args.n_folds:
        parser.error(f"--fold {args.fold}: must be 1 to {args.n_folds} (--n_folds)")
    if args.kernels not in (None, "plain"):
        parser.error(
            f"--kernels {args.kernels}: the Triton kernels are gone; on a GPU, plain PyTorch with --compile is faster than "
            "they were. Leave --kernels out"
        )
    model, stages = options.model, encoder_stages(options.model.network)
    if options.loss.lambda_side and model.arch == "restormer":
        parser.error(f"--lambda_side {options.loss.lambda_side:g} with --arch restormer: Restormer has no side output")
    if options.finetune.freeze_stages > stages:
        parser.error(f"--freeze_stages {options.finetune.freeze_stages}: the network has {stages} encoder stages")
    if args.output_dir is not None and args.output_dir.exists() and not args.output_dir.is_dir():
        parser.error(f"--output_dir {args.output_dir} is a file, not a folder")
