"""The command line of train_darkir_cv.py -> checked options. Each option exists once: type, default, help, at its field.

An option whose field says `changes_result=False` may differ in a rerun of the same folder. Needs no torch, so that a mistyped
flag is told at once.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.exits import flagged
from common.files import is_no_folder
from common.options import Parser, add_options, finite_float, from_args, make_parser, option, require
from darkir.architectures import MODEL_SIZES, Config, RestormerConfig, encoder_stages
from data.config import SPLITS_DIR, VAL_RATIO, DataConfig, add_likeness_option
from data.manifest import METADATA
from losses.config import LossConfig


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and what it starts from."""

    arch: Literal["darkir", "restormer"] = option(
        "darkir", "the architecture: DarkIR, or Restormer as the baseline to compare with"
    )
    model_size: Literal["m", "l", "tiny"] = option(
        "m",
        "darkir: m has width 32, 3.3 M parameters, l width 64, 13 M; restormer: l is the published one, "
        "dim 48, 26 M, and m has dim 24, 3.8 M, about the parameters of DarkIR-m at three times its operations; "
        "tiny: width 8, for trying things out",
    )
    layer_norm: Literal["WithBias", "BiasFree"] = option(
        "WithBias", "LayerNorm of restormer; published weights for denoising are BiasFree, the others WithBias"
    )
    pretrained_path: str | None = option(
        None,
        "weights to start from: a checkpoint of this toolkit or a published file",
        changes_result=False,  # its content does: see requested_config
    )
    allow_partial: bool = option(False, "accept --pretrained_path weights that fill only a part of the network")

    def __post_init__(self) -> None:
        require(
            self.arch == "restormer" or self.layer_norm == "WithBias",
            f"--layer_norm {self.layer_norm} with --arch {self.arch}: only restormer has a choice of it",
        )

    @property
    def network(self) -> Config:
        """The network's description."""
        config = MODEL_SIZES[self.arch][self.model_size]
        return (
            dataclasses.replace(config, layer_norm=self.layer_norm) if isinstance(config, RestormerConfig) else config
        )


