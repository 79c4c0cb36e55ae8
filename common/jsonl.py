"""JSONL file -> one dictionary a line, strictly; every bad line becomes a fault with its number. JSON text -> its value.

Bytes are split at line feeds only and decoded line by line: text mode would report a fault lines too late, and
str.splitlines() also splits at U+2028 inside a string. Python's json takes duplicate keys, NaN and overflowing numbers;
here they are faults. Needs no torch.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.errors import Faults, InputError

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_jsonl(path: str | Path, faults: Faults) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, object) for each good line; blank lines are skipped, bad ones go to `faults`.

    UTF-8 with or without BOM, \\n or \\r\\n. Raises InputError when the file is missing, a folder, unreadable or UTF-16.
    """
    with open_input(path) as handle:
        yield from parse_jsonl(handle, path, faults)


def parse_jsonl(lines: Iterable[bytes], path: str | Path, faults: Faults) -> Iterator[tuple[int, dict]]:
    """`read_jsonl` of the lines of an open file; `path` is for messages."""
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in (raw[:1], raw[1:2]):
                raise InputError(f"{path} is UTF-16 (or binary); save it as UTF-8")
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if not raw.strip():
            continue
        try:
            yield number, parse_object(raw)
        except ValueError as error:
            faults.add(f"{path}:{number}", str(error))


def open_input(path: str | Path) -> io.BufferedReader:
    """Open a file that the user named, for reading bytes; InputError with the reason when that cannot be done."""
    try:
        handle = Path(path).open("rb")
        if stat.S_ISCHR(mode := os.fstat(handle.fileno()).st_mode) or stat.S_ISBLK(mode):
            handle.close()
            raise InputError(f"{path} is a device, not a file")
        return handle
    except FileNotFoundError:
        raise InputError(f"{path} does not exist{twin_hint(Path(path))}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file") from None
    except (PermissionError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def parse_object(raw: bytes) -> dict:
    """Parse one line; ValueError with a short reason unless it holds exactly one JSON object of plain values."""
    if b"\0" in raw:
        raise ValueError("NUL bytes (a torn or binary file)")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1})") from None
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise ValueError(f"more than one JSON value on the line (second starts at column {error.colno})") from None
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(value, dict):
        kind = {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
        raise ValueError(f'a JSON {kind}, but each line must be an object like {{"src": ..., "tar": ...}}')
    if SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair (\\ud800 to \\udfff) in a string") from None
    return value


def parse_json(text: str | bytes) -> Any:
    """The one JSON value in `text`; ValueError also for what Python's json takes beyond the standard, and for deep nesting."""
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return row


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:20]} is too large")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole(text: str) -> int:
    if len(text) > 300:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_float=_finite, parse_int=_whole, parse_constant=_refuse_constant
)


def twin_hint(path: Path) -> str:
    """'; the same name ...' when the same name exists in the other Unicode form (NFC or NFD); else ''."""
    for form in ("NFC", "NFD"):
        twin = Path(unicodedata.normalize(form, str(path)))
        if twin != path and twin.exists():
            return f"; the same name in Unicode form {form} does: write {str(twin)!a} in the file, or rename the image"
    return ""
