"""history.json's records -> curves.png: loss, PSNR, SSIM and learning rate over epochs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from data.files import atomic_output

# Panel title -> (record key, label) of its lines.
PANELS = {
    "Loss": (("train_loss", "training (weighted sum)"), ("val_loss", "validation (L1)")),
    "Validation PSNR (dB)": (("val_psnr", None),),
    "Validation SSIM": (("val_ssim", None),),
    "Learning rate": (("lr", None),),
}
SINGLE_POINT, LINE_ONLY = "o", ""


def write_curves(path: Path, history: list[dict]) -> None:
    """Draw the records (at least one) and write the PNG whole; a dashed line marks the best epoch."""
    # A Figure of its own, not pyplot: no global state, no display, whatever MPLBACKEND says.
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    epochs = [record["epoch"] for record in history]
    best = max((record["epoch"] for record in history if record["is_best"]), default=None)
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for name, label in lines:
            marker = SINGLE_POINT if len(history) == 1 else LINE_ONLY
            axes.plot(epochs, [record[name] for record in history], label=label, marker=marker)
        if best is not None:
            axes.axvline(best, color="0.6", linestyle="--", linewidth=1, label=f"best epoch {best}")
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
