"""Candidates and their scores -> which of them is exported by which number, and what speaks against it."""

from __future__ import annotations

from dataclasses import dataclass

from darkir.engine.candidate_scores import UNSCORED_AVERAGE, Summary, untouched_summary
from darkir.engine.candidates import AVERAGE, Candidate
from darkir.engine.ensemble import IDENTITY
from darkir.engine.errors import RunRefused

BEST_FOLD = "best"


@dataclass(frozen=True)
class Chosen:
    """What is exported, why, and what was measured of it and of the other candidates."""

    candidate: Candidate
    reason: str
    warnings: list[str]
    validation: dict[str, Summary]
    test: dict[str, Summary]
    test_photos: int
    test_digest: str | None


def best_fold(validation: dict[str, Summary]) -> str:
    """The fold with the highest mean validation PSNR; the first of equal ones."""
    folds = [name for name in validation if name != IDENTITY]
    return max(folds, key=lambda name: validation[name]["psnr"]["mean"])


def choose(
    candidates: list[Candidate], asked: str, validation: dict[str, Summary], scored: bool
) -> tuple[Candidate, str]:
    """The candidate that `--choose` means, and by which number; scored: whether there are test photos to score it on.

    Raises RunRefused for a name that the run does not have, and for an average that nothing has scored.
    """
    named = {candidate.name: candidate for candidate in candidates}
    best = best_fold(validation)
    if asked == BEST_FOLD:
        return named[best], f"highest validation PSNR of {len(validation) - 1} folds, each on its own photos"
    if asked not in named:
        why = "; one fold has no average" if asked == AVERAGE else ""
        raise RunRefused(f"--choose {asked}: this run has {', '.join(named)}{why}")
    if asked == AVERAGE and not scored:
        raise RunRefused(f"--choose {AVERAGE}: {UNSCORED_AVERAGE}; give --test_jsonl")
    return named[asked], "asked for by name"


def warnings_about(chosen: Candidate, validation: dict[str, Summary], test: dict[str, Summary]) -> list[str]:
    """What speaks against this choice, as far as it was measured."""
    found, best = [], best_fold(validation)
    if chosen.name == AVERAGE and _psnr(test, AVERAGE) < _psnr(test, best):
        found.append(
            f"the average scores {_psnr(test, AVERAGE):.2f} dB on the test photos, {best} {_psnr(test, best):.2f} dB: weights "
            f"of models that were trained apart rarely mix; export {best} instead"
        )
    pairs = {"validation": (validation.get(chosen.name), untouched_summary([chosen]))}
    pairs["test"] = (test.get(chosen.name), test.get(IDENTITY))
    for where, (ours, untouched) in pairs.items():
        if ours is not None and ours["psnr"]["mean"] < untouched["psnr"]["mean"]:
            found.append(
                f"{chosen.name} scores {ours['psnr']['mean']:.2f} dB on {where} photos, the photos as they are "
                f"{untouched['psnr']['mean']:.2f} dB: it makes them worse"
            )
    return found


def _psnr(scores: dict[str, Summary], name: str) -> float:
    return scores[name]["psnr"]["mean"]