@dataclass(frozen=True)
class TrainConfig:
    """How the weights are updated, and when a run ends."""

    epochs: int = option(100, "passes over the training pairs")
    batch_size: int = option(8, "pairs in a batch")
    lr: float = option(1e-4, "peak learning rate of AdamW; a cosine takes it down to 1 %")
    warmup_epochs: int = option(5, "epochs of linear warm-up, cut to 10 % of all updates")
    weight_decay: float = option(1e-4, "AdamW weight decay of the convolution kernels")
    grad_clip: float = option(1.0, "largest 2-norm of the gradient (0: no clipping)")
    accumulate_steps: int = option(1, "batches whose mean gradient makes one update")
    ema_decay: float = option(0.999, "decay of the weight average that is validated and kept (0: off)")
    early_stopping_patience: int = option(15, "epochs without a better validation PSNR before the run ends (0: never)")
    mixed_precision: bool = option(False, "run the network in 16 bit where that is safe")
    amp_dtype: Literal["auto", "bf16", "fp16"] = option(
        "auto",
        "16-bit format of --mixed_precision: auto takes bf16 where the device has it, else fp16 with loss scaling",
        needs="mixed_precision",
    )
    tf32: Literal["on", "off"] = option(
        "on", "on a GPU, let the float32 parts of an update round their factors to TF32; scores never do"
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto",
        "compile the updates: auto does on a GPU when the run is long enough; a run that has begun goes on as it began",
        changes_result=False,  # its outcome does, and is part of the state
        alone="on",
    )
    checkpoint_activations: bool = option(
        False,
        "compute a block's features again for the gradient: less memory, more time, the same result",
        changes_result=False,
    )
    seed: int = option(42, "seed of weights, order, crops and augmentation")
    save_every: int = option(10, "epochs between kept checkpoint_epoch_N.pt files (0: none)", changes_result=False)
    checkpoint_every_steps: int | None = option(
        None,
        "updates between saves of checkpoint_last.pt inside an epoch; default: about every two minutes",
        changes_result=False,
    )
    skip_bad_batches: int = option(
        0, "updates with a non-finite loss or gradient that a run may leave out before it stops", changes_result=False
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate_steps"):
            require(getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: must be at least 1")
        not_negative = ("warmup_epochs", "weight_decay", "grad_clip", "early_stopping_patience", "save_every")
        for name in (*not_negative, "skip_bad_batches", "seed"):
            require(getattr(self, name) >= 0, f"--{name} {getattr(self, name)}: must not be negative")
        require(self.seed < 2**63, f"--seed {self.seed}: must be below 2**63")
        every = self.checkpoint_every_steps
        require(every is None or every >= 1, f"--checkpoint_every_steps {every}: must be at least 1")
        require(self.lr > 0, f"--lr {self.lr}: must be above 0")
        require(0 <= self.ema_decay < 1, f"--ema_decay {self.ema_decay}: must be in [0, 1)")


@dataclass(frozen=True)
class FinetuneConfig:
    """How pre-trained weights are treated with care."""

    freeze_stages: int = option(0, "encoder stages, counted from the input, that do not learn")
    unfreeze_every: int = option(
        0, "epochs after which one more frozen stage learns, the deepest first (0: they stay frozen)"
    )
    layer_decay: float = option(
        1.0, "factor on the learning rate for each stage nearer to the input (1: the same everywhere)"
    )

    def __post_init__(self) -> None:
        for name in ("freeze_stages", "unfreeze_every"):
            require(getattr(self, name) >= 0, f"--{name} {getattr(self, name)}: must not be negative")
        require(0 < self.layer_decay <= 1, f"--layer_decay {self.layer_decay}: must be in (0, 1]")
        require(
            self.freeze_stages > 0 or self.unfreeze_every == 0,
            "--unfreeze_every needs --freeze_stages: nothing is frozen",
        )


@dataclass(frozen=True)
class Options:
    """Everything a run was asked for, whatever its fold. The configs have one name here, in checkpoints and in reports.

    weights_flag: the flag that named model.pretrained_path, for messages: --resume may name a file of weights, too.
    vgg_sha256: of the VGG19 weights that the loss uses; None when it uses none, and when they are not there.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    overwrite: bool = False
    extend: bool = False
    accept_changes: bool = False
    resume: Path | None = None
    weights_flag: Literal["--pretrained_path", "--resume"] = "--pretrained_path"
    vgg_sha256: str | None = None


# Section of Options -> its class, and the title that --help gives it.
SECTIONS: dict[str, tuple[type, str]] = {
    "data": (DataConfig, "data"),
    "model": (ModelConfig, "model"),
    "train": (TrainConfig, "training"),
    "loss": (LossConfig, "losses"),
    "finetune": (FinetuneConfig, "fine-tuning"),
}


def parse_args(argv: list[str] | None, description: str) -> tuple[argparse.Namespace, Options]:
    """Flags -> (args, Options); a contradiction between flags is a usage error (exit 2). `args.given`: the flags named."""
    parser = make_parser(description)
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--data_splits_dir",
        type=Path,
        help="split folder written by create_data_splits.py; default: data_splits, where one is here",
    )
    rows.add_argument("--train_jsonl", type=Path, help="train one model on these pairs instead of the folds of a split")
    rows.add_argument(
        "--val_jsonl", type=Path, help="validation pairs of a single run; default: val.jsonl beside --train_jsonl"
    )
    rows.add_argument(
        "--test_jsonl",
        type=Path,
        help="test pairs that a single run must not see; default: those of a data_splits/ here or beside its rows",
    )
    rows.add_argument(
        "--exclude_splits_dir",
        type=Path,
        help="split that the weights of a single run will be fine-tuned on: rows that hold one of its test or validation "
        "photos, or look like one, are left out and listed; with --near_duplicates report, look-alikes are only named",
    )
    rows.add_argument(
        "--val_ratio",
        type=finite_float,
        help=f"share held out when a single run has no validation pairs; default: {VAL_RATIO}",
    )
    rows.add_argument(
        "--base_dir", type=Path, help="folder that relative paths start from; default: as the split recorded"
    )
    add_likeness_option(rows, "starting weights", "a test or validation photo")
    rows.add_argument(
        "--allow_seen_validation",
        action="store_true",
        help="start from weights that saw validation photos, and mark every validation and out-of-fold score as contaminated",
    )
    rows.add_argument(
        "--group_key",
        help="row field of a single run; rows with the same value stay on one side; default: as the split recorded, or group",
    )
    rows.add_argument("--n_folds", type=int, help="refuse a split with another number of folds")
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
        "--extend",
        action="store_true",
        help="let a finished run go on to --epochs in all: from its last state, with a fresh schedule for the added epochs",
    )
    run.add_argument(
        "--accept_changes",
        action="store_true",
        help="let a run that has begun go on with another --epochs, --early_stopping_patience or --mixed_precision, or with "
        "--batch_size and --accumulate_steps of the same product; recorded in history.json",
    )
    run.add_argument(
        "--dry_run", action="store_true", help="check everything, estimate time, disk and memory, write nothing"
    )
    run.add_argument("--device", default="auto", help="auto, cuda, cpu or cuda:N")
    run.add_argument("--kernels", help=argparse.SUPPRESS)  # of old commands
    for config_class, title in SECTIONS.values():
        add_options(parser, config_class, title)
    args = parser.parse_args(argv)
    args.given = parser.given
    args.split_assumed = args.data_splits_dir is None and args.train_jsonl is None and (SPLITS_DIR / METADATA).is_file()
    if args.split_assumed:
        args.data_splits_dir = SPLITS_DIR
    configs: dict[str, Any] = {
        name: from_args(config_class, args, parser) for name, (config_class, _) in SECTIONS.items()
    }
    going_on = {name: getattr(args, name) for name in ("overwrite", "extend", "accept_changes", "resume")}
    options = Options(**configs, **going_on)
    _refuse_contradictions(args, options, parser)
    if args.output_dir is None:
        model, suffix = options.model, "_cv" if args.data_splits_dir else ""
        args.output_dir = Path(f"outputs_{model.arch}_{options.data.resolution}_{model.model_size}{suffix}")
    return args, options


def _refuse_contradictions(args: argparse.Namespace, options: Options, parser: Parser) -> None:
    if (args.data_splits_dir is None) == (args.train_jsonl is None):
        looked = "" if args.train_jsonl else f"; looked for {SPLITS_DIR / METADATA}, which is not here"
        parser.error(f"give either --data_splits_dir (folds) or --train_jsonl (one model){looked}")
    for name in ("fold", "n_folds"):
        if args.train_jsonl is not None and name in parser.given:
            parser.error(f"--{name} belongs to --data_splits_dir; a run from --train_jsonl has no folds")
    if args.data_splits_dir is not None and (args.val_jsonl or args.test_jsonl):
        parser.error("--val_jsonl and --test_jsonl belong to --train_jsonl; a split brings its own")
    if args.data_splits_dir is not None and args.exclude_splits_dir is not None:
        parser.error("--exclude_splits_dir belongs to --train_jsonl; the folds of a split hold out their own photos")
    if "val_ratio" in parser.given and (args.data_splits_dir is not None or args.val_jsonl is not None):
        parser.error("--val_ratio belongs to --train_jsonl without --val_jsonl: these bring their validation pairs")
    if args.data_splits_dir is not None and args.group_key is not None:
        parser.error("--group_key belongs to --train_jsonl; a split records its own")
    if args.val_ratio is not None and not 0 < args.val_ratio < 1:
        parser.error(f"--val_ratio {args.val_ratio}: must be between 0 and 1")
    if args.resume is not None and args.overwrite:
        parser.error("--resume continues a run and --overwrite discards it: give one of them")
    if args.overwrite and (args.extend or args.accept_changes):
        parser.error("--extend and --accept_changes go on with a run and --overwrite discards it: give one of them")
    if args.fold is not None and args.fold < 1:
        parser.error(f"--fold {args.fold}: folds are counted from 1")
    if args.kernels not in (None, "plain"):
        parser.error(
            f"--kernels {args.kernels}: the Triton kernels are gone; on a GPU, plain PyTorch with the compiler is faster than "
            "they were. Leave --kernels out"
        )
    model, stages = options.model, encoder_stages(options.model.network)
    if options.loss.lambda_side and model.arch == "restormer":
        parser.error(f"--lambda_side {options.loss.lambda_side:g} with --arch restormer: Restormer has no side output")
    if options.finetune.freeze_stages > stages:
        parser.error(f"--freeze_stages {options.finetune.freeze_stages}: the network has {stages} encoder stages")
    with flagged("--output_dir", args.output_dir):
        if args.output_dir is not None and is_no_folder(args.output_dir):
            parser.error(f"--output_dir {args.output_dir} is a file, not a folder")
