"""Options of prepare_fivek_robust.py. Needs neither torch nor Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.options import option, require
from data.config import MIN_SIDE


@dataclass(frozen=True)
class FivekConfig:
    """Where the photos are, which become pairs, how those look, and which of them validate."""

    fivek_dir: str = option("fivek_dataset", "folder with the inputs and the renditions, in any known layout")
    output_dir: str = option("fivek_processed", "folder for images and JSONL files")
    expert: Literal["A", "B", "C", "D", "E"] = option("C", "whose renditions are the targets")
    val_ratio: float = option(0.05, "share of validation pairs, 0 up to but not including 1; each by a hash of its id")
    min_resolution: int = option(256, "pairs with a shorter short side (pixels) are rejected")
    max_resolution: int = option(2048, "long side (pixels) to which larger pairs are scaled")
    jpeg_quality: int = option(95, "of the images written, 1 to 100 (4:4:4)")
    workers: int | None = option(None, "processes; without it, one a CPU, fewer when memory is short")
    limit: int | None = option(None, "only the first so many pairs, by id; for a trial")
    max_reject: float = option(0.02, "share of pairs that may be rejected, 0 to 1, before the exit code is 3")
    seed: int = option(42, "another seed gives another validation set")
    assume_profile: Literal["srgb", "prophoto"] = option("srgb", "colours of targets without an embedded profile")
    auto_wb: bool = option(
        False, "develop a raw file without white balance by LibRaw's automatic one, instead of rejecting it"
    )
    prefer: str | None = option(
        None, "suffixes in order, say tif,dng,jpg: which file to take when a photo is there more than once"
    )
    val_list: str | None = option(
        None, "file with one id or name a line: exactly these validate, no hash, no --val_ratio"
    )
    split_by: Literal["id", "day"] = option(
        "id", "what is hashed: day keeps photos taken on one day, so whole bursts, on one side"
    )
    verify: bool = option(False, "read every finished image again and remake those that changed")

    def __post_init__(self) -> None:
        smallest, largest = self.min_resolution, self.max_resolution
        require(0 <= self.val_ratio < 1, f"--val_ratio must be at least 0 and below 1, not {self.val_ratio}")
        require(smallest >= MIN_SIDE, f"--min_resolution must be {MIN_SIDE} or more, not {smallest}")
        require(largest >= smallest, f"--max_resolution must be --min_resolution ({smallest}) or more, not {largest}")
        require(1 <= self.jpeg_quality <= 100, f"--jpeg_quality must be 1 to 100, not {self.jpeg_quality}")
        require(self.workers is None or self.workers >= 1, f"--workers must be 1 or more, not {self.workers}")
        require(self.limit is None or self.limit >= 1, f"--limit must be 1 or more, not {self.limit}")
        require(0 <= self.max_reject <= 1, f"--max_reject must be 0 to 1, not {self.max_reject}")

    @property
    def preferred_suffixes(self) -> list[str]:
        """The suffixes of --prefer with their dots, lower case."""
        words = (self.prefer or "").lower().replace(" ", "").split(",")
        return [f".{word.lstrip('.')}" for word in words if word]
