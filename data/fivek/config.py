"""Options of prepare_fivek_robust.py. Needs neither torch nor Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.options import option

SMALLEST_SIDE = 11  # the SSIM window: a smaller photo could be neither validated nor tested


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
        False, "develop a DNG without white balance by LibRaw's automatic one, instead of rejecting it"
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
        _within("val_ratio", self.val_ratio, 0 <= self.val_ratio < 1, "at least 0 and below 1")
        _within("min_resolution", self.min_resolution, self.min_resolution >= SMALLEST_SIDE, f"{SMALLEST_SIDE} or more")
        large = self.max_resolution >= self.min_resolution
        _within("max_resolution", self.max_resolution, large, f"--min_resolution ({self.min_resolution}) or more")
        _within("jpeg_quality", self.jpeg_quality, 1 <= self.jpeg_quality <= 100, "1 to 100")
        _within("workers", self.workers, self.workers is None or self.workers >= 1, "1 or more")
        _within("limit", self.limit, self.limit is None or self.limit >= 1, "1 or more")
        _within("max_reject", self.max_reject, 0 <= self.max_reject <= 1, "0 to 1")

    @property
    def preferred_suffixes(self) -> list[str]:
        """The suffixes of --prefer with their dots, lower case."""
        words = (self.prefer or "").lower().replace(" ", "").split(",")
        return [f".{word.lstrip('.')}" for word in words if word]


def _within(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"--{name} must be {wanted}, not {value}")
