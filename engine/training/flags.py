"""Records of epochs -> red flags: signs that a run goes wrong, each with what to try. They never change the run."""

from __future__ import annotations

STALE_EPOCHS = 5
GAP_SHARE = 0.25

# For the report, whose readers see many epochs at once.
MEANING = {
    "validation_not_falling": f"no lower validation L1 for {STALE_EPOCHS} epochs: try a lower --lr or --preprocess strong_aug",
    "gap_growing": "validation L1 leaves the training L1 behind: more photos, --preprocess strong_aug or --mix_jsonl; fewer epochs",
    "worse_than_start": "worse than the starting weights, beyond noise: try --lr a third as high, --layer_decay or --freeze_stages",
    "worse_than_first_epoch": "worse than the first epoch, in a run of an earlier version: try --lr a third as high",
    "non_finite_steps": "updates were left out as not finite: look at the photos that the log names, lower --lr",
}
ADVICE = {
    "validation_not_falling": "no lower validation L1 for {n} epochs: try a lower --lr, --preprocess strong_aug, or stop here",
    "gap_growing": "validation L1 leaves the training L1 behind (gap {gap:.4f}): more photos, --preprocess strong_aug, "
    "or --mix_jsonl; fewer epochs",
    "worse_than_start": "validation PSNR is {fall}: the rate destroys what was learned before; try --lr a third as high, "
    "--layer_decay 0.8 or --freeze_stages",
    "non_finite_steps": "{n} updates of this epoch were left out as not finite: look at the photos named above, lower --lr",
}


def red_flags(history: list[dict], left_out: int, lambda_l1: float, fall: str | None) -> dict[str, str]:
    """Signs that the newest epoch of `history` raises: name -> one line with figures and advice. They never change the run.

    left_out: updates of this epoch that were not finite (float16 overflows are part of normal loss scaling). fall: as
    `Progress.fall_from_start` says.
    """
    found: dict[str, dict] = {}
    newest = history[-1]
    stale = len(history) - 1 - min(range(len(history)), key=lambda epoch: history[epoch]["val_loss"])
    if stale >= STALE_EPOCHS and stale % STALE_EPOCHS == 0:
        found["validation_not_falling"] = {"n": stale}
    gaps = [
        record["val_loss"] - record["train_terms"]["l1"] / lambda_l1
        for record in history
        if lambda_l1 > 0 and "l1" in record["train_terms"]
    ]
    newest_gaps = gaps[-STALE_EPOCHS - 1 :]
    growing = all(after > before for before, after in zip(newest_gaps, newest_gaps[1:], strict=False))
    if len(gaps) > STALE_EPOCHS and growing and gaps[-1] > GAP_SHARE * newest["val_loss"]:
        found["gap_growing"] = {"gap": gaps[-1]}
    if fall is not None:
        found["worse_than_start"] = {"fall": fall}
    if left_out:
        found["non_finite_steps"] = {"n": left_out}
    return {name: ADVICE[name].format(**figures) for name, figures in found.items()}
