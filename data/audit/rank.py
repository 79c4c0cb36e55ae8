"""Measures of all pairs -> which pairs look wrong and why, in words; the most harmful kind first, then the worst.

Thresholds were set on 240 pairs of 12 scenes and 5 of real estate, with faults planted: bench/audit_detection.py.

Swapped pairs are those that change from source to target in the opposite way of the others: a linear discriminant between
the set's usual change and its negative, on a covariance without the pairs that disagree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.audit.alignment import Alignment
from data.audit.measures import SAME_SCENE, Measures
from data.audit.scores import OUTLIER, Score
from data.lookalikes import near_duplicates
from data.manifest import Pair

# In the order of the harm that they do in training.
KINDS = {
    "other_scene": "target shows another scene",
    "turned": "target is turned or mirrored",
    "size": "source and target differ in size",
    "swapped": "source and target seem swapped",
    "repeated": "the same source as another row",
    "misregistered": "target does not lie on the source",
    "identical": "source and target are the same picture",
    "profile": "colour profiles differ",
    "clipped": "white where the other side shows something",
    "scores": "scores far below its like",
    "duplicate": "looks the same as another pair",
}
AGREEING, ENOUGH_BLOCKS = 0.25, 12
OFF_NATIVE, OFF_MEASURED = 0.5, 0.35  # pixels, root mean square over the frame
TOLD_SHIFT, TOLD_DEGREES, TOLD_SCALE = 0.1, 0.03, 0.0005
IDENTICAL_DB = 40.0
LOST, TIMES_USUAL, USUAL_PERCENTILE = 0.05, 3.0, 90
LOST_IN_SRC = 0.25  # windows are white in many sources: that is what an HDR target mends

FEWEST_PAIRS = 20
LEAST_DISTANCE = 2.0  # between no change and the usual change, in standard deviations: below it nothing is usual
SWAPPED_SCORE = -0.2  # 1: the usual change, 0: none, -1: its reverse
LEAST_EVIDENCE = 4.0  # log likelihood ratio
LEAST_AGREEING = 2 / 3  # of the pairs
ROUNDS = 3
RIDGE = 1e-4
UNLIKE = "from source to target these photos change in no common direction"


@dataclass(frozen=True)
class Reason:
    """kind: a key of KINDS. text: what was measured, in words. amount: larger is worse, within one kind."""

    kind: str
    text: str
    amount: float


@dataclass(frozen=True)
class Finding:
    """A pair, by its index, with its reasons, the most harmful first."""

    index: int
    reasons: list[Reason]


@dataclass(frozen=True)
class Direction:
    """usual: the set's median change. scores: each pair's change along it, 1 the usual one, -1 its reverse.

    swapped: whether a pair clearly goes the other way. note: why there is no verdict, else None.
    """

    usual: np.ndarray
    scores: np.ndarray
    swapped: np.ndarray
    note: str | None


def rank(
    pairs: list[Pair], measures: list[Measures], scores: dict[str, Score] | None = None, duplicates: bool = True
) -> tuple[list[Finding], list[str]]:
    """Findings, worst first, and notes on what could not be judged. scores: src as written -> its out-of-fold score."""
    usual_lost = {role: _usual([getattr(m, f"lost_in_{role}") for m in measures]) for role in ("src", "tar")}
    direction = find_direction(np.array([m.change for m in measures]))
    profiles, notes = _odd_profiles(measures)
    repeated = _repeated(pairs)
    copies = _copies(pairs, measures) if duplicates else {}
    findings = []
    for index, (pair, m) in enumerate(zip(pairs, measures, strict=True)):
        reasons = [*_content(m), *_registration(m), *_lost(m, usual_lost)]
        if direction.swapped[index]:
            reasons.append(_swapped(m, direction.usual[0], direction.scores[index]))
        if index in profiles:
            reasons.append(Reason("profile", f"src is in {m.src.profile}, tar in {m.tar.profile}", 1.0))
        if scores and pair.src in scores and scores[pair.src].z <= OUTLIER:
            reasons.append(_low_gain(scores[pair.src]))
        if index in repeated:
            reasons.append(repeated[index])
        elif index in copies:
            reasons.append(copies[index])
        if reasons:
            findings.append(Finding(index, sorted(reasons, key=_harm)))
    findings.sort(key=lambda finding: (*_harm(finding.reasons[0]), finding.index))
    return findings, notes if direction.note is None else [*notes, direction.note]


def _harm(reason: Reason) -> tuple[int, float]:
    return list(KINDS).index(reason.kind), -reason.amount


def _usual(shares: list[float]) -> float:
    return float(np.percentile(shares, USUAL_PERCENTILE)) if shares else 0.0


def _content(m: Measures) -> list[Reason]:
    reasons = []
    if not _same_scene(m):
        if m.turned:
            differ = m.src.orientation != m.tar.orientation
            tags = f"; EXIF orientation: src {m.src.orientation}, tar {m.tar.orientation}" if differ else ""
            reasons.append(Reason("turned", f"tar is {m.turned}{tags}", 1.0))
        else:
            assert m.structure is not None  # or it would count as the same scene
            text = f"what src and tar show correlates by {m.structure:.2f}; the same scene has at least {SAME_SCENE}"
            reasons.append(Reason("other_scene", text, -m.structure))
    if not m.same_size:
        sizes = f"src is {m.src.width}x{m.src.height}, tar is {m.tar.width}x{m.tar.height}"
        reasons.append(Reason("size", f"{sizes}; no split takes such a pair", 1.0))
    elif m.psnr >= IDENTICAL_DB:
        reasons.append(Reason("identical", f"src against tar: {m.psnr:.1f} dB, there is nothing to learn", m.psnr))
    return reasons


def _same_scene(m: Measures) -> bool:
    """Whether enough blocks move together or the structure fits; also when neither can tell."""
    together = m.alignment is not None and m.alignment.agreeing >= AGREEING and m.alignment.blocks >= ENOUGH_BLOCKS
    return together or m.structure is None or m.structure >= SAME_SCENE


def _registration(m: Measures) -> list[Reason]:
    a = m.alignment
    if not m.same_size or not _same_scene(m) or a is None or a.agreeing < AGREEING:
        return []
    if a.rms < OFF_NATIVE or a.rms < OFF_MEASURED * m.pixel:
        return []
    text = f"tar is off by about {a.rms:.1f} pixels: {', '.join(_motion(a))}"
    return [Reason("misregistered", text, a.rms / m.pixel)]


def _motion(a: Alignment) -> list[str]:
    """The parts of a motion that are worth a word."""
    right, down = a.shift
    parts = []
    if abs(right) >= TOLD_SHIFT:
        parts.append(f"{abs(right):.1f} to the {'right' if right > 0 else 'left'}")
    if abs(down) >= TOLD_SHIFT:
        parts.append(f"{abs(down):.1f} {'down' if down > 0 else 'up'}")
    if abs(a.rotation) >= TOLD_DEGREES:
        parts.append(f"turned by {abs(a.rotation):.2f} degrees {'' if a.rotation > 0 else 'counter-'}clockwise")
    if abs(a.scale - 1) >= TOLD_SCALE:
        parts.append(f"{100 * abs(a.scale - 1):.2f} % {'larger' if a.scale > 1 else 'smaller'}")
    return parts


def _lost(m: Measures, usual: dict[str, float]) -> list[Reason]:
    reasons = []
    for role, other, least in (("tar", "src", LOST), ("src", "tar", LOST_IN_SRC)):
        lost = getattr(m, f"lost_in_{role}")
        if lost >= max(least, TIMES_USUAL * usual[role]):
            text = f"{100 * lost:.0f} % of the frame is white in {role} where {other} shows something"
            reasons.append(Reason("clipped", f"{text} (9 of 10 pairs: at most {100 * usual[role]:.1f} %)", lost))
    return reasons


def _swapped(m: Measures, usual_stops: float, score: float) -> Reason:
    text = f"from src to tar this photo changes by {m.change[0]:+.1f} stops, the others by {usual_stops:+.1f}"
    return Reason("swapped", f"{text}; score {score:+.2f}, where +1 is the usual change and -1 its reverse", -score)


def _low_gain(score: Score) -> Reason:
    text = f"the model that never saw it gained {score.gain:+.1f} dB; its like gain {score.expected:+.1f} dB"
    return Reason("scores", f"{text} ({-score.z:.1f} robust deviations below)", -score.z)


def _odd_profiles(measures: list[Measures]) -> tuple[set[int], list[str]]:
    """Pairs whose two profiles differ, unless most pairs are so: then a note says it once."""
    kinds = [(m.src.profile, m.tar.profile) for m in measures]
    usual = {kind for kind, count in Counter(kinds).items() if 2 * count > len(kinds)}
    notes = [f"most pairs: src is in {src}, tar in {tar}; not listed as a fault" for src, tar in usual if src != tar]
    return {index for index, kind in enumerate(kinds) if kind[0] != kind[1] and kind not in usual}, notes


def _repeated(pairs: list[Pair]) -> dict[int, Reason]:
    """Rows whose source file stands in an earlier row: no split takes them, and --drop would drop both."""
    first: dict[Path, Pair] = {}
    found = {}
    for index, pair in enumerate(pairs):
        earlier = first.setdefault(pair.src_path, pair)
        if earlier is not pair:
            other = "the same target" if earlier.tar_path == pair.tar_path else "another target"
            text = (
                f"its source stands in {earlier.where} too, with {other}; no split takes both: delete one of the rows"
            )
            found[index] = Reason("repeated", text, 1.0)
    return found


def _copies(pairs: list[Pair], measures: list[Measures]) -> dict[int, Reason]:
    """Near-duplicates, each reported for the later row, so that dropping what is listed keeps one of them."""
    hits = near_duplicates([m.src.look for m in measures], [m.tar.look for m in measures])
    found: dict[int, Reason] = {}
    for hit in sorted(hits, key=lambda hit: -hit.likeness):
        earlier = pairs[hit.first]
        text = f"like {earlier.src} ({earlier.where}): {hit.describe()}"
        found.setdefault(hit.second, Reason("duplicate", text, hit.likeness))
    return found


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
