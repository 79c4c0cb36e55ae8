"""The options of the data: how photos become samples, how pairs become a split, what an audit looks at. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from common.options import require

MIN_RESOLUTION, MAX_RESOLUTION = 16, 16384


@dataclass(frozen=True)
class DataConfig:
    """How photos become samples. `changes_result: False` marks what a rerun of a begun run may change."""

    resolution: int = field(
        default=384, metadata={"help": "short side in pixels after resizing, and side of the training crop"}
    )
    fit: Literal["crop", "squash"] = field(
        default="crop",
        metadata={
            "help": "crop: keep the aspect ratio, train on crops, validate whole frames; squash: resize to a square"
        },
    )
    preprocess: Literal["none", "light_aug", "strong_aug"] = field(
        default="light_aug",
        metadata={
            "help": "augmentation: light_aug = flips; strong_aug adds quarter turns, and exposure and cast on the source"
        },
    )
    num_workers: int = field(
        default=4,
        metadata={
            "help": "loader processes (0: load in the main process); changes no result",
            "changes_result": False,
        },
    )
    cache: Literal["auto", "disk", "off"] = field(
        default="auto",
        metadata={
            "help": "decode photos once into a memory-mapped file: auto, when the disk has room, and copied to the GPU when a "
            "quarter of its free memory holds it; disk, always, and not copied; off, never",
            "changes_result": False,
        },
    )
    cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "folder of that file, a node's local disk say; default: cache in --output_dir",
            "changes_result": False,
        },
    )
    mix_jsonl: str | None = field(
        default=None, metadata={"help": "other pairs, FiveK for example, mixed into the batches of every fold"}
    )
    mix_ratio: float = field(
        default=0.5,
        metadata={"help": "share of --mix_jsonl samples in the first epoch; it falls evenly to 0 in the last"},
    )

    def __post_init__(self) -> None:
        require(0 < self.mix_ratio < 1, f"--mix_ratio {self.mix_ratio}: must be between 0 and 1")
        allowed = MIN_RESOLUTION <= self.resolution <= MAX_RESOLUTION
        require(allowed, f"--resolution {self.resolution}: must be {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels")
        require(self.num_workers >= 0, f"--num_workers {self.num_workers}: must be 0 or more")


@dataclass(frozen=True)
class SplitConfig:
    """Options of create_data_splits.py."""

    input_jsonl: str | None = field(default=None, metadata={"help": "pairs, one JSON object a line: src, tar, group"})
    input_dir: str | None = field(
        default=None,
        metadata={"help": "instead of a JSONL: folder with NAME_src.* and NAME_tar.* images, at any depth"},
    )
    base_dir: str | None = field(
        default=None, metadata={"help": "folder for relative paths in the JSONL; without it, the JSONL's own folder"}
    )
    test_size: int = field(default=10, metadata={"help": "pairs in the test set"})
    n_folds: int = field(default=3, metadata={"help": "folds"})
    scheme: Literal["kfold", "shuffle"] = field(
        default="kfold",
        metadata={"help": "kfold: validation parts are disjoint and cover everything; shuffle: independent draws"},
    )
    val_ratio: float = field(
        default=0.1, metadata={"help": "share of validation pairs, 0 to 1, for --scheme shuffle and --n_folds 1"}
    )
    group_key: str = field(default="group", metadata={"help": "row field; rows with the same value stay on one side"})
    near_duplicates: Literal["group", "report", "off"] = field(
        default="group",
        metadata={"help": "photos that look the same: keep on one side, only report, or do not look for them"},
    )
    drop: str | None = field(
        default=None,
        metadata={
            "help": "file with the src of rows to leave out, as written in the input: a name a line, or lines of "
            "audit.jsonl"
        },
    )
    seed: int = field(default=42, metadata={"help": "another seed gives another split"})
    output_dir: str = field(default="data_splits", metadata={"help": "folder for the split files"})

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

    audit: bool = field(
        default=False,
        metadata={
            "help": "make no split: look for pairs that seem wrong and write OUTPUT_DIR/audit.html and audit.jsonl, "
            "worst first; exit code 0 whatever is found"
        },
    )
    oof: str | None = field(
        default=None,
        metadata={
            "help": "with --audit: oof_predictions.csv of a cross-validation; adds photos that score far too low"
        },
    )

    def __post_init__(self) -> None:
        require(self.audit or self.oof is None, "--oof belongs to --audit")
