"""Looks of images -> which of them look the same: copies, other exposures, mirrored, turned and cropped ones.

Two images look the same when their perceptual hashes differ by at most 6 bits, or their tone prints have a likeness of 0.86.
Likeness is the correlation of the frequencies of the ranks, 1 for the same picture. It is looked for in three steps, each for what
the step before has let through: the 8 x 8 lowest frequencies in eight orientations, each picture whole or without a margin; 12 x 12
of them; and registration, which moves the four edges of a crop until they fit best.

Thresholds, hits and false hits are measured by bench/leak_detection.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.fingerprint import look_of_row
from data.perceptual import CENTRES, FREQUENCY, TONE_DCT, TONE_KEPT, Look, dct_rows, frequencies_of, unit

MAX_BITS = 6
ALIKE = 0.86
COARSE, FINE = 8, 12  # frequencies a side that are compared; a crop moves the higher ones out of the print
COARSE_ALIKE, FINE_ALIKE = 0.75, 0.5  # what is looked at again
MARGIN = 0.075  # of a side, cut off on all sides
EDGES = (0.0, 0.025, 0.05, 0.075, 0.1)
WINDOWS = tuple(itertools.product(EDGES, EDGES))  # cut off at the start and the end of an axis
ROUNDS = 2
AT_ONCE = 1000  # pairs of frequencies in memory
MOST_ALIKE = 20  # earlier rows that a row is listed with
TILE = 2**20  # hashes or likenesses compared at a time: as many as the caches of a CPU hold

Allowed = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _window(start: float, end: float) -> np.ndarray:
    """(FINE, TONE_KEPT) float32: frequencies of an axis -> those of the axis without these parts of it."""
    places = start + (1 - start - end) * CENTRES
    return (TONE_DCT[:FINE] @ dct_rows(TONE_KEPT, places).T).astype(np.float32)


CUTS = np.stack([_window(*window) for window in WINDOWS])
WHOLE, CUT = WINDOWS.index((0.0, 0.0)), WINDOWS.index((MARGIN, MARGIN))
WEIGHTS = FREQUENCY[:FINE, :FINE].astype(np.float32)
UNWEIGHTED = (1 / np.maximum(FREQUENCY, 1)).astype(np.float32)


class NearDuplicate(NamedTuple):
    """Two rows by index (first < second). bits: how many the hashes of their src and tar differ by, None for flat images.

    likeness: of the tone prints, None where these are not alike.
    """

    first: int
    second: int
    src_bits: int | None
    tar_bits: int | None
    src_likeness: float | None = None
    tar_likeness: float | None = None

    @property
    def likeness(self) -> float:
        """Of the side that is more alike; 0 where only the hashes are."""
        return max(self.src_likeness or 0.0, self.tar_likeness or 0.0)

    def describe(self) -> str:
        """The numbers of both sides for a line of the log."""
        sides = {"src": (self.src_bits, self.src_likeness), "tar": (self.tar_bits, self.tar_likeness)}
        return "; ".join(f"{side} {_told(*numbers)}" for side, numbers in sides.items())


def _told(bits: int | None, likeness: float | None) -> str:
    return ("flat" if bits is None else f"{bits} bits") + ("" if likeness is None else f", likeness {likeness:.2f}")


class Looks:
    """Many looks, prepared for comparison. About 2 kB of memory each."""

    def __init__(self, looks: list[Look]):
        self.hashed = np.array([look.phash is not None for look in looks], dtype=bool)
        self.hashes = np.array([look.phash or 0 for look in looks], dtype=np.uint64)
        self.frequencies = frequencies_of([look.tone for look in looks])
        # Whole, and without the margin: (2, N, FINE, FINE).
        self.fine = np.stack([_cut(self.frequencies, np.array([cut]), np.array([cut])) for cut in (WHOLE, CUT)])
        self.coarse = _coarse(self.fine)

    def __len__(self) -> int:
        return len(self.hashes)

    def bits(self, index: int, others: np.ndarray) -> list[int | None]:
        """How many bits the hash of look `index` and those of `others` differ by; None with a flat one."""
        differing = np.bitwise_count(self.hashes[others] ^ self.hashes[index]).tolist()
        known = (self.hashed[others] & self.hashed[index]).tolist()
        return [bits if is_known else None for bits, is_known in zip(differing, known, strict=True)]


def alike(
    block: Looks, start: int, stop: int, others: Looks, end: int, allowed: Allowed
) -> tuple[np.ndarray, np.ndarray]:
    """The looks of `block` in [start, stop) and of `others` in [0, end) that look the same, as far as they are allowed.

    Returns (keys, likeness): ascending int64 `our index * len(others) + their index`, and float32, 0 where only the hashes are
    alike. allowed: takes two arrays of indices and says which pairs count.
    """
    close = np.bitwise_count(block.hashes[start:stop, None] ^ others.hashes[None, :end]) <= MAX_BITS
    # Few pass, so that what follows costs little. Flat: numpy is ten times as fast at it.
    ours, theirs = np.divmod(np.flatnonzero(close), max(1, end))
    ours += start
    kept = allowed(ours, theirs) & block.hashed[ours] & others.hashed[theirs]
    by_hash = ours[kept] * len(others) + theirs[kept]
    ours, theirs, likeness = _alike_in_tone(block, start, stop, others, end, allowed)
    by_tone = ours * len(others) + theirs
    keys, first = np.unique(np.concatenate([by_tone, by_hash]), return_index=True)
    return keys, np.concatenate([likeness, np.zeros(len(by_hash), np.float32)])[first]


def _alike_in_tone(
    block: Looks, start: int, stop: int, others: Looks, end: int, allowed: Allowed
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index arrays of the looks whose tone prints are alike, and their likeness (float32)."""
    count = stop - start
    found: list[tuple[np.ndarray, ...]] = []
    for our_cut, their_cut in ((0, 0), (1, 0), (0, 1)):
        ours = _turns(block.fine[our_cut, start:stop]).reshape(-1, FINE, FINE)
        coarse = _coarse(ours) @ others.coarse[their_cut, :end].T
        turned, theirs = np.divmod(np.flatnonzero(coarse > COARSE_ALIKE), max(1, end))
        kept = allowed(turned % count + start, theirs)
        turned, theirs = turned[kept], theirs[kept]
        fine = _likeness(ours, turned, others.fine[their_cut], theirs)
        found.append((turned, theirs, fine, np.full(len(turned), our_cut - their_cut)))
    turned, theirs, fine, cuts = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # Of each two looks the best orientation and margin.
    order = np.lexsort((-fine, theirs, turned % count))
    _, first = np.unique((turned % count * len(others) + theirs)[order], return_index=True)
    best = order[first]
    best = best[fine[best] > FINE_ALIKE]
    turned, theirs, fine, cuts = turned[best], theirs[best], fine[best], cuts[best]
    ours, unsure = _turns(block.frequencies[start:stop]).reshape(-1, TONE_KEPT, TONE_KEPT), np.flatnonzero(fine < ALIKE)
    for begin in range(0, len(unsure), AT_ONCE):
        part = unsure[begin : begin + AT_ONCE]
        fine[part] = _registered(ours[turned[part]], others.frequencies[theirs[part]], cuts[part])
    sure = fine >= ALIKE
    return turned[sure] % count + start, theirs[sure], fine[sure]


