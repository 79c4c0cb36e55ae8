"""Which totals can be formed from components of given sizes, and how. Exact, by dynamic programming over bit sets.

Components of one size are interchangeable, so that tables grow with the number of different sizes, not of components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

IMPOSSIBLE = 2**30  # components; more than any subset has


class SubsetSums:
    """All totals of subsets of a multiset of sizes: `counts` maps a size to how many components have it."""

    def __init__(self, counts: dict[int, int]):
        self.counts = counts
        self.total = sum(size * count for size, count in counts.items())
        self._sizes = sorted(counts)
        self._reachable = [1]  # bit t of entry i: total t can be formed from the i smallest sizes
        for size in self._sizes:
            self._reachable.append(_with_copies(self._reachable[-1], size, counts[size]))

    def is_reachable(self, total: int) -> bool:
        """Whether some subset has this total."""
        return bool(self._reachable[-1] >> total & 1)

    def nearest(self, wanted: int) -> Iterator[int]:
        """Reachable totals between nothing and everything (both left out), nearest to `wanted` first, ties upwards."""
        for distance in range(max(wanted, self.total) + 1):
            for total in dict.fromkeys((wanted + distance, wanted - distance)):
                if 0 < total < self.total and self.is_reachable(total):
                    yield total

    def pick(self, total: int, order: Callable[[int], str]) -> dict[int, int]:
        """How many components of each size form a reachable `total`.

        Each size gives about its share, and `order` (size to hexadecimal text) settles to which side it is rounded.
        """
        share = total / self.total
        chosen = {}
        for index in range(len(self._sizes) - 1, -1, -1):
            size = self._sizes[index]
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
        for index in range(len(self._sizes) - 1, -1, -1):
            size = self._sizes[index]
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
            for copies in _powers(self.counts[size]):
                # The right side is evaluated whole before it is written: each block of copies is taken at most once.
                fewest[size * copies :] = np.minimum(
                    fewest[size * copies :], fewest[: len(fewest) - size * copies] + copies
                )
            tables.append(fewest)
        return tables


def _with_copies(reachable: int, size: int, copies: int) -> int:
    """Totals after adding up to `copies` components of `size`: few shifts, by `_powers`."""
    for step in _powers(copies):
        reachable |= reachable << (size * step)
    return reachable


def _powers(copies: int) -> Iterator[int]:
    """Blocks (1, 2, 4, ..., the rest) whose subsets make every number up to `copies`."""
    step = 1
    while copies:
        step = min(step, copies)
        yield step
        copies -= step
        step *= 2
