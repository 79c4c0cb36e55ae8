"""Folder -> the folders below it with their files, in one order on every machine. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def visible_folders(base: Path, skip: Path | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield `base` and each folder below it with the sorted names of its files.

    Linked folders are entered, every real folder once; hidden folders and what lies in `skip` are left out.
    """
    seen = set() if skip is None else {os.path.realpath(skip)}
    for folder, folders, files in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(folder), sorted(files)
