"""Records of epochs -> what a person watches: history.json, curves.png, TensorBoard scalars, a few validation pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from common.files import atomic_output, write_json
from data.dataset import EvaluationPairs
from engine.inference import Restore, to_float

PICTURES = 4
CURVES_EVERY = 10
# TensorBoard's sections, which it sorts by name -> the keys of a record of history.json in them. Loss terms: TERMS.
SECTIONS = {
    "1_validation": ("val_psnr", "val_ssim", "val_loss"),
    "2_training": ("train_loss",),
    "4_updates": ("lr", "grad_norm", "skipped_steps", "seconds", "images_per_second"),
}
TERMS, PHOTOS = "3_train_terms", "5_photos"
# Panel title of curves.png -> (record key, label) of its lines.
PANELS = {
    "Loss": (("train_loss", "training (weighted sum)"), ("val_loss", "validation (L1)")),
    "Validation PSNR (dB)": (("val_psnr", None),),
    "Validation SSIM": (("val_ssim", None),),
    "Learning rate": (("lr", None),),
}
SINGLE_POINT, LINE_ONLY = "o", ""


class Tracker:
    """Writes a run's records into its folder; after a resume it overwrites what came in `next_epoch` and later.

    history: of the epochs before. A run that began when tags had other names gets it again under those of today.
    """

    def __init__(self, folder: Path, next_epoch: int, history: list[dict]):
        self.folder = folder
        place = folder / "tensorboard"
        has_other_names = bool(history) and not _has_tag(place, f"1_validation/{SECTIONS['1_validation'][0]}")
        self.writer = SummaryWriter(str(place), purge_step=next_epoch)
        for record in history if has_other_names else ():
            self._scalars(record)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.writer.close()

    def epoch(self, history: list[dict]) -> None:
        """Write the whole history, and the newest record's scalars at its epoch."""
        record = history[-1]
        write_json(self.folder / "history.json", history)
        self._scalars(record)
        self.writer.flush()
        if record["epoch"] and record["epoch"] % CURVES_EVERY == 0:
            self.curves(history)

    def _scalars(self, record: dict) -> None:
        tags = {f"{section}/{name}": record[name] for section, names in SECTIONS.items() for name in names}
        tags |= {f"{TERMS}/{name}": value for name, value in record["train_terms"].items()}
        for tag, value in tags.items():
            if value is not None:  # of updates, epoch 0 has none
                self.writer.add_scalar(tag, value, record["epoch"])

    def curves(self, history: list[dict]) -> None:
        """Draw curves.png from the whole history (at least one record of an epoch with updates)."""
        write_curves(self.folder / "curves.png", history)

    def pictures(self, epoch: int, dataset: EvaluationPairs, restore: Restore, device: torch.device) -> None:
        """Add the same few validation photos every time: source | restored | target, values in [0, 1]."""
        for index in range(0, len(dataset), -(-len(dataset) // PICTURES)):
            sample = dataset[index]
            src = to_float(sample["src"][None], device)
            strip = torch.cat([src, restore(src), to_float(sample["tar"][None], device)], dim=3)
            self.writer.add_image(f"{PHOTOS}/{dataset.pairs[index].stem}", strip[0].cpu().numpy(), epoch)


def _has_tag(folder: Path, tag: str) -> bool:
    """Whether an event file in `folder` knows `tag`: it stands there as it is."""
    return any(tag.encode() in path.read_bytes() for path in folder.glob("events.out.tfevents.*"))


def write_curves(path: Path, history: list[dict]) -> None:
    """Draw the records (at least one) and write the PNG whole; dashed line: best epoch, dotted: a change on the way."""
    # A Figure of its own, not pyplot: no global state, no display, whatever MPLBACKEND says.
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    changes = [change for record in history for change in record.get("changes", [])]
    best = max((record["epoch"] for record in history if record["is_best"]), default=None)
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for name, label in lines:
            points = [(record["epoch"], record[name]) for record in history if record[name] is not None]
            marker = SINGLE_POINT if len(points) == 1 else LINE_ONLY
            axes.plot(*zip(*points, strict=True), label=label, marker=marker)
        if best is not None:
            axes.axvline(best, color="0.6", linestyle="--", linewidth=1, label=f"best epoch {best}")
        for change in changes:
            label = f"{change['flag']} after epoch {change['epoch']}"
            axes.axvline(change["epoch"] + 0.5, color="tab:red", linestyle=":", linewidth=1, label=label)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize=9)
    figure.axes[-1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    with atomic_output(path) as temporary:
        # No software entry: the same history gives the same bytes.
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
