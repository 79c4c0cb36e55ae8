"""Content digests and looks of rows and checkpoints -> which photos some weights saw; a test photo among them is refused.

An exact copy is always refused. A photo that only looks like a test photo is refused, reported or not looked for, as
--near_duplicates says: of the split for its rows, of the command for what a checkpoint carries. Validation photos that the
starting weights of a run saw are refused in the same way, or with --allow_seen_validation marked wherever their scores stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from common.errors import Faults
from common.lists import listed_error, shortened
from common.log import RunLog
from data.fingerprint import DIGESTS, look_of_row
from data.lookalikes import Looks, rows_alike
from data.manifest import METADATA, Pair, read_metadata
from data.perceptual import Look, look_of_texts, text_of_hash, text_of_tone


@dataclass(frozen=True)
class Seen:
    """Digests of every photo that shaped some weights: `own` training and validation data, and what came `earlier`.

    `known` is False when weights without digests (published ones) were the start. `looks`: how all these photos look, as text;
    `sources_without_looks`: weights files of earlier versions behind it, whose photos are known by their digests alone.
    """

    own: frozenset[str] = frozenset()
    earlier: frozenset[str] = frozenset()
    known: bool = True
    sources: tuple[str, ...] = ()
    looks: frozenset[str] = frozenset()
    sources_without_looks: tuple[str, ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """Plain types for a checkpoint."""
        return {
            "own": sorted(self.own),
            "earlier": sorted(self.earlier),
            "known": self.known,
            "sources": list(self.sources),
            "looks": sorted(self.looks),
            "sources_without_looks": list(self.sources_without_looks),
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
        lacking = data.get("sources_without_looks", [source])
        names = [data["own"], data["earlier"], data.get("looks", [])]
        own, earlier, looks = (frozenset(each) for each in names)
        return Seen(own, earlier, data["known"], tuple(data["sources"]), looks, tuple(lacking))

    def then(self, own: Iterable[Pair], mixed: Iterable[Pair]) -> Seen:
        """The record of weights that start from these and train on `own`, with `mixed` among the samples."""
        own, mixed = list(own), list(mixed)
        earlier, looks = self.own | self.earlier | digests(mixed), self.looks | looks_of([*own, *mixed])
        return Seen(digests(own), earlier, self.known, self.sources, looks, self.sources_without_looks)

    @staticmethod
    def union(many: Iterable[Seen]) -> Seen:
        """What any of `many` has seen."""
        every = list(many)
        return Seen(
            own=frozenset().union(*(seen.own for seen in every)),
            earlier=frozenset().union(*(seen.earlier for seen in every)),
            known=all(seen.known for seen in every),
            sources=tuple(sorted({source for seen in every for source in seen.sources})),
            looks=frozenset().union(*(seen.looks for seen in every)),
            sources_without_looks=tuple(sorted({source for seen in every for source in seen.sources_without_looks})),
        )


def _is_record(data: object) -> TypeGuard[dict[str, Any]]:
    """Whether `data` is what `Seen.as_plain` writes; anything else proves nothing about what some weights saw."""
    if not isinstance(data, dict) or not isinstance(data.get("known"), bool):
        return False
    lists = [data.get(name) for name in ("own", "earlier", "sources")]
    lists += [data.get(name, []) for name in ("looks", "sources_without_looks")]
    if not all(map(_are_texts, lists)):
        return False
    try:
        return len([_look_of_text(text) for text in data.get("looks", [])]) >= 0
    except ValueError:
        return False


def _are_texts(names: object) -> TypeGuard[list[str]]:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def digests(pairs: Iterable[Pair]) -> frozenset[str]:
    """All content and file digests of the pairs' two images."""
    return frozenset(pair.row[name] for pair in pairs for name in DIGESTS)


def settle_near_duplicates(flag: str | None, split: Path | None) -> str:
    """What a photo that looks like a test photo means: "refuse", "report" or "off".

    The `flag` --near_duplicates decides, else how the split in the folder `split`, if it is one, was made; else "refuse". Raises
    InputError for split metadata that cannot be read.
    """
    if flag is not None or split is None or not (split / METADATA).is_file():
        return flag or "refuse"
    recorded = read_metadata(split / METADATA).get("near_duplicates")
    mode = recorded.get("mode") if isinstance(recorded, dict) else None
    return mode if mode in ("report", "off") else "refuse"


def looks_of(pairs: Iterable[Pair]) -> frozenset[str]:
    """The looks of the pairs' images that are not flat, as text: `phash:tone`."""
    looks = {look_of_row(pair.row, role) for pair in pairs for role in ("src", "tar")}
    return frozenset(f"{text_of_hash(look.phash)}:{text_of_tone(look.tone)}" for look in looks if look.tone is not None)


def _look_of_text(text: str) -> Look:
    """The way back from `looks_of`; ValueError for any other text."""
    return look_of_texts(*text.split(":", 1)) if ":" in text else look_of_texts(text, None)


def refuse_test_photos(test: list[Pair], pairs: Iterable[Pair]) -> None:
    """InputError with all rows of `pairs` that are test photos."""
    faults = _same_content("test", test, pairs)
    faults.raise_if_any("test photos among the training, validation or mixed rows", "Remove these rows.")


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


