"""How often the truly best of three folds is exported: simulated for ways to choose it.

  python -m bench.choosing

Every photo has a difficulty: the untouched photo's PSNR (deviation 3.6 dB) and that of restored ones (3.4 dB), which go together
with correlation 0.43, and of which the photos of one unit share 30 % of the variance. Each fold's weights are better or worse
everywhere (deviation in the table), and by 0.6 dB more or less on each photo. So it was in the demo (`make demo`, out of fold and
test: 36 and 12 photos). 450 photos in units of five are the three folds' validation parts, each scored by its own fold; test photos
are each of a unit of its own, scored by all. psnr: highest mean validation PSNR, as the toolkit chose before; gain: highest mean of
PSNR less the untouched photo's; now: engine/exporting/ranking.py. Prints Markdown for bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from bench.measure import table
from engine.exporting.ranking import corrected

FOLDS, PHOTOS, UNIT, ICC = 3, 150, 5, 0.3  # photos of one fold's validation part
UNTOUCHED, RESTORED, TOGETHER, OWN = 3.6, 3.4, 0.43, 0.6  # dB, dB, correlation, dB


def difficulties(rng: np.random.Generator, units: int, photos: int) -> tuple[np.ndarray, np.ndarray]:
    """Of units x photos each: the untouched photo's PSNR and what all folds' PSNR have in common, in dB around 0."""
    shape = (2, units, photos)
    shared = math.sqrt(ICC) * rng.normal(size=(2, units, 1)) + math.sqrt(1 - ICC) * rng.normal(size=shape)
    one, other = shared.reshape(2, -1)
    return UNTOUCHED * one, RESTORED * (TOGETHER * one + math.sqrt(1 - TOGETHER**2) * other)


def hits(spread: float, tests: int, runs: int, rng: np.random.Generator) -> tuple[dict[str, float], float]:
    """Share of `runs` in which each way finds the best fold, and how many dB the choice on test photos flatters."""
    found, flattery = {"psnr": 0, "gain": 0, "now, no test photos": 0, "now": 0}, 0.0
    for _ in range(runs):
        worth = rng.normal(0, spread, FOLDS)
        parts = [difficulties(rng, PHOTOS // UNIT, UNIT) for _ in range(FOLDS)]
        identity = [untouched for untouched, _ in parts]
        psnr = [common + worth[k] + rng.normal(0, OWN, PHOTOS) for k, (_, common) in enumerate(parts)]
        test = rng.normal(0, OWN, (FOLDS, tests)).mean(axis=1)
        scores = {
            "psnr": [part.mean() for part in psnr],
            "gain": [(part - before).mean() for part, before in zip(psnr, identity, strict=True)],
            "now, no test photos": [
                np.mean(part) for part in corrected([p.tolist() for p in psnr], [i.tolist() for i in identity])
            ],
            "now": worth + test,  # what the photos have in common is the same for all folds
        }
        for way, values in scores.items():
            found[way] += int(np.argmax(values) == worth.argmax())
        flattery += float(test[np.argmax(scores["now"])])
    return {way: count / runs for way, count in found.items()}, flattery / runs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated cross-validations in each setting")
    args = parser.parse_args(argv)
    rng, rows = np.random.Generator(np.random.PCG64(0)), []
    for spread in (0.1, 0.3, 0.5):
        for tests in (10, 30, 60):
            found, flattery = hits(spread, tests, args.runs, rng)
            rows.append(
                [f"{spread} dB", str(tests), *(f"{100 * found[way]:.0f} %" for way in found), f"{flattery:.2f} dB"]
            )
    head = ["folds differ by", "test photos", "psnr", "gain", "now, no test photos", "now", "flattered by"]
    print(
        f"{args.runs} runs a row; by chance {100 / FOLDS:.0f} %; two deviations {200 * math.sqrt(0.25 / args.runs):.1f} %.\n"
    )
    print(table(head, rows))


if __name__ == "__main__":
    main()
