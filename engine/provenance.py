"""Content digests of rows and checkpoints -> which photos some weights saw; a test photo among them is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

from common.errors import Faults, InputError
from common.log import RunLog
from data.manifest import Pair

DIGESTS = ("src_sha256", "tar_sha256", "src_file_sha256", "tar_file_sha256")


@dataclass(frozen=True)
class Seen:
    """Digests of every photo that shaped some weights: `own` training and validation data, and what came `earlier`.

    `known` is False when weights without digests (published ones) were the start.
    """

    own: frozenset[str] = frozenset()
    earlier: frozenset[str] = frozenset()
    known: bool = True
    sources: tuple[str, ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """Plain types for a checkpoint."""
        return {
            "own": sorted(self.own),
            "earlier": sorted(self.earlier),
            "known": self.known,
            "sources": list(self.sources),
        }

    def describe(self) -> dict[str, Any]:
        """What summaries and results say of it: known or unknown, and the weights files without digests behind it."""
        return {"provenance": "known" if self.known else "unknown", "provenance_sources": list(self.sources)}

    @staticmethod
    def from_checkpoint(content: dict[str, Any], source: str) -> Seen:
        """What a checkpoint says of itself; published weights say nothing and are `known=False`."""
        data = content.get("data")
        if not _is_record(data):
            return Seen(known=False, sources=(source,))
        return Seen(frozenset(data["own"]), frozenset(data["earlier"]), data["known"], tuple(data["sources"]))

    def then(self, own: Iterable[Pair], mixed: Iterable[Pair]) -> Seen:
        """The record of weights that start from these and train on `own`, with `mixed` among the samples."""
        return Seen(digests(own), self.own | self.earlier | digests(mixed), self.known, self.sources)


def _is_record(data: object) -> TypeGuard[dict[str, Any]]:
    """Whether `data` is what `Seen.as_plain` writes; anything else proves nothing about what some weights saw."""
    if not isinstance(data, dict) or not isinstance(data.get("known"), bool):
        return False
    lists = [data.get(name) for name in ("own", "earlier", "sources")]
    return all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)


def digests(pairs: Iterable[Pair]) -> frozenset[str]:
    """All content and file digests of the pairs' two images."""
    return frozenset(pair.row[name] for pair in pairs for name in DIGESTS)


def refuse_test_photos(test: list[Pair], pairs: Iterable[Pair], seen: Seen) -> None:
    """InputError with all rows of `pairs` that are test photos; InputError when the starting weights saw one."""
    faults = _same_content("test", test, pairs)
    faults.raise_if_any("test photos among the training, validation or mixed rows", "Remove these rows.")
    refuse_unclean_weights(test, seen, "the starting weights")


def refuse_validation_photos(val: list[Pair], learned: Iterable[Pair]) -> None:
    """InputError with all rows of `learned` (training and mixed) that are validation photos: the best epoch would be a fake."""
    faults = _same_content("validation", val, learned)
    faults.raise_if_any("validation photos among the training or mixed rows", "Remove these rows.")


def _same_content(side: str, held_out: list[Pair], pairs: Iterable[Pair]) -> Faults:
    """A fault for each of `pairs` whose source or target, file or pixels, is one of `held_out`."""
    owners = {pair.row[name]: pair for pair in held_out for name in DIGESTS}
    faults = Faults()
    for pair in pairs:
        clash = next((owners[pair.row[name]] for name in DIGESTS if pair.row[name] in owners), None)
        if clash is not None:
            faults.add(pair.where, f"{pair.src} has the content of {side} photo {clash.src} ({clash.where})")
    return faults


def refuse_unclean_weights(test: list[Pair], seen: Seen, what: str) -> None:
    """InputError, naming the photos, when `seen` holds the content of a test photo."""
    everything = seen.own | seen.earlier
    clashes = [pair for pair in test if any(pair.row[name] in everything for name in DIGESTS)]
    if clashes:
        names = ", ".join(f"{pair.src} ({pair.where})" for pair in clashes[:20])
        raise InputError(
            f"{what} saw {len(clashes)} of the {len(test)} test photos: {names}; their score would be worthless"
        )


def log_provenance(seen: Seen, log: RunLog) -> None:
    """Say openly when nobody can know what some weights saw: those that a run starts from, or those under evaluation."""
    if not seen.known:
        log(f"⚠️  provenance unknown: {', '.join(seen.sources)} carries no digests of its training data")
