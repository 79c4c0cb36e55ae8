"""What changes from source to target in every pair -> which pairs change in the opposite way: swapped ones.

Linear discriminant between the set's usual change and its negative, on a covariance without the pairs that disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST_PAIRS = 20
LEAST_DISTANCE = 2.0  # between no change and the usual change, in standard deviations: below it nothing is usual
SWAPPED_SCORE = -0.2  # 1: the usual change, 0: none, -1: its reverse
LEAST_EVIDENCE = 4.0  # log likelihood ratio
LEAST_AGREEING = 2 / 3  # of the pairs
ROUNDS = 3
RIDGE = 1e-4


@dataclass(frozen=True)
class Direction:
    """usual: the set's median change. scores: each pair's change along it, 1 the usual one, -1 its reverse.

    swapped: whether a pair clearly goes the other way. note: why there is no verdict, else None.
    """

    usual: np.ndarray
    scores: np.ndarray
    swapped: np.ndarray
    note: str | None


def find_direction(changes: np.ndarray) -> Direction:
    """`changes`: (N, C) float, one row a pair. No verdict when more than a third go the other way."""
    count = len(changes)
    usual = np.median(changes, axis=0) if count else np.zeros(changes.shape[1])
    nothing = np.zeros(count)
    if count < FEWEST_PAIRS:
        note = f"swapped pairs were not looked for: that needs {FEWEST_PAIRS} pairs, to know what is usual"
        return Direction(usual, nothing, nothing > 1, note)
    agreeing = np.ones(count, bool)
    for _ in range(ROUNDS):
        usual = np.median(changes[agreeing], axis=0)
        spread = np.cov((changes[agreeing] - usual).T) + RIDGE * np.eye(len(usual))
        weights = np.linalg.solve(spread, usual)
        scores = changes @ weights / (usual @ weights)
        agreeing = scores > 0
        if agreeing.mean() < LEAST_AGREEING:
            break
    distance = float(usual @ weights)
    if distance < LEAST_DISTANCE**2 or agreeing.mean() < LEAST_AGREEING:
        note = "swapped pairs were not looked for: from source to target these photos change in no common direction"
        return Direction(usual, nothing, nothing > 1, note)
    swapped = (scores < SWAPPED_SCORE) & (-2 * distance * scores > LEAST_EVIDENCE)
    return Direction(usual, scores, swapped, None)
