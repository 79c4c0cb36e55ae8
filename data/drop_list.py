"""A list of src names -> the rows that are left without them. The names come from audit.jsonl, or from anywhere."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

from data.errors import DataError
from data.faults import Faults
from data.jsonl import open_input, parse_object
from data.manifest import Pair


def drop_rows(pairs: list[Pair], path: str | Path) -> tuple[list[Pair], list[str]]:
    """`pairs` without those whose src, as written, stands in the file `path`; and the names, sorted, each once.

    A line of the file is a JSON object with "src" (a line of audit.jsonl, say), a JSON string, or the bare name; blank
    lines are skipped. Raises DataError with every bad line and every name that no row has, and when
    no pair is left.
    """
    known = {pair.src for pair in pairs}
    faults = Faults()
    names = set()
    for where, name in _names(path, faults):
        names.add(name)
        if name not in known:
            faults.add(where, f"no row of the input has the src {name!r}, letter for letter")
    faults.raise_if_any(f"--drop {path}: lines that cannot be used")
    kept = [pair for pair in pairs if pair.src not in names]
    if not kept:
        raise DataError(f"--drop {path} names all {len(pairs)} pairs; nothing is left")
    return kept, sorted(names)


def _names(path: str | Path, faults: Faults) -> list[tuple[str, str]]:
    """(file:line, src) of each good line."""
    try:
        handle = open_input(path)
    except DataError as error:
        raise DataError(f"--drop {error}") from None
    found = []
    with handle:
        for number, raw in enumerate(handle, start=1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                found.append((where, _name(line)))
            except ValueError as error:
                faults.add(where, str(error))
    return found


def _name(line: bytes) -> str:
    """The src that one line names; ValueError with a short reason."""
    if line.lstrip().startswith(b"{"):
        name = parse_object(line).get("src")
        if not isinstance(name, str):
            raise ValueError('the object has no "src" with a name')
        return name
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if not text.startswith('"'):
        return text
    name = json.loads(text)
    if not isinstance(name, str):
        raise ValueError("not one name in quotes")
    return name
