"""Files with photo and side -> pairs to make, and for every other file the reason why it makes none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import Faults, InputError
from common.files import is_no_folder
from data.fivek.config import FivekConfig
from data.fivek.find import INPUT, TARGET, Scan, SidedFile, SourceFile, scan_folder

REJECTED, UNMATCHED_INPUT, UNMATCHED_TARGET, IGNORED = "rejected", "unmatched_input", "unmatched_target", "ignored"
SHOWN_FOLDERS = 30
SITE = "https://data.csail.mit.edu/graphics/fivek/img"


@dataclass(frozen=True)
class FilePair:
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
    """pairs by key; leftovers; licences {key: name}; how many image files there are, and of other experts.

    generic_targets: photos with both files whose target stands in a folder that names no expert.
    """

    pairs: list[FilePair]
    leftovers: list[Leftover]
    licences: dict[str, str]
    files: int
    other_experts: int
    generic_targets: int


def find_photos(config: FivekConfig) -> Found:
    """Find the pairs of --expert below --fivek_dir.

    Raises InputError when there is none (saying which folders were looked at, and where to get renditions), when a photo
    stands twice on one side, and when --output_dir would be searched or overwritten as a source.
    """
    output, root = Path(config.output_dir).resolve(), Path(config.fivek_dir).resolve()
    if root.is_relative_to(output):
        raise InputError(f"--output_dir {config.output_dir} holds --fivek_dir {config.fivek_dir}; name another folder")
    if is_no_folder(output):
        raise InputError(f"--output_dir {config.output_dir} is a file; name a folder")
    scan = scan_folder(config.fivek_dir, skip=output)
    usable = [file for file in scan.files if file.side.expert in (None, config.expert)]
    inputs, targets, leftovers = _one_each(usable, config)
    complete = inputs.keys() & targets.keys()
    if not complete:
        raise InputError(_nothing_found(config, scan))
    leftovers += [Leftover("", REJECTED, reason, path) for path, reason in scan.refused]
    leftovers += [Leftover("", IGNORED, reason, path) for path, reason in scan.ignored + scan.others]
    pairs = []
    for key in sorted(inputs.keys() | targets.keys()):
        if key not in targets:
            reason = f"no rendition by expert {config.expert}"
            leftovers.append(Leftover(key, UNMATCHED_INPUT, reason, input=inputs[key].file.path))
        elif key not in inputs:
            leftovers.append(Leftover(key, UNMATCHED_TARGET, "no input", target=targets[key].file.path))
        elif len({inputs[key].name, targets[key].name} - {None}) > 1:
            reason = "name conflict: one id, two camera names"
            leftovers.append(Leftover(key, REJECTED, reason, inputs[key].file.path, targets[key].file.path))
        else:
            pairs.append(FilePair(key, inputs[key].file, targets[key].file))
    return Found(
        pairs,
        leftovers,
        licences={key: scan.licences.get(key, "unknown") for key in complete},
        files=len(scan.files) + len(scan.refused) + len(scan.ignored),
        other_experts=len(scan.files) - len(usable),
        generic_targets=sum(targets[key].side.expert is None for key in complete),
    )


def _one_each(
    files: list[SidedFile], config: FivekConfig
) -> tuple[dict[str, SidedFile], dict[str, SidedFile], list[Leftover]]:
    """By key, the input and the target to use, chosen by --prefer; and the others. InputError where that does not decide."""
    ranks = {suffix: rank for rank, suffix in enumerate(config.preferred_suffixes)}

    def rank(file: SidedFile) -> int:
        return ranks.get(file.file.suffix, len(ranks))

    faults, leftovers = Faults(), []
    chosen: dict[str, dict[str, SidedFile]] = {INPUT: {}, TARGET: {}}
    for side, photos in chosen.items():
        same: dict[str, list[SidedFile]] = {}
        for file in sorted(files, key=lambda file: file.file.path):
            if file.side.side == side:
                same.setdefault(file.key, []).append(file)
        for key, copies in same.items():
            ranked = sorted(copies, key=rank)
            photos[key] = ranked[0]
            if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
                faults.add(key, f"{len(copies)} {side} files: {', '.join(file.file.path for file in copies)}")
            for file in ranked[1:]:
                reason = f"--prefer took {ranked[0].file.path}"
                leftovers.append(Leftover(key, IGNORED, reason, **{side: file.file.path}))
    faults.raise_if_any(
        f"--fivek_dir {config.fivek_dir}: photos that are there more than once",
        "Move one of them away, or give --prefer with suffixes in order of preference, say --prefer tif,dng,jpg.",
    )
    return chosen[INPUT], chosen[TARGET], leftovers


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
