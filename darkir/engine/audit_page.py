"""What an audit of pairs found -> audit.html, which opens from disk, and audit.jsonl. Needs no torch."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from urllib.parse import quote

from darkir.engine.pages import fill
from data.audit import Audit, Log, audit_rows, count_kinds
from data.audit_pictures import Pictures, take_pictures
from data.audit_rank import KINDS, Finding
from data.errors import DataError
from data.files import FolderLock, remove_stale_temporaries, write_jsonl, write_text
from data.fingerprint import usable_cpus
from data.threads import in_threads

PAGE, ROWS = "audit.html", "audit.jsonl"
MOST_PICTURES = 100


def write_audit(output_dir: str | Path, audit: Audit, source: str, log: Log) -> None:
    """Write both files into `output_dir`, replacing former ones. source: name of the input, for the page's head.

    Raises DataError when the folder is in use or an image can no longer be read; stop.Interrupted.
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
        if isinstance(result, DataError):
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