def _likeness(ours: np.ndarray, our_numbers: np.ndarray, theirs: np.ndarray, their_numbers: np.ndarray) -> np.ndarray:
    """Scalar products (N,) of `ours[our_numbers]` and `theirs[their_numbers]`."""
    parts = [slice(begin, begin + AT_ONCE) for begin in range(0, len(our_numbers), AT_ONCE)]
    products = [np.einsum("nij,nij->n", ours[our_numbers[part]], theirs[their_numbers[part]]) for part in parts]
    return np.concatenate(products) if products else np.zeros(0, np.float32)


def _registered(ours: np.ndarray, theirs: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """The likeness (N,) of pictures after the edges of one were moved; cuts: 1 if ours is the larger one, -1 theirs, 0 unknown."""
    best = np.zeros(len(ours), dtype=np.float32)
    for larger, smaller, which in ((ours, theirs, cuts >= 0), (theirs, ours, cuts <= 0)):
        begin = np.where(cuts[which] == 0, WHOLE, CUT)
        best[which] = np.maximum(best[which], _fit(larger[which], _cut_whole(smaller[which]), begin))
    return best


def _fit(larger: np.ndarray, smaller: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """The best likeness (N,) over crops of `larger` (N, TONE_KEPT, TONE_KEPT), from the crop `begin`, one axis after the other."""
    plain, down, across = larger * UNWEIGHTED, begin, begin
    best = np.zeros(len(larger), dtype=np.float32)
    stacked = CUTS.reshape(-1, TONE_KEPT)
    for _ in range(ROUNDS):
        rest = plain @ CUTS[across].swapaxes(1, 2)
        tried = (stacked @ rest).reshape(-1, len(CUTS), FINE, FINE)
        down, _ = _best(tried, smaller)
        rest = CUTS[down] @ plain
        tried = (rest @ stacked.T).reshape(-1, FINE, len(CUTS), FINE).swapaxes(1, 2)
        across, best = _best(tried, smaller)
    return best


def _best(tried: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the crops `tried` (N, crops, FINE, FINE) is most like `wanted` (N, FINE, FINE), and how much."""
    weighted = tried * WEIGHTS
    likeness = np.einsum("ncij,nij->nc", weighted, wanted, optimize=True)
    likeness /= np.maximum(np.sqrt(np.einsum("ncij,ncij->nc", weighted, weighted)), 1e-6)
    return likeness.argmax(axis=1), likeness.max(axis=1)


def _cut(frequencies: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """(N, FINE, FINE) of norm 1: the frequencies of the crops CUTS[down], CUTS[across]."""
    return unit(CUTS[down] @ (frequencies * UNWEIGHTED) @ CUTS[across].swapaxes(1, 2) * WEIGHTS)


def _cut_whole(frequencies: np.ndarray) -> np.ndarray:
    return unit(frequencies[:, :FINE, :FINE])


def _coarse(fine: np.ndarray) -> np.ndarray:
    """(..., COARSE**2) of norm 1: the lowest frequencies."""
    low = unit(fine[..., :COARSE, :COARSE])
    return np.ascontiguousarray(low.reshape(*low.shape[:-2], COARSE**2))


def _turns(frequencies: np.ndarray) -> np.ndarray:
    """(8, N, K, K): of the picture as it is, mirrored, and turned; a mirrored cosine of odd frequency changes its sign."""
    signs = (-1.0) ** np.arange(frequencies.shape[-1], dtype=np.float32)
    both = (frequencies, frequencies.swapaxes(-1, -2))
    flips = [np.ones_like(signs), signs]
    return np.stack([picture * down[:, None] * across for picture in both for down in flips for across in flips])


def rows_alike(rows: list[dict], known: Looks) -> dict[int, tuple[int, str]]:
    """Which of `rows` look, in src or in tar, the same as one of `known`: index -> that one's index, and how, in words."""
    found: dict[int, tuple[int, str]] = {}
    for role in ("src", "tar"):
        for index, (other, likeness) in find_alike(Looks([look_of_row(row, role) for row in rows]), known).items():
            found.setdefault(index, (other, f"its {role}" + (f", likeness {likeness:.2f}" if likeness else "")))
    return dict(sorted(found.items()))


def find_alike(looks: Looks, known: Looks) -> dict[int, tuple[int, float]]:
    """Which of `looks` look the same as one of `known`: index -> the most alike one's index and its likeness, 0 by the hashes
    alone."""
    best: dict[int, tuple[int, float]] = {}
    step = max(1, TILE // max(1, 8 * len(known)))
    for start in range(0, len(looks) if len(known) else 0, step):
        stop = min(start + step, len(looks))
        keys, likeness = alike(looks, start, stop, known, len(known), lambda ours, _: np.ones(len(ours), dtype=bool))
        for key, value in zip(keys.tolist(), likeness.tolist(), strict=True):
            index, other = divmod(key, len(known))
            if index not in best or value > best[index][1]:
                best[index] = other, value
    return best


def near_duplicate_rows(rows: list[dict], sides: list[str] | None = None) -> list[NearDuplicate]:
    """Which of `rows`, which carry looks, look the same in src or in tar, as `near_duplicates` lists them.

    What shares an image, by its digest, is no news, and is left out where nothing else is alike.
    """
    src, tar = ([look_of_row(row, role) for row in rows] for role in ("src", "tar"))
    hits = near_duplicates(src, tar, sides)
    return [hit for hit in hits if not _share_an_image(rows[hit.first], rows[hit.second])]


def _share_an_image(first: dict, second: dict) -> bool:
    return any(first[name] == second[name] for name in ("src_sha256", "tar_sha256"))


def near_duplicates(src: list[Look], tar: list[Look], sides: list[str] | None = None) -> list[NearDuplicate]:
    """Rows whose src or tar look the same, two by two and in order; a flat image is like no other.

    sides: one name a row; only rows of different sides are compared. A row is listed with the first MOST_ALIKE rows before it
    that are like it and, for each cluster that it joins, with one row of it. So thousands of copies make a short list, in which
    every row that is like another one stands, and what hangs together does.
    """
    count, looks = len(src), (Looks(src), Looks(tar))
    side = None if sides is None else np.unique(sides, return_inverse=True)[1]

    def allowed(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        before = earlier < later
        return before if side is None else before & (side[later] != side[earlier])

    cluster = np.arange(count)  # rows that the hits so far link have one number
    step = max(1, TILE // max(1, 8 * count))
    found: list[NearDuplicate] = []
    for start in range(0, count, step):
        stop = min(start + step, count)
        hits = [alike(each, start, stop, each, stop, allowed) for each in looks]
        later, earlier = np.divmod(np.union1d(hits[0][0], hits[1][0]), count)
        rows, places = np.unique(later, return_index=True)
        for row, others in zip(rows.tolist(), np.split(earlier, places[1:]) if len(rows) else [], strict=True):
            listed = _listed(row, others, cluster)
            numbers = [
                (each.bits(row, listed), _at(row * count + listed, *hit)) for each, hit in zip(looks, hits, strict=True)
            ]
            (src_bits, src_likeness), (tar_bits, tar_likeness) = numbers
            found += map(
                NearDuplicate, listed.tolist(), [row] * len(listed), src_bits, tar_bits, src_likeness, tar_likeness
            )
    return sorted(found, key=lambda hit: hit[:2])


def _at(wanted: np.ndarray, keys: np.ndarray, likeness: np.ndarray) -> list[float | None]:
    """The likeness of each of the keys `wanted`; None for those that are not among `keys`, or are alike in their hashes only."""
    places = np.searchsorted(keys, wanted).clip(max=max(0, len(keys) - 1))
    known = keys[places] == wanted if len(keys) else np.zeros(len(wanted), bool)
    values = likeness[places].tolist() if len(keys) else [0.0] * len(wanted)
    return [
        round(value, 3) if is_known and value else None for is_known, value in zip(known.tolist(), values, strict=True)
    ]


def _listed(row: int, others: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Which of `others`, the rows before `row` that are like it, it is listed with; `cluster` is told that `row` links them."""
    first = cluster[others[0]]
    elsewhere = others[cluster[others] != first]
    joined, places = np.unique(cluster[elsewhere], return_index=True)
    cluster[row] = first
    if len(joined):
        cluster[np.isin(cluster, joined)] = first
    return np.union1d(others[:MOST_ALIKE], elsewhere[places])
