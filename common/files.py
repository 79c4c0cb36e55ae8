"""Content -> files that appear whole or not at all; a folder -> the files below it. Needs no torch.

A file is written under a temporary name in the same folder, flushed, fsynced, renamed over the target, and the folder is
fsynced. No other module writes files, but for the log, which grows line by line, and the locks.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError

# Temporary files are hidden, and say whose they are: nobody else's file has such a name.
TEMPORARY = ".darkir-tmp."
OWN_TEMPORARY = re.compile(re.escape(TEMPORARY) + r"(?P<host>[^.]*)\.(?P<pid>\d+)\.[0-9a-f]{8}\.")
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # with what stands for a written ', so that each cell can be read back
# Of Synology, QNAP, Windows, macOS archives and file systems: thumbnails, what was deleted, snapshots of everything.
SYSTEM_FOLDERS = frozenset(
    {"@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "recycler"}
    | {"system volume information", "__macosx", "lost+found"}
)
LONGEST_NAME = 255  # bytes of a file name
CHUNK = 2**20  # bytes read at a time: a file of weights may be large
# What file systems answer that have no fsync of a folder (NFS, SMB, WSL); the rename itself is still atomic there.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EIO, errno.ENOSYS, errno.EACCES)


@contextlib.contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is fsynced and renamed to `path`, on any error removed.

    Raises OSError (disk full, read-only, quota) with the old file untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unique also among containers that count their processes alike; the suffix stays last: image writers choose their format by it.
    mark = f"{TEMPORARY}{_host()}.{os.getpid()}.{secrets.token_hex(4)}."
    name = path.name if len(os.fsencode(mark + path.name)) <= LONGEST_NAME else path.suffix.removeprefix(".")
    temporary = path.with_name(mark + name)
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk is noticed by a handle, which knows no name
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:32]


def write_bytes(path: str | Path, content: bytes | memoryview, mtime_ns: int | None = None) -> None:
    """Write `content` to `path`, whole or not at all; with `mtime_ns`, the file carries that time, not the present."""
    with atomic_output(path) as temporary:
        with open(temporary, "wb") as handle:
            handle.write(content)
        if mtime_ns is not None:
            os.utime(temporary, ns=(mtime_ns, mtime_ns))


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text to `path`, whole or not at all; half of a surrogate pair (a name that is not UTF-8) as \\udc80."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON (NaN and Infinity raise ValueError), indented, ending in a newline."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes. Half of a surrogate pair is escaped, as JSON does, and reads back as it was."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one strict JSON object a line."""
    write_text(path, jsonl_text(rows))


def jsonl_text(rows: Iterable[dict]) -> str:
    """What `write_jsonl` writes."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def write_csv(path: str | Path, columns: list[str], rows: Iterable[dict]) -> None:
    """Write rows as CSV with a header line; floats in full precision, so that numbers survive the round trip.

    Text that a spreadsheet would take for a formula gets a ' before it; `text_of_cell` takes that away.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def text_of_cell(cell: str) -> str:
    """The text that `write_csv` wrote as `cell`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def file_digest(path: str | Path) -> str:
    """sha256 of a file's content, as hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def remove_stale_temporaries(folder: str | Path) -> None:
    """Delete temporary files of this toolkit that a killed process of this machine left in `folder`, and nothing else.

    Those of living processes stay, and those of other machines, where nobody here can know; what another user left and keeps from
    deletion stays as well.
    """
    for path in sorted(Path(folder).glob(f"{TEMPORARY}*")):
        mark = OWN_TEMPORARY.match(path.name)
        if mark is None or mark["host"] != _host() or is_alive(int(mark["pid"])) or not path.is_file():
            continue
        with contextlib.suppress(PermissionError, FileNotFoundError):
            path.unlink()


def is_alive(pid: int) -> bool:
    """Whether this machine has another process `pid`: one that may still write. (What this one left, it has given up.)"""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def utc_now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def is_no_folder(path: str | Path) -> bool:
    """Whether something else stands where a folder is wanted."""
    return Path(path).exists() and not Path(path).is_dir()


def visible_folders(
    base: Path, skip: Path | None = None, left_out: list[tuple[Path, str]] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """Yield `base` and each folder below it with the sorted names of its files.

    Linked folders are entered, every real folder once; hidden folders, those of systems, and what lies in `skip` are not. Each
    folder that was not entered, or cannot be listed, goes into `left_out` with the reason. Raises InputError naming a folder that
    cannot be listed when it is `base`, or nobody would be told.
    """

    def refuse(error: OSError) -> None:
        if left_out is None or os.path.realpath(error.filename) == os.path.realpath(base):
            raise InputError(f"{error.filename}: {error.strerror}")
        left_out.append((Path(error.filename), f"cannot be listed: {error.strerror}"))

    unentered = [] if left_out is None else left_out
    skipped = None if skip is None else os.path.realpath(skip)
    seen: set[str] = set()
    for folder, folders, files in os.walk(base, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or real == skipped:
            folders.clear()
            if real != skipped:
                unentered.append((Path(folder), "a link to a folder that was looked through already"))
            continue
        seen.add(real)
        unentered += [(Path(folder, name), reason) for name in folders if (reason := _why_not_entered(name))]
        folders[:] = sorted(name for name in folders if not _why_not_entered(name))
        yield Path(folder), sorted(files)


def _why_not_entered(name: str) -> str | None:
    if name.startswith("."):
        return "a hidden folder"
    return "a folder of the system or NAS, not of the user" if name.casefold() in SYSTEM_FOLDERS else None
