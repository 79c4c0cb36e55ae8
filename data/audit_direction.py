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
UNLIKE = "from source to target these photos change in no common direction"


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
    if len(changes) < FEWEST_PAIRS:
        return _no_verdict(changes, f"that needs {FEWEST_PAIRS} pairs, to know what is usual")
    agreeing = np.ones(len(changes), bool)
    for _ in range(ROUNDS):
        usual = np.median(changes[agreeing], axis=0)
        spread = np.cov((changes[agreeing] - usual).T) + RIDGE * np.eye(len(usual))
        weights = np.linalg.solve(spread, usual)
        distance = max(float(usual @ weights), 1e-12)  # 0 where sources equal targets
        scores = changes @ weights / distance
        agreeing = scores > 0
        if agreeing.mean() < LEAST_AGREEING:
            return _no_verdict(changes, UNLIKE)
    if distance < LEAST_DISTANCE**2:
        return _no_verdict(changes, UNLIKE)
    swapped = (scores < SWAPPED_SCORE) & (-2 * distance * scores > LEAST_EVIDENCE)
    return Direction(usual, scores, swapped, None)


def _no_verdict(changes: np.ndarray, why: str) -> Direction:
    nothing = np.zeros(len(changes))
    return Direction(np.zeros(changes.shape[1]), nothing, nothing > 0, f"swapped pairs were not looked for: {why}")
