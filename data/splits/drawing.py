"""Components and wanted numbers of rows -> which components each set of a split takes. Seed and content alone decide.

Which totals components of given sizes can form is exact, by dynamic programming over bit sets. Components of one size are
interchangeable, so that tables grow with the number of different sizes, not of components.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import numpy as np

from common.errors import InputError

ATTEMPTS = 200
FEW = 2000  # components; with more of them the first attempts nearly always find exact sizes
ATTEMPTS_OF_MANY = 12
IMPOSSIBLE = 2**30  # components; more than any subset has


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
        raise InputError(f"groups are too few or too large to draw about {wanted} pairs for {purpose}")

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


class SubsetSums:
    """All totals of subsets of a multiset of sizes: `counts` maps a size to how many components have it."""

    def __init__(self, counts: dict[int, int]):
        self.counts = counts
        self.total = sum(size * count for size, count in counts.items())
        self._sizes = sorted(counts)
        self._reachable = [1]  # bit t of entry i: total t can be formed from the i smallest sizes
        for size in self._sizes:
            reachable = self._reachable[-1]
            for copies in _blocks(counts[size]):
                reachable |= reachable << (size * copies)
            self._reachable.append(reachable)

    def is_reachable(self, total: int) -> bool:
        """Whether some subset has this total."""
        return total >= 0 and bool(self._reachable[-1] >> total & 1)

    def nearest(self, wanted: int) -> Iterator[int]:
        """Reachable totals between nothing and everything (both left out), nearest to `wanted` first, ties upwards."""
        for distance in range(max(wanted, self.total) + 1):
            for total in dict.fromkeys((wanted + distance, wanted - distance)):
                if 0 < total < self.total and self.is_reachable(total):
                    yield total

    def pick(self, total: int, order: Callable[[int], str]) -> dict[int, int]:
        """How many components of each size form a reachable `total`.

        Each size gives about its share, and `order` (size to hexadecimal text) settles whether it is rounded up or down.
        """
        share = total / self.total
        chosen = {}
        for index, size in reversed(list(enumerate(self._sizes))):
            most = min(self.counts[size], total // size)
            # The smallest size has to fill what is left; the others may choose.
            choices = range(most + 1) if index else (total // size,)
            possible = [count for count in choices if self._reachable[index] >> (total - count * size) & 1]
            # A fraction from the hash: which sizes round up must depend on the seed, or every test set looks alike.
            target = share * self.counts[size] + int(order(size)[:8], 16) / 2**32 - 0.5
            chosen[size] = min(possible, key=lambda count: abs(count - target))
            total -= chosen[size] * size
        return chosen

    def pick_fewest(self, total: int) -> dict[int, int]:
        """As `pick`, with as few components as can form `total` at all."""
        chosen = {}
        for index, size in reversed(list(enumerate(self._sizes))):
            counts = np.arange(min(self.counts[size], total // size) + 1)
            chosen[size] = int(np.argmin(self._fewest[index][total - counts * size] + counts))
            total -= chosen[size] * size
        return chosen

    @cached_property
    def _fewest(self) -> list[np.ndarray]:
        """Entry i, place t: how few of the i smallest sizes' components form total t; IMPOSSIBLE when none do."""
        fewest = np.full(self.total + 1, IMPOSSIBLE, dtype=np.int32)
        fewest[0] = 0
        tables = [fewest]
        for size in self._sizes[:-1]:
            fewest = fewest.copy()
            for copies in _blocks(self.counts[size]):
                # The minimum is computed whole before it is stored: each block of copies is taken at most once.
                fewest[size * copies :] = np.minimum(
                    fewest[size * copies :], fewest[: len(fewest) - size * copies] + copies
                )
            tables.append(fewest)
        return tables


def never_drawn(counts: dict[int, int], total: int) -> list[int]:
    """The sizes of which no component can be in a subset with this total, ascending; `counts` as in SubsetSums."""
    return [size for size in sorted(counts) if not _others(counts, size).is_reachable(total - size)]


def smallest_total_with(counts: dict[int, int], sizes: list[int], least: int, most: int) -> int | None:
    """The smallest total from `least` to `most` of which subsets with a component of each of `sizes` exist, one at a time."""
    others = {size: _others(counts, size) for size in sizes}
    totals = range(least, most + 1)
    return next(
        (total for total in totals if all(rest.is_reachable(total - size) for size, rest in others.items())), None
    )


def _others(counts: dict[int, int], size: int) -> SubsetSums:
    """The sums of all components but one of this size."""
    return SubsetSums({**counts, size: counts[size] - 1})


def _blocks(copies: int) -> Iterator[int]:
    """Blocks (1, 2, 4, ..., the rest) whose subsets make every number up to `copies`: few, however many copies."""
    block = 1
    while copies:
        block = min(block, copies)
        yield block
        copies -= block
        block *= 2
