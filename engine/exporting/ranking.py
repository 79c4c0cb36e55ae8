"""Scores of the folds -> their order of merit, by which number, and whether the first is ahead by more than noise.

On test photos of enough units the folds are compared photo by photo. Else there are the validation photos, which differ from fold
to fold, and how hard they are says more about a fold's PSNR than its weights do. So each photo's
PSNR is corrected by what the PSNR of the untouched photo predicts, with one slope for all folds, by least squares inside the
folds (the analysis of covariance; with slope 1 it would be the gain, which is noisier where the two are weakly correlated).
bench/choosing.py simulates how often each way finds the best fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.units import FEWEST_UNITS
from engine.exporting.candidates import AVERAGE, Candidate, Summary
from engine.inference import ENSEMBLE
from engine.intervals import independent_difference, paired_difference
from engine.testing.results import Records, summary_of

Scores = list[list[float]]  # a list of dB for each fold


@dataclass(frozen=True)
class Ranking:
    """order: the folds, best first. lead: mean and interval, in dB, of the first one's lead; None for a single fold.

    nested: with test photos, what the choice is worth that was made on them: each unit scored by the fold that is best on the
    others; else None.
    """

    order: list[str]
    by: str
    lead: dict[str, Any] | None
    nested: Summary | None

    def words(self) -> str:
        """One sentence for log and card on how sure the first place is."""
        if self.lead is None:
            return "There is one fold, and nothing to choose from"
        ci95 = self.lead["ci95"]
        ahead = f"{self.order[0]} is ahead of {self.order[1]} by {decibels(self.lead)}, by {self.by}"
        if ci95 is None:
            return f"{ahead}; too few units to tell whether that is more than noise"
        return f"{ahead}: {'more than noise' if ci95[0] > 0 else 'within noise, so that either may be the better one'}"


def decibels(difference: dict[str, Any]) -> str:
    """`+0.21 dB [-0.10, +0.52]`; without brackets where there is no interval."""
    text = f"{difference['mean']:+.2f} dB"
    return text if difference["ci95"] is None else "{} [{:+.2f}, {:+.2f}]".format(text, *difference["ci95"])


def rank_folds(candidates: list[Candidate], records: Records, units: list[str]) -> Ranking:
    """The order of the folds among `candidates`. records: of test photos, by name; units: of each of these photos."""
    folds = [candidate for candidate in candidates if candidate.validation is not None]
    names = [fold.name for fold in folds]
    on_test = bool(records) and len(set(units)) >= FEWEST_UNITS
    if on_test:
        by = f"PSNR on the same {len(units)} test photos"
        scores = [[record["psnr"] for record in records[name]] for name in names]
    else:
        by = "validation PSNR, corrected for how hard each fold's own photos are"
        rows = [fold.validation or [] for fold in folds]
        scores = corrected(
            [[row["psnr"] for row in part] for part in rows], [[row["identity_psnr"] for row in part] for part in rows]
        )
    order = sorted(range(len(folds)), key=lambda fold: -float(np.mean(scores[fold])))
    lead = None
    if len(folds) > 1:
        first, second = order[:2]
        lead = (
            paired_difference(scores[second], scores[first], units)
            if on_test
            else independent_difference(
                scores[second], folds[second].validation_units, scores[first], folds[first].validation_units
            )
        )
    nested = _nested(names, records, units) if on_test and len(folds) > 1 else None
    return Ranking([names[fold] for fold in order], by, lead, nested)


def corrected(psnr: Scores, identity: Scores) -> Scores:
    """The PSNR of each photo of each fold, less what the untouched photo's PSNR, above or below the mean of all, predicts."""
    ours, untouched = ([np.asarray(part) for part in side] for side in (psnr, identity))
    together = [np.concatenate([part - part.mean() for part in side]) for side in (untouched, ours)]
    spread = float(together[0] @ together[0])
    slope = float(together[0] @ together[1]) / spread if spread > 0 else 0.0
    middle = np.concatenate(untouched).mean()
    return [(part - slope * (before - middle)).tolist() for part, before in zip(ours, untouched, strict=True)]


def _nested(names: list[str], records: Records, units: list[str]) -> Summary:
    """Every photo scored by the fold that is best on the photos of the other units."""
    psnr = np.array([[record["psnr"] for record in records[name]] for name in names])
    chosen = []
    for place, unit in enumerate(units):
        others = [other != unit for other in units]
        chosen.append(records[names[int(psnr[:, others].mean(axis=1).argmax())]][place])
    return summary_of(chosen, units)


def better_than(chosen: str, records: Records, units: list[str]) -> list[str]:
    """What beats `chosen` on the test photos by more than noise, of the average and the ensemble: a sentence each."""
    advice = {
        AVERAGE: f"export it with --choose {AVERAGE}",
        ENSEMBLE: f"export all folds' networks in one file, as many times the time, with --choose {ENSEMBLE}",
    }
    found = []
    for name, what in advice.items():
        if name == chosen or name not in records or chosen not in records:
            continue
        before, after = ([record["psnr"] for record in records[each]] for each in (chosen, name))
        difference = paired_difference(before, after, units)
        if difference["ci95"] is not None and difference["ci95"][0] > 0:
            found.append(f"The {name} is better than {chosen} by {decibels(difference)} on the test photos; {what}")
    return found
