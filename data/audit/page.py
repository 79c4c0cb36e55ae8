"""What an audit of pairs found -> audit.html, which opens from disk, and audit.jsonl. Needs no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from common.errors import InputError
from common.files import remove_stale_temporaries, write_jsonl, write_text
from common.locks import FolderLock
from common.log import RunLog
from common.memory import usable_cpus
from common.pages import fill, jpeg_url, shown_names
from common.workers import in_threads
from data.audit.alignment import Alignment
from data.audit.audit import Audit, audit_row, count_kinds
from data.audit.measures import LUMA, local_structure, read_small
from data.audit.rank import KINDS, Finding
from data.images import decode, jpeg, resize
from data.manifest import Pair

PAGE, ROWS = "audit.html", "audit.jsonl"
MOST_PICTURES = 100
LONG_SIDE = 480  # pixels
QUALITY = 82
CLOSE_UP = (96, 72)  # native pixels
GRID = 7
CONTRAST = 45.0  # codes a local deviation


def write_audit(output_dir: str | Path, audit: Audit, source: str, log: RunLog) -> None:
    """Write both files into `output_dir`, replacing former ones. source: name of the input, for the page's head.

    Raises InputError when the folder is in use or an image can no longer be read; Stopped.
    """
    folder = Path(output_dir)
    pictured, rest = audit.findings[:MOST_PICTURES], audit.findings[MOST_PICTURES:]
    names = shown_names([pair.src for pair in audit.pairs])
    page = fill(
        "audit.html",
        source=source,
        source_name=Path(source).name,
        folder=str(folder),
        rows_file=ROWS,
        count=len(audit.pairs),
        found=len(audit.findings),
        kinds=[(KINDS[kind], pairs) for kind, pairs in count_kinds(audit).items()],
        names=KINDS,
        notes=audit.notes,
        cards=[
            _entry(audit, finding, folder, names) | {"pictures": pictures}
            for finding, pictures in zip(pictured, _take_all(audit, pictured), strict=True)
        ],
        rest=[_entry(audit, finding, folder, names) for finding in rest],
    )
    with FolderLock(folder, log):
        remove_stale_temporaries(folder)
        write_jsonl(folder / ROWS, (audit_row(audit, finding) for finding in audit.findings))
        # A folder's name may hold bytes that are no UTF-8, and where a pair stands names the folder.
        write_text(folder / PAGE, page)
    log(f"Wrote {output_dir}: {PAGE}, {ROWS}; no split was made")


def _entry(audit: Audit, finding: Finding, folder: Path, names: list[str]) -> dict:
    pair, measures = audit.pairs[finding.index], audit.measures[finding.index]
    paths = {"src": pair.src_path, "tar": pair.tar_path}
    links = {role: quote(os.fsencode(os.path.relpath(path, folder.resolve()))) for role, path in paths.items()}
    kinds = [KINDS[reason.kind] for reason in finding.reasons]
    shown = {"name": names[finding.index], "kinds": kinds, "links": links}
    return {"pair": pair, "measures": measures, "reasons": finding.reasons, **shown}


@dataclass(frozen=True)
class Picture:
    """The data: URL of a JPEG file, and its size in pixels."""

    url: str
    width: int
    height: int


@dataclass(frozen=True)
class PairPictures:
    """close_up: source red and target cyan over each other at native size, or None."""

    src: Picture
    tar: Picture
    close_up: Picture | None


def _take_all(audit: Audit, findings: list[Finding]) -> list[PairPictures]:
    def take(number: int) -> PairPictures:
        index = findings[number].index
        displaced = any(reason.kind == "misregistered" for reason in findings[number].reasons)
        return take_pictures(audit.pairs[index], audit.measures[index].alignment if displaced else None)

    taken = {}
    for number, pictures in in_threads(take, range(len(findings)), usable_cpus(), "Taking pictures"):
        if isinstance(pictures, InputError):
            raise pictures
        taken[number] = pictures
    return [taken[number] for number in range(len(findings))]


def take_pictures(pair: Pair, alignment: Alignment | None) -> PairPictures:
    """Read both images of `pair`; alignment: where its target is displaced, to choose the part for the close-up."""
    small = []
    for path in (pair.src_path, pair.tar_path):
        pixels = read_small(path).pixels
        reduction = max(1.0, max(pixels.shape) / LONG_SIDE)
        size = (max(1, round(pixels.shape[1] / reduction)), max(1, round(pixels.shape[0] / reduction)))
        small.append(_picture(Image.fromarray(resize(pixels, size))))
    return PairPictures(small[0], small[1], None if alignment is None else _picture(_close_up(pair, alignment)))


def _close_up(pair: Pair, alignment: Alignment) -> Image.Image:
    """Where the displacement shows most: the part with much texture in both images and a large displacement."""
    src, tar = (decode(path) for path in (pair.src_path, pair.tar_path))
    height, width = src.shape[:2]
    columns, rows = min(CLOSE_UP[0], width), min(CLOSE_UP[1], height)
    best, shown = -1.0, None
    for top in np.linspace(0, height - rows, GRID).astype(int):
        for left in np.linspace(0, width - columns, GRID).astype(int):
            parts = [image[top : top + rows, left : left + columns] @ LUMA for image in (src, tar)]
            place = complex(left + (columns - width) / 2, top + (rows - height) / 2)
            visible = min(float(part.std()) for part in parts) * abs(alignment.displacement(place))
            if visible > best:
                best, shown = visible, parts
    assert shown is not None  # the first part is above -1
    red, cyan = ((128 + CONTRAST * local_structure(part)).clip(0, 255).astype(np.uint8) for part in shown)
    factor = -(-LONG_SIDE // columns)
    overlay = Image.fromarray(np.stack([red, cyan, cyan], axis=2))
    return overlay.resize((columns * factor, rows * factor), Image.Resampling.BICUBIC)


def _picture(image: Image.Image) -> Picture:
    return Picture(jpeg_url(jpeg(image, QUALITY, subsampled=True)), image.width, image.height)