@dataclass(frozen=True)
class SeenValidation:
    """The src of the validation photos of a run that its starting weights saw, and of those that only look like one they saw.

    photos: how many validation photos there are. Their scores are contaminated: no model that never saw them made them.
    """

    photos: int
    exact: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.exact or self.alike)

    def __str__(self) -> str:
        alike = f", and photos that look like {len(self.alike)} more" if self.alike else ""
        return f"the starting weights saw {len(self.exact)} of the {self.photos} validation photos{alike}"

    def as_plain(self) -> dict[str, Any]:
        """Plain types for a checkpoint."""
        return {"photos": self.photos, "exact": list(self.exact), "alike": list(self.alike)}

    @staticmethod
    def from_checkpoint(content: dict[str, Any]) -> SeenValidation | None:
        """What a run recorded. Of an earlier version's run: none, when nothing that came before was among its own photos;
        else None, as its validation photos cannot be told from the photos that it learned from."""
        record = content.get("seen_validation")
        if isinstance(record, dict) and type(record.get("photos")) is int:
            exact, alike = record.get("exact"), record.get("alike")
            if _are_texts(exact) and _are_texts(alike):
                return SeenValidation(record["photos"], tuple(exact), tuple(alike))
        seen = Seen.from_checkpoint(content, "")
        return None if seen.own & seen.earlier else SeenValidation(0)

    def and_before(self, content: dict[str, Any] | None) -> SeenValidation:
        """This, and what an earlier start of the same run recorded in its state `content`: flags may have changed since."""
        before = None if content is None else SeenValidation.from_checkpoint(content)
        if before is None:
            return self
        exact = sorted({*self.exact, *before.exact})
        alike = sorted({*self.alike, *before.alike} - {*exact})
        return SeenValidation(self.photos, tuple(exact), tuple(alike))


def refuse_seen_validation(
    val: list[Pair], seen: Seen, near_duplicates: str, allowed: bool, log: RunLog
) -> SeenValidation:
    """The validation photos that the starting weights saw; `allowed`: by --allow_seen_validation, with a log line.

    Raises InputError unless `allowed` for exact copies, and with near_duplicates "refuse" for photos that look alike.
    """
    everything = seen.own | seen.earlier
    exact = [pair for pair in val if any(pair.row[name] in everything for name in DIGESTS)]
    alike = []
    if near_duplicates != "off" and val:
        _warn_of_digests_only(seen, "validation", log)
        known = {pair.where for pair in exact}
        alike = [(pair, how) for pair, how in _photos_alike(val, seen) if pair.where not in known]
    found = SeenValidation(len(val), tuple(pair.src for pair in exact), tuple(pair.src for pair, _ in alike))
    if not found:
        return found
    places = [f"{pair.src} ({pair.where})" for pair in exact]
    places += [f"{pair.src} ({pair.where}, {how})" for pair, how in alike]
    if not allowed and (exact or near_duplicates == "refuse"):
        way_out = "" if exact else "if they only happen to look alike, go on with --near_duplicates report; "
        hint = (
            "a validation score would be of photos that were learned from. Start from weights that never saw them; "
            f"{way_out}--allow_seen_validation trains all the same and marks every such score as contaminated"
        )
        raise listed_error(f"{found}:", places, hint)
    log(f"⚠️  {found}: {shortened(places)}; every validation and out-of-fold score of this run is contaminated")
    return found


def _warn_of_digests_only(seen: Seen, side: str, log: RunLog) -> None:
    if seen.known and seen.sources_without_looks:
        files = ", ".join(seen.sources_without_looks)
        log(f"⚠️  {files} carries digests only: no more than exact copies of {side} photos can be found")


def refuse_unclean_weights(
    test: list[Pair], seen: Seen, what: str, near_duplicates: str, log: RunLog
) -> list[tuple[str, str]]:
    """The src of the test photos that only look like one that `seen` knows, and how; none with `near_duplicates` "off".

    Raises InputError, naming the photos, when `seen` holds the content of a test photo, and with "refuse" for those that look
    alike; with "report" these are named in the log.
    """
    everything = seen.own | seen.earlier
    clashes = [pair for pair in test if any(pair.row[name] in everything for name in DIGESTS)]
    if clashes:
        names = [f"{pair.src} ({pair.where})" for pair in clashes]
        headline = f"{what} saw {len(clashes)} of the {len(test)} test photos:"
        raise listed_error(headline, names, "their score would be worthless")
    if near_duplicates == "off" or not test:
        return []
    _warn_of_digests_only(seen, "test", log)
    alike = _photos_alike(test, seen)
    if not alike:
        return []
    names = [f"{pair.src} ({pair.where}, {how})" for pair, how in alike]
    headline = f"{what} saw photos that look like {len(alike)} of the {len(test)} test photos:"
    if near_duplicates == "refuse":
        hint = (
            "another exposure, a crop or a turned copy of a photo that was learned from scores too well. Take these rows "
            "out of the test set; or, if they only happen to look alike, go on with --near_duplicates report"
        )
        raise listed_error(headline, names, hint)
    log(f"⚠️  {headline} {shortened(names)}; their scores may flatter")
    return [(pair.src, how) for pair, how in alike]


def _photos_alike(held_out: list[Pair], seen: Seen) -> list[tuple[Pair, str]]:
    """The `held_out` photos that look like something in `seen`, and by which image and how much."""
    known = Looks([_look_of_text(text) for text in sorted(seen.looks)])
    return [(held_out[index], how) for index, (_, how) in rows_alike([pair.row for pair in held_out], known).items()]


def log_provenance(seen: Seen, log: RunLog) -> None:
    """Say openly when nobody can know what some weights saw: those that a run starts from, or those under evaluation."""
    if not seen.known:
        log(f"⚠️  provenance unknown: {', '.join(seen.sources)} carries no digests of its training data")
