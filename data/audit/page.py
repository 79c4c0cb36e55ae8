"""What an audit of pairs found -> audit.html, which opens from disk, and audit.jsonl. Needs no torch.

MERGED: A pair that was found -> JPEGs to look at: both sides small, and a close-up of both in one for a displaced target.
"""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from common.errors import InputError
from common.files import FolderLock, remove_stale_temporaries, write_jsonl, write_text
from common.memory import usable_cpus
from common.pages import fill
from common.threads import in_threads
from data.audit.alignment import Alignment
from data.audit.audit import Audit, Log, audit_rows, count_kinds
from data.audit.measures import LUMA, local_structure, read_small
from data.audit.rank import KINDS, Finding
from data.images import decode, resize
from data.manifest import Pair

PAGE, ROWS = "audit.html", "audit.jsonl"
MOST_PICTURES = 100


def write_audit(output_dir: str | Path, audit: Audit, source: str, log: Log) -> None:
    """Write both files into `output_dir`, replacing former ones. source: name of the input, for the page's head.

    Raises InputError when the folder is in use or an image can no longer be read; Stopped.
    """
    folder = Path(output_dir)
    cards = _cards(audit, folder)
    page = fill(
        "audit.html",
        source=source,
        folder=str(folder),
        rows_file=ROWS,
        count=len(audit.pairs),
        found=len(audit.findings),
        kinds=[(KINDS[kind], pairs) for kind, pairs in count_kinds(audit).items()],
        names=KINDS,
        notes=audit.notes,
        cards=cards,
        rest=[_entry(audit, finding, folder) for finding in audit.findings[MOST_PICTURES:]],
    )
    with FolderLock(folder):
        remove_stale_temporaries(folder)
        write_jsonl(folder / ROWS, audit_rows(audit))
        # A folder's name may hold bytes that are no UTF-8, and where a pair stands names the folder.
        write_text(folder / PAGE, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    log(f"Wrote {output_dir}: {PAGE}, {ROWS}; no split was made")


def _cards(audit: Audit, folder: Path) -> list[dict]:
    shown = range(min(MOST_PICTURES, len(audit.findings)))
    pictures: dict[int, Pictures] = {}
    take = lambda number: _take(audit, audit.findings[number])  # noqa: E731
    for number, result in in_threads(take, shown, usable_cpus(), "Taking pictures"):
        if isinstance(result, InputError):
            raise result
        pictures[number] = result
    return [
        _entry(audit, audit.findings[number], folder)
        | {"pictures": {name: _data_url(content) for name, content in vars(pictures[number]).items() if content}}
        for number in shown
    ]


def _take(audit: Audit, finding: Finding) -> Pictures:
    displaced = any(reason.kind == "misregistered" for reason in finding.reasons)
    return take_pictures(audit.pairs[finding.index], audit.measures[finding.index].alignment if displaced else None)


def _entry(audit: Audit, finding: Finding, folder: Path) -> dict:
    pair, measures = audit.pairs[finding.index], audit.measures[finding.index]
    paths = {"src": pair.src_path, "tar": pair.tar_path}
    links = {side: quote(os.fsencode(os.path.relpath(path, folder.resolve()))) for side, path in paths.items()}
    return {"pair": pair, "measures": measures, "reasons": finding.reasons, "links": links}


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


SIDE = 360  # pixels of the long side
QUALITY = 82
CLOSE_UP = (96, 72)  # native pixels
GRID = 7
CONTRAST = 45.0  # codes a local deviation


@dataclass(frozen=True)
class Pictures:
    """JPEG files; close_up: source red and target cyan over each other at native size, or None."""

    src: bytes
    tar: bytes
    close_up: bytes | None


def take_pictures(pair: Pair, alignment: Alignment | None) -> Pictures:
    """Read both images of `pair`; alignment: where its target is displaced, to choose the part for the close-up."""
    src, tar = (_jpeg(_fitted(read_small(path).pixels)) for path in (pair.src_path, pair.tar_path))
    return Pictures(src, tar, None if alignment is None else _close_up(pair, alignment))


def _close_up(pair: Pair, alignment: Alignment) -> bytes:
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
    red, cyan = ((128 + CONTRAST * local_structure(part)).clip(0, 255).astype(np.uint8) for part in shown)
    overlay = Image.fromarray(np.stack([red, cyan, cyan], axis=2))
    factor = -(-SIDE // columns)
    return _jpeg(np.asarray(overlay.resize((columns * factor, rows * factor), Image.Resampling.BICUBIC)))


def _fitted(pixels: np.ndarray) -> np.ndarray:
    reduction = max(1.0, max(pixels.shape) / SIDE)
    return resize(pixels, (max(1, round(pixels.shape[1] / reduction)), max(1, round(pixels.shape[0] / reduction))))


def _jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
