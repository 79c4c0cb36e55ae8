"""Pairs -> what looks wrong with them: each is measured on small versions, in threads, then judged beside the rest."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from common.errors import Faults, InputError
from common.log import RunLog
from common.memory import usable_cpus
from common.workers import in_threads
from data.audit.measures import Measures, measure
from data.audit.rank import KINDS, Finding, rank
from data.audit.scores import FEWEST_SCORES, Score, judge, read_scores
from data.config import MIN_SIDE
from data.fingerprint import UNUSABLE
from data.manifest import Pair

SHOWN = 5


@dataclass(frozen=True)
class Audit:
    """measures: one a pair. findings: worst first. notes: what could not be judged. seconds: for measuring."""

    pairs: list[Pair]
    measures: list[Measures]
    findings: list[Finding]
    notes: list[str]
    seconds: float


def audit_pairs(pairs: list[Pair], oof: str | None = None, *, duplicates: bool = True) -> Audit:
    """Measure and judge `pairs`. oof: file of out-of-fold scores. duplicates: whether to look for near-duplicates.

    A thread for each CPU of this process. A progress bar is shown on a terminal only.

    Raises InputError with all images that cannot be used, as the split does (but a pair of two sizes is a finding), and
    for an --oof file that is wrong or about other photos; Stopped.
    """
    scores, notes = _judged_scores(pairs, oof) if oof else (None, [])
    start = time.monotonic()
    measures = _measure_all(pairs)
    seconds = time.monotonic() - start
    findings, more = rank(pairs, measures, scores, duplicates)
    return Audit(pairs, measures, findings, notes + more, seconds)


def _judged_scores(pairs: list[Pair], oof: str) -> tuple[dict[str, Score], list[str]]:
    scores = read_scores(oof)
    known = {pair.src for pair in pairs} & scores.keys()
    if not known:
        raise InputError(f"--oof {oof}: none of its {len(scores)} photos is in the input; src must be written alike")
    judged = judge(scores)
    notes = [f"--oof: {len(known)} of {len(pairs)} pairs have an out-of-fold score"]
    if others := len(scores) - len(known):
        notes.append(f"--oof: {others} of its {len(scores)} photos are not in the input: dropped, or of another run")
    if not judged:
        notes.append(f"out-of-fold scores were not judged: that needs {FEWEST_SCORES} photos, to know what is usual")
    return judged, notes


def _measure_all(pairs: list[Pair]) -> list[Measures]:
    found = dict(in_threads(lambda index: measure(pairs[index]), range(len(pairs)), usable_cpus(), "Measuring pairs"))
    measures: list[Measures] = []
    faults = Faults()
    for index, pair in enumerate(pairs):
        m = found[index]
        if isinstance(m, InputError):
            faults.add(pair.where, str(m))
            continue
        measures.append(m)
        if m.same_size and min(m.src.width, m.src.height) < MIN_SIDE:
            size = f"{m.src.width}x{m.src.height}"
            faults.add(pair.where, f"{pair.src} and {pair.tar}: {size} is too small, a side needs {MIN_SIDE} pixels")
    faults.raise_if_any(*UNUSABLE)
    return measures


def report_audit(audit: Audit, log: RunLog) -> None:
    """The result in a few lines, and a line for each of the five worst pairs."""
    log(f"Audit: {len(audit.pairs)} pairs measured in {audit.seconds:.1f} s, {len(audit.findings)} look wrong")
    for note in audit.notes:
        log(f"Note: {note}")
    for kind, pairs in count_kinds(audit).items():
        log(f"{pairs:6d}  {KINDS[kind]}")
    for finding in audit.findings[:SHOWN]:
        pair = audit.pairs[finding.index]
        log(f"  {pair.where}: {pair.src}: " + "; ".join(reason.text for reason in finding.reasons))
    if len(audit.findings) > SHOWN:
        log(f"  ... and {len(audit.findings) - SHOWN} more, all of them in audit.jsonl")


def count_kinds(audit: Audit) -> dict[str, int]:
    """How many pairs have each kind of reason, in the order of harm; kinds without a pair are left out."""
    counts = Counter(kind for finding in audit.findings for kind in {reason.kind for reason in finding.reasons})
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def audit_row(audit: Audit, finding: Finding) -> dict:
    """A row of audit.jsonl: the pair's own row, and under "audit" where it stands, the reasons, and the measured numbers."""
    pair, m = audit.pairs[finding.index], audit.measures[finding.index]
    alignment = m.alignment and {
        "right_px": round(m.alignment.shift[0], 2),
        "down_px": round(m.alignment.shift[1], 2),
        "rotation_degrees": round(m.alignment.rotation, 3),
        "scale": round(m.alignment.scale, 5),
        "rms_px": round(m.alignment.rms, 2),
        "agreeing": round(m.alignment.agreeing, 3),
    }
    entry: dict[str, Any] = {
        "file": os.fsencode(pair.file).decode("utf-8", "backslashreplace"),
        "line": pair.line,
        "reasons": [{"kind": reason.kind, "text": reason.text} for reason in finding.reasons],
        "alignment": alignment,
        "structure": None if m.structure is None else round(m.structure, 3),
        "psnr": round(m.psnr, 2),
        "stops": round(m.change[0], 2),
    }
    for role, image in (("src", m.src), ("tar", m.tar)):
        entry[role] = {"width": image.width, "height": image.height, "orientation": image.orientation}
        entry[role] |= {"profile": image.profile, "white": round(image.white, 4)}
    entry |= {"lost_in_src": round(m.lost_in_src, 4), "lost_in_tar": round(m.lost_in_tar, 4)}
    return {**pair.row, "audit": entry}
