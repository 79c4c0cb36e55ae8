"""Where a run stands, and what is known of each of its epochs: running sums -> one record -> a log line.

Everything here is plain numbers: it is saved whole in checkpoint_last.pt, and history.json is its list of records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from common.errors import RunFailed
from data.transforms import DRAWS
from engine.intervals import interval_words, paired_difference
from engine.metrics import METRICS
from engine.training.changes import EXTEND, are_changes

EMPTY_TOTALS = {"loss": 0.0, "grad_norm": 0.0, "updates": 0, "overflowed": 0, "left_out": 0, "seconds": 0.0}
# dB that an epoch may score below the starting weights without a flag, where the validation photos are of too few units for an
# interval. Chosen, not measured: about what the PSNR of a handful of photos moves by from one epoch to the next.
FALL_MARGIN = 0.25


@dataclass
class Progress:
    """Where a run stands; all of it is saved, and a resumed run continues from exactly this.

    step: updates over all epochs. totals: sums over the open epoch's updates. best: the best epoch's record with its scores for
    every validation image. bad_batches: updates left out by --skip_bad_batches. execution: how updates are run
    (engine/training/updates/execution.py). draws: the version of its random draws (data/transforms.py). start: PSNR of every
    validation image with the starting weights, whose record is that of epoch 0; None for a run that began with fresh weights, or
    in a version that did not validate them. changes: what the user changed on the way, as `change` records it.
    """

    step: int = 0
    history: list[dict] = field(default_factory=list)
    best: dict[str, Any] | None = None
    epochs_without_gain: int = 0
    stopped_early: bool = False
    bad_batches: int = 0
    execution: str = "eager"
    start: list[float] | None = None
    draws: int = DRAWS
    changes: list[dict] = field(default_factory=list)
    totals: dict[str, Any] = field(default_factory=lambda: dict(EMPTY_TOTALS, terms={}))

    @property
    def epochs(self) -> int:
        """Finished epochs; epoch 0, the starting weights, is none."""
        return len(self.history) - (self.start is not None)

    @property
    def extension(self) -> dict[str, Any] | None:
        """The newest of the changes that began a fresh schedule; None in a run that was never extended."""
        return next((change for change in reversed(self.changes) if change["flag"] == EXTEND), None)

    @property
    def best_epoch(self) -> dict[str, Any]:
        """`best`, for when an epoch has ended."""
        assert self.best is not None
        return self.best

    @staticmethod
    def from_record(recorded: dict[str, Any], val_pairs: int, updates: int, epochs: int) -> Progress:
        """What a state file says of its progress, for a run of `epochs` epochs of `updates` updates with `val_pairs` frames.

        Raises ValueError with the reason when it is not what this class saves, or contradicts itself.
        """
        fresh = dataclasses.asdict(Progress())
        # Versions before these were recorded knew one execution and the first draws, and did not validate starting weights.
        recorded = {"execution": fresh["execution"], "start": None, "draws": 1, "changes": [], **recorded}
        wrong = {*fresh} ^ {*recorded}
        wrong |= {
            name for name in {*fresh} - wrong - {"best", "start"} if type(recorded[name]) is not type(fresh[name])
        }
        if wrong:
            raise ValueError(f"its progress lacks or misstates {', '.join(sorted(map(str, wrong)))}")
        history, best, totals, start = (recorded[name] for name in ("history", "best", "totals", "start"))
        if start is not None and not (history and _are_scores(start, val_pairs)):
            raise ValueError("its scores of the starting weights are none")
        if recorded["draws"] not in range(1, DRAWS + 1):
            raise ValueError("its random draws are of a version that is not known here")
        first = 1 if start is None else 0
        if not all(_is_record(record, epoch) for epoch, record in enumerate(history, first)):
            raise ValueError("its history is not one record for each epoch")
        done = len(history) - (1 - first)
        summed = are_numbers(totals, EMPTY_TOTALS) and are_numbers(totals.get("terms"))
        if not summed or not 0 <= totals["left_out"] <= totals["updates"] <= updates:
            raise ValueError("its sums over the open epoch are none")
        if recorded["step"] != done * updates + totals["updates"] or done > epochs:
            raise ValueError("its history and its position do not agree")
        if not are_changes(recorded["changes"], done, updates):
            raise ValueError("its changes of options are none")
        if not all(_tells_changes(record, recorded["changes"]) for record in history):
            raise ValueError("its history and its changes of options do not agree")
        scored = _is_best(best, range(first, done + 1), val_pairs)
        # Within an epoch, a run that began without its best weights has no best: see best_beside_state.
        open_epoch = totals["updates"] > 0 and done < epochs
        anew = best is None and open_epoch and recorded["epochs_without_gain"] == 0 and not recorded["stopped_early"]
        if not scored if history and not anew else best is not None and not scored:
            raise ValueError("its history and its best epoch do not agree")
        return Progress(**recorded)

    def change(self, flag: str, options: dict[str, list]) -> None:
        """Note what `flag` changes from here on: option -> [before, now]. --extend begins patience anew.

        The record of the next epoch says it, too: `changes`, which no other record has.
        """
        self.changes.append({"flag": flag, "epoch": self.epochs, "update": self.step, "options": options})
        if flag == EXTEND:
            self.stopped_early, self.epochs_without_gain = False, 0

    def begin_with(self, scores: list[dict], means: dict[str, float], tf32: bool, precision: str) -> dict[str, Any]:
        """The record of epoch 0, appended to an empty history: the starting weights, the best so far, before any update.

        scores, means: as for `end_epoch`. What only updates have is None.
        """
        self.start = [score["psnr"] for score in scores]
        measured = {"lr": None, "grad_norm": None, "skipped_steps": 0, "seconds": 0.0, "images_per_second": None}
        return self._append(0, scores, means, {"train_loss": None, "train_terms": {}}, measured, tf32, precision)

    def count_update(self, terms: dict[str, float], grad_norm: float, skipped: bool, seconds: float) -> None:
        """Add an update: its loss terms, gradient norm, and whether a float16 overflow made it a skipped step."""
        totals = self.totals
        self._count_step(seconds)
        totals["loss"] += sum(terms.values())
        totals["grad_norm"] += grad_norm
        totals["overflowed"] += int(skipped)
        for name, value in terms.items():
            totals["terms"][name] = totals["terms"].get(name, 0.0) + value

    def count_bad_batch(self, seconds: float) -> None:
        """Add an update that was left out because a number was not finite."""
        self._count_step(seconds)
        self.totals["left_out"] += 1

    def _count_step(self, seconds: float) -> None:
        self.step += 1
        self.totals["updates"] += 1
        self.totals["seconds"] += seconds

    def end_epoch(
        self,
        scores: list[dict],
        means: dict[str, float],
        lr: float,
        samples_per_update: int,
        tf32: bool,
        precision: str,
    ) -> dict[str, Any]:
        """Close the open epoch: append its record to the history and return it; `best` and the patience count follow.

        scores: of every validation image; means: {"psnr", "ssim", "l1"} over them; tf32, precision: how updates and validation
        were computed. Raises RunFailed when nothing was learned.
        """
        totals, epoch = self.totals, self.epochs + 1
        if totals["left_out"] == totals["updates"]:
            raise RunFailed(f"every update of epoch {epoch} was left out as not finite; nothing was learned")
        skipped = totals["overflowed"] + totals["left_out"]
        measured, applied = max(1, totals["updates"] - totals["left_out"]), max(1, totals["updates"] - skipped)
        losses = {
            "train_loss": totals["loss"] / measured,
            "train_terms": {name: value / measured for name, value in totals["terms"].items()},
        }
        updates = {
            "lr": lr,
            "grad_norm": totals["grad_norm"] / applied,
            "skipped_steps": skipped,
            "seconds": totals["seconds"],
            "images_per_second": totals["updates"] * samples_per_update / totals["seconds"],
        }
        self.totals = dict(EMPTY_TOTALS, terms={})
        return self._append(epoch, scores, means, losses, updates, tf32, precision)

    def _append(
        self,
        epoch: int,
        scores: list[dict],
        means: dict[str, float],
        losses: dict[str, Any],
        updates: dict[str, Any],
        tf32: bool,
        precision: str,
    ) -> dict[str, Any]:
        is_best = self.best is None or means["psnr"] > self.best["psnr"]
        record = {
            "epoch": epoch,
            **losses,
            "val_loss": means["l1"],
            "val_psnr": means["psnr"],
            "val_ssim": means["ssim"],
            "is_best": is_best,
            **updates,
            "execution": self.execution,
            "tf32": tf32,
            "precision": precision,
            "flags": [],
        }
        if changes := _before_epoch(self.changes, epoch):
            record["changes"] = changes
        self.history.append(record)
        self.epochs_without_gain = 0 if is_best else self.epochs_without_gain + 1
        if is_best:
            self.best = {"epoch": epoch, **means, "scores": scores}
        return record

    def fall_from_start(self, scores: list[dict], units: list[str], pretrained: bool) -> str | None:
        """In words, how far the newest epoch is below the starting weights, when that is more than noise; else None.

        By the interval of the differences, photo by photo, over `units`. Where these are too few for one, by FALL_MARGIN; so too
        against the first epoch, in a run from `pretrained` weights that an earlier version began without validating them.
        """
        if self.start is None and not pretrained:
            return None
        if self.start is None:
            difference, ci95 = self.history[-1]["val_psnr"] - self.history[0]["val_psnr"], None
            than, measure = "the first epoch's", f"more than {FALL_MARGIN} dB"
        else:
            found = paired_difference(self.start, [score["psnr"] for score in scores], units)
            difference, ci95, than = found["mean"], found["ci95"], "the starting weights'"
            measure = f"{interval_words(len(scores), len(set(units)), ci95)}; more than {FALL_MARGIN} dB"
            if ci95 is not None:
                measure = f"{-ci95[1]:.2f} to {-ci95[0]:.2f} dB, {interval_words(len(scores), len(set(units)), ci95)}"
        if not (-difference > FALL_MARGIN if ci95 is None else ci95[1] < 0):
            return None
        return f"{-difference:.2f} dB below {than} ({measure})"


RECORD_NUMBERS = ("train_loss", "val_loss", "val_psnr", "val_ssim", "lr", "grad_norm", "seconds", "images_per_second")
OF_UPDATES = ("train_loss", "lr", "grad_norm", "images_per_second")  # epoch 0 has none


def _is_record(record: Any, epoch: int) -> bool:
    """Whether `record` is what `end_epoch`, or for epoch 0 `begin_with`, makes of this epoch."""
    numbers = RECORD_NUMBERS if epoch else [name for name in RECORD_NUMBERS if name not in OF_UPDATES]
    return (
        are_numbers(record, numbers)
        and (epoch > 0 or all(record.get(name) is None for name in OF_UPDATES))
        and record.get("epoch") == epoch
        and are_numbers(record.get("train_terms"))
        and type(record.get("is_best")) is bool
        and type(record.get("skipped_steps")) is int
        and isinstance(record.get("flags"), list)
        and all(isinstance(flag, str) for flag in record["flags"])
    )


def _before_epoch(changes: list[dict], epoch: int) -> list[dict]:
    """The changes that were made since the epoch before `epoch` had ended."""
    return [dict(change) for change in changes if change["epoch"] == epoch - 1]


def _tells_changes(record: dict, changes: list[dict]) -> bool:
    return record.get("changes", []) == _before_epoch(changes, record["epoch"])


def _are_scores(values: Any, val_pairs: int) -> bool:
    return isinstance(values, list) and len(values) == val_pairs and are_numbers(dict(enumerate(values)))


def _is_best(best: Any, epochs: range, val_pairs: int) -> bool:
    return (
        are_numbers(best, METRICS)
        and best.get("epoch") in epochs
        and isinstance(best.get("scores"), list)
        and len(best["scores"]) == val_pairs
        and all(are_numbers(score, METRICS) for score in best["scores"])
    )


def are_numbers(values: Any, names: Iterable[str] | None = None) -> bool:
    """Whether `values` is a dictionary that has a number, not NaN, under each of `names` (None: under each of its own)."""
    if not isinstance(values, dict):
        return False
    numbers = [values.get(name) for name in (values if names is None else names)]
    return all(type(number) in (int, float) and number == number for number in numbers)


def epoch_line(record: dict, epochs: int) -> str:
    """The log line of one epoch. Its form is a promise, as CONTRIBUTING.md says: people read it with tools of their own."""
    scores = (
        f"Val Loss={record['val_loss']:.4f}, Val PSNR={record['val_psnr']:.2f}dB, Val SSIM={record['val_ssim']:.4f}"
    )
    if record["epoch"] == 0:
        return f"Epoch   0/{epochs}: starting weights, {scores} 🏆 BEST"
    return (
        f"Epoch {record['epoch']:3d}/{epochs}: Train Loss={record['train_loss']:.4f}, {scores}, LR={record['lr']:.2e}"
        + (" 🏆 BEST" if record["is_best"] else "")
    )
