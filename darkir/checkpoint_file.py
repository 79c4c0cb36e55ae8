"""A checkpoint file (.pt, .pth, .safetensors) -> the dictionary in it; checksums verified, no code in it run."""

from __future__ import annotations

import errno
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from darkir.errors import ModelError
from darkir.safetensors_file import read_safetensors

MSDOS_FOLDER = 0x10


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The whole dictionary in a .pt/.pth or .safetensors file, tensors on the CPU, checksums verified, no code run.

    Raises ModelError, which names the file and what to do, for anything that is not a sound checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    if not path.is_file():
        raise ModelError(f"{path}: not a file; name the checkpoint inside it, such as {path / 'checkpoint_best.pt'}")
    with path.open("rb") as handle:
        head = handle.read(64)
    if head[8:9] == b"{":
        return read_safetensors(path)
    if head.startswith(b"PK"):
        _verify_checksums(path)
    elif not head.startswith(b"\x80"):
        raise ModelError(f"{path}: not a checkpoint: {_describe(head)}")
    return _read_torch(path)


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: {_pickle_fault(str(error))}") from error
    except (
        RuntimeError,
        EOFError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        AssertionError,
        struct.error,
    ) as error:
        # What torch's reader raises on torn or foreign bytes is not one type.
        raise ModelError(
            f"{path}: not a readable checkpoint ({_first_line(error)}); copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors; save a state_dict")
    return content


def _verify_checksums(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch reads an entry that is marked as a folder as if it were empty, whatever its checksum.
            folders = (entry.filename for entry in archive.infolist() if entry.external_attr & MSDOS_FOLDER)
            damaged = archive.testzip() or next(folders, None)
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        EOFError,
        RuntimeError,
        ValueError,
        struct.error,
        zlib.error,
    ) as error:
        raise ModelError(f"{path}: torn or damaged ({_first_line(error)}); copy or download it again") from error
    except OSError as error:
        # A torn directory can point before the file's start; any other cause lies with the disk, not with the file.
        if error.errno != errno.EINVAL:
            raise
        raise ModelError(f"{path}: torn or damaged; copy or download it again") from error
    if damaged is not None:
        raise ModelError(f"{path}: damaged at {damaged} (wrong checksum); copy or download it again")


def _pickle_fault(message: str) -> str:
    forbidden = re.search(r"GLOBAL (\S+)", message)
    if forbidden is None:
        return f"not a readable checkpoint ({_first_line(message)}); copy or download it again"
    return (
        f"refused: it holds {forbidden[1]}, an object that could run code when loaded; "
        f"ask its maker for a file with tensors and plain values only (a state_dict)"
    )


def _describe(head: bytes) -> str:
    start = head.lstrip().lower()
    if not start:
        return "the file is empty; copy or download it again"
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page (HTML); the download link led to a page, download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run git lfs pull"
    return f"it starts with {head[:8]!r}; expected a .pt, .pth or .safetensors file"


def _first_line(error: object) -> str:
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
