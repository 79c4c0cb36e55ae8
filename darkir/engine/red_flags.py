"""Signs that a run goes wrong, read off its records, each with what to try. Flags never change the run."""

from __future__ import annotations

STALE_EPOCHS = 5
GAP_SHARE = 0.25

ADVICE = {
    "validation_not_falling": "no lower validation L1 for {n} epochs: try a lower --lr, --preprocess strong_aug, or stop here",
    "gap_growing": "validation L1 leaves the training L1 behind (gap {gap:.4f}): more photos, --preprocess strong_aug, "
    "or --mix_jsonl; fewer epochs",
    "worse_than_first_epoch": "validation PSNR is {drop:.2f} dB below the first epoch's: the rate destroys what was learned "
    "before; try --lr a third as high, --layer_decay 0.8 or --freeze_stages",
    "non_finite_steps": "{n} updates of this epoch were left out as not finite: look at the photos named above, lower --lr",
}


def red_flags(history: list[dict], left_out: int, lambda_l1: float, pretrained: bool) -> dict[str, str]:
    """Flags that the newest record of `history` raises: name -> one line with figures and advice.

    left_out: updates of this epoch that were not finite (float16 overflows are part of normal loss scaling).
    """
    found: dict[str, dict] = {}
    newest = history[-1]
    stale = len(history) - 1 - min(range(len(history)), key=lambda epoch: history[epoch]["val_loss"])
    if stale >= STALE_EPOCHS and stale % STALE_EPOCHS == 0:
        found["validation_not_falling"] = {"n": stale}
    gaps = [
        record["val_loss"] - record["train_terms"]["l1"] / lambda_l1 for record in history if _has_l1(record, lambda_l1)
    ]
    if len(gaps) > STALE_EPOCHS and _grows(gaps[-STALE_EPOCHS - 1 :]) and gaps[-1] > GAP_SHARE * newest["val_loss"]:
        found["gap_growing"] = {"gap": gaps[-1]}
    drop = history[0]["val_psnr"] - newest["val_psnr"]
    if pretrained and drop > 0:
        found["worse_than_first_epoch"] = {"drop": drop}
    if left_out:
        found["non_finite_steps"] = {"n": left_out}
    return {name: ADVICE[name].format(**figures) for name, figures in found.items()}


def _has_l1(record: dict, lambda_l1: float) -> bool:
    return lambda_l1 > 0 and "l1" in record["train_terms"]


def _grows(values: list[float]) -> bool:
    """Rises from each value to the next."""
    return all(after > before for before, after in zip(values, values[1:], strict=False))
