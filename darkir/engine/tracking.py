"""What a person watches while a run goes on: history.json, curves.png, TensorBoard scalars and a few validation pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from darkir.engine.curves import write_curves
from darkir.engine.evaluation import Restore, to_float
from data.dataset import EvaluationPairs
from data.files import write_json

PICTURES = 4
CURVES_EVERY = 10
SCALARS = ("train_loss", "val_loss", "val_psnr", "val_ssim", "lr", "grad_norm", "images_per_second")


class Tracker:
    """Writes a run's records into its folder; after a resume it overwrites what came after `epochs_done`."""

    def __init__(self, folder: Path, epochs_done: int):
        self.folder = folder
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs_done + 1)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.writer.close()

    def epoch(self, history: list[dict]) -> None:
        """Write the whole history, and the newest record's scalars at its epoch."""
        record = history[-1]
        write_json(self.folder / "history.json", history)
        for name in SCALARS:
            self.writer.add_scalar(name, record[name], record["epoch"])
        for name, value in record["train_terms"].items():
            self.writer.add_scalar(f"train_terms/{name}", value, record["epoch"])
        self.writer.flush()
        if record["epoch"] % CURVES_EVERY == 0:
            self.curves(history)

    def curves(self, history: list[dict]) -> None:
        """Draw curves.png from the whole history."""
        write_curves(self.folder / "curves.png", history)

    def pictures(self, epoch: int, dataset: EvaluationPairs, restore: Restore, device: torch.device) -> None:
        """Add the same few validation photos every time: source | restored | target, values in [0, 1]."""
        for index in range(0, len(dataset), -(-len(dataset) // PICTURES)):
            sample = dataset[index]
            src = to_float(sample["src"][None], device)
            strip = torch.cat([src, restore(src), to_float(sample["tar"][None], device)], dim=3)
            self.writer.add_image(f"validation/{dataset.pairs[index].stem}", strip[0].cpu().numpy(), epoch)
