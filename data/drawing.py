"""Draws whole components for the sets of a split: wanted sizes, an order that only the seed and the content determine."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable

from data.errors import DataError
from data.subset_sum import SubsetSums

ATTEMPTS = 200
FEW = 2000  # components; with more of them the first attempts nearly always find exact sizes
ATTEMPTS_OF_MANY = 12


class Bag:
    """Components from which subsets of a wanted number of rows are drawn, in an order made from the seed."""

    def __init__(self, components: list[list[int]], keys: list[str], seed: int):
        self.components, self.keys, self.seed = components, keys, seed

    def rows(self, numbers: set[int] | list[int]) -> list[int]:
        """The rows of some components, ascending."""
        return sorted(row for number in numbers for row in self.components[number])

    def choose(self, numbers: list[int], wanted: int, leave: int, purpose: str) -> list[int]:
        """Components of `numbers` that have together `wanted` rows, or the nearest reachable number, ties upwards.

        At least one is taken, and at least `leave` are left.
        """
        by_size: dict[int, list[int]] = {}
        for number in sorted(numbers, key=lambda number: self._order(purpose, self.keys[number])):
            by_size.setdefault(len(self.components[number]), []).append(number)
        sums = self._sums(numbers)
        for total in sums.nearest(wanted):
            counts = sums.pick(total, lambda size: self._order(purpose, str(size)))
            if sum(counts.values()) > len(numbers) - leave:
                counts = sums.pick_fewest(total)
            if sum(counts.values()) <= len(numbers) - leave:
                return [number for size, count in counts.items() for number in by_size[size][:count]]
        raise DataError(f"groups are too few or too large to draw about {wanted} pairs for {purpose}")

    def draw_test(self, wanted: int, leave: int, purpose: str) -> tuple[list[int], list[int]]:
        """`choose` from all components: the chosen ones and the others."""
        everything = list(range(len(self.components)))
        chosen = self.choose(everything, wanted, leave, purpose)
        return chosen, sorted(set(everything) - set(chosen))

    def partition(self, numbers: list[int], wanted: list[int]) -> tuple[list[list[int]], bool]:
        """Disjoint parts that cover `numbers`, with sizes as near to `wanted` as many drawings find; whether they are exact."""
        best: list[list[int]] = []
        best_error = math.inf
        for attempt in range(ATTEMPTS if len(numbers) <= FEW else ATTEMPTS_OF_MANY):
            parts = self._one_partition(numbers, wanted, attempt)
            error = sum(abs(self._count(part) - size) for part, size in zip(parts, wanted, strict=True))
            if error < best_error:
                best, best_error = parts, error
            if error == 0:
                break
        return best, best_error == 0

    def can_form(self, totals: list[int]) -> bool:
        """Whether each of `totals` can be formed at all: when not, no drawing gives exact sizes."""
        sums = self._sums(range(len(self.components)))
        return all(sums.is_reachable(total) for total in totals)

    def _one_partition(self, numbers: list[int], wanted: list[int], attempt: int) -> list[list[int]]:
        parts = []
        left = list(numbers)
        for fold, size in enumerate(wanted[:-1]):
            after = len(wanted) - fold - 1
            # When an earlier part missed its size, the rest is shared out evenly again.
            count = self._count(left)
            fair = math.floor(count / (after + 1) + 0.5)
            on_plan = count == sum(wanted[fold:])
            part = self.choose(left, size if on_plan else fair, after, f"fold {fold + 1} attempt {attempt}")
            parts.append(part)
            left = sorted(set(left) - set(part))
        return [*parts, left]

    def _sums(self, numbers: Iterable[int]) -> SubsetSums:
        return SubsetSums(Counter(len(self.components[number]) for number in numbers))

    def _count(self, numbers: list[int]) -> int:
        return sum(len(self.components[number]) for number in numbers)

    def _order(self, purpose: str, key: str) -> str:
        return hashlib.sha256(f"{self.seed}:{purpose}:{key}".encode()).hexdigest()
