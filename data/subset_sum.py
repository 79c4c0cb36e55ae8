"""Which totals can be formed from components of given sizes, and how. Exact, by dynamic programming over bit sets.

Components of one size are interchangeable, so that tables grow with the number of different sizes, not of components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator


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

    def pick(self, total: int, fewest: bool, order: Callable[[int], str]) -> dict[int, int]:
        """How many components of each size form a reachable `total`.

        Each size gives about its share, and `order` (size to hexadecimal text) settles to which side it is rounded;
        with `fewest`, as many as possible of the largest sizes are taken.
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
            target = most if fewest else share * self.counts[size] + int(order(size)[:8], 16) / 2**32 - 0.5
            chosen[size] = min(possible, key=lambda count: abs(count - target))
            total -= chosen[size] * size
        return chosen


def _with_copies(reachable: int, size: int, copies: int) -> int:
    """Totals after adding up to `copies` components of `size`: binary splitting keeps it to log(copies) shifts."""
    step = 1
    while copies:
        step = min(step, copies)
        reachable |= reachable << (size * step)
        copies -= step
        step *= 2
    return reachable
