"""The options of the data: how photos become samples, how pairs become a split, what an audit looks at. Needs no torch."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.options import option, require

MIN_RESOLUTION, MAX_RESOLUTION = 16, 16384
SPLITS_DIR = Path("data_splits")  # where a split is looked for when none is named
VAL_RATIO = 0.1  # of a single run without validation pairs
MIN_SIDE = 11  # pixels, the SSIM window: a smaller photo could be neither validated nor tested


@dataclass(frozen=True)
class DataConfig:
    """How photos become samples. `changes_result=False` marks what a rerun of a begun run may change."""

    resolution: int = option(384, "short side in pixels after resizing, and side of the training crop")
    fit: Literal["crop", "squash"] = option(
        "crop", "crop: keep the aspect ratio, train on crops, validate whole frames; squash: resize to a square"
    )
    preprocess: Literal["none", "light_aug", "strong_aug"] = option(
        "light_aug",
        "augmentation: light_aug = flips; strong_aug adds quarter turns, and exposure and cast on the source",
    )
    num_workers: int = option(
        4, "loader processes (0: load in the main process); changes no result", changes_result=False
    )
    cache: Literal["auto", "disk", "off"] = option(
        "auto",
        "decode photos once into a memory-mapped file: auto, when the disk has room, and copied to the GPU when a "
        "quarter of its free memory holds it; disk, always, and not copied; off, never",
        changes_result=False,
    )
    cache_dir: str | None = option(
        None, "folder of that file, a node's local disk say; default: cache in --output_dir", changes_result=False
    )
    mix_jsonl: str | None = option(
        None,
        "other pairs, FiveK for example, mixed into the batches of every fold",
        changes_result=False,  # its rows do: see requested_config
    )
    mix_ratio: float = option(
        0.5, "share of --mix_jsonl samples in the first epoch; it falls evenly to 0 in the last", needs="mix_jsonl"
    )

    def __post_init__(self) -> None:
        require(0 < self.mix_ratio < 1, f"--mix_ratio {self.mix_ratio}: must be between 0 and 1")
        allowed = MIN_RESOLUTION <= self.resolution <= MAX_RESOLUTION
        require(allowed, f"--resolution {self.resolution}: must be {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels")
        require(self.num_workers >= 0, f"--num_workers {self.num_workers}: must be 0 or more")


@dataclass(frozen=True)
class SplitConfig:
    """Options of create_data_splits.py."""

    input_jsonl: str | None = option(None, "pairs, one JSON object a line: src, tar, group")
    input_dir: str | None = option(
        None, "instead of a JSONL: folder with NAME_src.* and NAME_tar.* images, at any depth"
    )
    base_dir: str | None = option(None, "folder for relative paths in the JSONL; without it, the JSONL's own folder")
    test_size: int = option(10, "pairs in the test set")
    n_folds: int = option(3, "folds")
    scheme: Literal["kfold", "shuffle"] = option(
        "kfold", "kfold: validation parts are disjoint and cover everything; shuffle: independent draws"
    )
    val_ratio: float = option(0.1, "share of validation pairs, 0 to 1, for --scheme shuffle and --n_folds 1")
    group_key: str = option("group", "row field; rows with the same value stay on one side")
    near_duplicates: Literal["group", "report", "off"] = option(
        "group", "photos that look the same: keep on one side, only report, or do not look for them"
    )
    drop: str | None = option(
        None, "file with the src of rows to leave out, as written in the input: a name a line, or lines of audit.jsonl"
    )
    seed: int = option(42, "another seed gives another split")
    output_dir: str = option("data_splits", "folder for the split files")

    def __post_init__(self) -> None:
        require((self.input_jsonl is None) != (self.input_dir is None), "give either --input_jsonl or --input_dir")
        require(
            self.input_dir is None or self.base_dir is None,
            "--base_dir belongs to --input_jsonl; paths of --input_dir are relative to that folder",
        )
        require(self.test_size >= 1, f"--test_size must be at least 1, not {self.test_size}")
        require(self.n_folds >= 1, f"--n_folds must be at least 1, not {self.n_folds}")
        require(0 < self.val_ratio < 1, f"--val_ratio must lie between 0 and 1, not {self.val_ratio}")
        named = self.group_key not in ("", "src", "tar")
        require(named, f"--group_key must name a field other than src and tar, not {self.group_key!r}")

    @property
    def draws_validation(self) -> bool:
        """Whether --val_ratio is used: folds are independent draws, not parts of one partition."""
        return self.scheme == "shuffle" or self.n_folds == 1


@dataclass(frozen=True)
class AuditConfig:
    """Options of create_data_splits.py --audit."""

    audit: bool = option(
        False,
        "make no split: look for pairs that seem wrong and write OUTPUT_DIR/audit.html and audit.jsonl, "
        "worst first; exit code 0 whatever is found",
    )
    oof: str | None = option(
        None, "with --audit: oof_predictions.csv of a cross-validation; adds photos that score far too low"
    )

    def __post_init__(self) -> None:
        require(self.audit or self.oof is None, "--oof belongs to --audit")


def add_likeness_option(group: argparse._ArgumentGroup, seers: str, photo: str) -> None:
    """Add --near_duplicates, what becomes of `seers` (models, starting weights) that saw what looks like `photo`, to `group`."""
    group.add_argument(
        "--near_duplicates",
        choices=("refuse", "report", "off"),
        help=f"{seers} that saw a photo which looks like {photo}: refuse, report, or off (do not look); default: as the split of "
        "the test photos was made, where group means refuse; without one: refuse",
    )
