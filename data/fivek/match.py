"""Files with photo and side -> pairs to make, and for every other file the reason why it makes none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import Faults, InputError
from data.fivek.config import FivekConfig
from data.fivek.find import INPUT, TARGET, Scan, SidedFile, SourceFile, scan_folder

REJECTED, UNMATCHED_INPUT, UNMATCHED_TARGET, IGNORED = "rejected", "unmatched_input", "unmatched_target", "ignored"
SHOWN_FOLDERS = 30
SITE = "https://data.csail.mit.edu/graphics/fivek/img"


@dataclass(frozen=True)
class Candidate:
    """Two files that should show one photo."""

    key: str
    input: SourceFile
    target: SourceFile


@dataclass(frozen=True)
class Leftover:
    """A photo, or a file, that makes no pair. A path is empty where that side is not concerned."""

    key: str
    status: str
    reason: str
    input: str = ""
    target: str = ""


@dataclass(frozen=True)
class Found:
    """candidates by key; leftovers; licences {key: name}; how many image files there are, and of other experts.

    generic_targets: candidates whose target stands in a folder that names no expert.
    """

    candidates: list[Candidate]
    leftovers: list[Leftover]
    licences: dict[str, str]
    files: int
    other_experts: int
    generic_targets: int


def find_photos(config: FivekConfig) -> Found:
    """Find the pairs of --expert below --fivek_dir.

    Raises InputError when there is none (saying which folders were looked at, and where renditions are to be had), when a
    photo stands twice on one side, and when --output_dir would be searched or overwritten as a source.
    """
    output, root = Path(config.output_dir).resolve(), Path(config.fivek_dir).resolve()
    if root.is_relative_to(output):
        raise InputError(f"--output_dir {config.output_dir} holds --fivek_dir {config.fivek_dir}; name another folder")
    if output.exists() and not output.is_dir():
        raise InputError(f"--output_dir {config.output_dir} is a file; name a folder")
    scan = scan_folder(config.fivek_dir, skip=output)
    wanted = [file for file in scan.files if file.side.expert in (None, config.expert)]
    inputs, targets = (_by_key([file for file in wanted if file.side.side == side]) for side in (INPUT, TARGET))
    leftovers = [Leftover("", REJECTED, reason, path) for path, reason in scan.refused]
    leftovers += [Leftover("", IGNORED, reason, path) for path, reason in scan.ignored]
    leftovers += _only_one_each(inputs, targets, config)
    candidates, unmatched = _match(inputs, targets, config.expert)
    if not candidates:
        raise InputError(_nothing_found(config, scan))
    generic = sum(targets[pair.key][0].side.expert is None for pair in candidates)
    named = {pair.key: scan.licences.get(pair.key, "unknown") for pair in candidates}
    kept, conflicts = _without_conflicts(candidates, inputs, targets)
    files = len(scan.files) + len(scan.refused) + len(scan.ignored)
    others = len(scan.files) - len(wanted)
    return Found(kept, leftovers + unmatched + conflicts, named, files, others, generic)


def _by_key(files: list[SidedFile]) -> dict[str, list[SidedFile]]:
    found: dict[str, list[SidedFile]] = {}
    for file in sorted(files, key=lambda file: file.file.path):
        found.setdefault(file.name.key, []).append(file)
    return found


def _only_one_each(
    inputs: dict[str, list[SidedFile]], targets: dict[str, list[SidedFile]], config: FivekConfig
) -> list[Leftover]:
    """Leave one file a photo and side, by --prefer; the others become leftovers. InputError where that does not decide."""
    order = {suffix: rank for rank, suffix in enumerate(config.preferred_suffixes)}
    faults = Faults()
    leftovers = []
    for side, photos in ((INPUT, inputs), (TARGET, targets)):
        for key, files in photos.items():
            ranked = sorted(files, key=lambda file: order.get(file.file.suffix, len(order)))
            ranks = [order.get(file.file.suffix, len(order)) for file in ranked]
            if len(ranked) > 1 and ranks[0] == ranks[1]:
                faults.add(key, f"{len(files)} {side} files: {', '.join(file.file.path for file in files)}")
            photos[key] = ranked[:1]
            leftovers += [
                Leftover(key, IGNORED, f"--prefer took {ranked[0].file.path}", **{side: file.file.path})
                for file in ranked[1:]
            ]
    faults.raise_if_any(
        f"--fivek_dir {config.fivek_dir}: photos that are there more than once",
        "Move one of them away, or give --prefer with suffixes in order of preference, say --prefer tif,dng,jpg.",
    )
    return leftovers


def _match(
    inputs: dict[str, list[SidedFile]], targets: dict[str, list[SidedFile]], expert: str
) -> tuple[list[Candidate], list[Leftover]]:
    candidates, unmatched = [], []
    for key in sorted(inputs.keys() | targets.keys()):
        if key in inputs and key in targets:
            candidates.append(Candidate(key, inputs[key][0].file, targets[key][0].file))
        elif key in inputs:
            reason = f"no rendition by expert {expert}"
            unmatched.append(Leftover(key, UNMATCHED_INPUT, reason, input=inputs[key][0].file.path))
        else:
            unmatched.append(Leftover(key, UNMATCHED_TARGET, "no input", target=targets[key][0].file.path))
    return candidates, unmatched


def _without_conflicts(
    candidates: list[Candidate], inputs: dict[str, list[SidedFile]], targets: dict[str, list[SidedFile]]
) -> tuple[list[Candidate], list[Leftover]]:
    """Two files with one id whose camera names differ are not one photo."""
    kept, conflicts = [], []
    for pair in candidates:
        names = {name for side in (inputs, targets) if (name := side[pair.key][0].name.name) is not None}
        if len(names) > 1:
            reason = "name conflict: one id, two camera names"
            conflicts.append(Leftover(pair.key, REJECTED, reason, pair.input.path, pair.target.path))
        else:
            kept.append(pair)
    return kept, conflicts


def _nothing_found(config: FivekConfig, scan: Scan) -> str:
    lines = [f"--fivek_dir {config.fivek_dir}: no photo with both an input and a rendition by expert {config.expert}"]
    lines.append("Folders looked at, with their image files:")
    folders = sorted((name, counts) for name, counts in scan.folders.items() if counts)
    lines += [
        f"  {name}: {', '.join(f'{count} {kind}' for kind, count in sorted(counts.items()))}"
        for name, counts in folders[:SHOWN_FOLDERS]
    ]
    if len(folders) > SHOWN_FOLDERS:
        lines.append(f"  ... and {len(folders) - SHOWN_FOLDERS} more")
    if not folders:
        lines.append("  none holds an image")
    lines += [f"  not used: {path}: {reason}" for path, reason in scan.refused[:3]]
    experts = {file.side.expert for file in scan.files if file.side.expert}
    if experts:
        lines.append(f"Renditions here are by expert {', '.join(sorted(experts))}: choose with --expert.")
    letter = config.expert.lower()
    lines += [
        "The 50 GB archive fivek_dataset.tar holds raw_photos/ with the DNG inputs, but no expert renditions. Those are",
        f"single files: {SITE}/tiff16_{letter}/NAME.tif (53 MB each; NAME as in filesAdobe.txt).",
        f"The same inputs, neutrally developed: {SITE}/tiff16_inputAsShotZeroed/NAME.tif",
        f"Put them into {config.fivek_dir}/tiff16_{letter}/ and run the same command again.",
    ]
    return "\n".join(lines)
