"""A checkpoint file (.pt, .pth, .safetensors) -> the dictionary in it; checksums verified, no code in it run.

`to_bytes` is the way back, as .safetensors. That format's metadata are strings: ours carry `darkir_schema`, 1 for one network and
2 for an ensemble's several, each with its name before its tensors'; files of others are read for their tensors alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from darkir.errors import ModelError

MSDOS_FOLDER = 0x10
SCHEMA, SCHEMA_VERSION, ENSEMBLE_VERSION = "darkir_schema", "1", "2"
MEMBERS = "members"
PARAMS_DIGEST, SEEN_DIGEST, META_DIGEST = "params_sha256", "seen_sha256", "meta_sha256"
# Entries that a reader gives back as Weights.meta, as JSON; the others are for people and other programs.
JSON_ENTRIES = ("network", "data", "config", "metrics", "epoch", "created_with")
METADATA, LENGTH, LENGTH_BYTES, ALIGNMENT = "__metadata__", "<Q", 8, 8  # of the format
# What readers raise on torn or foreign bytes is not one type.
TORCH_FAULTS = (
    RuntimeError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    AssertionError,
    struct.error,
)
# Bounds that no real checkpoint reaches: a small file may claim far more, which would then be taken from memory.
MOST_BYTES = 16 * 2**30  # of all tensors; a state of DarkIR-l has 0.3 GiB
MOST_VALUES = 5_000_000  # the record of 5,000 photos and 1,000 epochs has 60,000
DEEPEST = 50
ZIP_FAULTS = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, RuntimeError, ValueError, struct.error, zlib.error)


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
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        _verify_checksums(path)
    elif not head.startswith(b"\x80"):
        raise ModelError(f"{path}: not a checkpoint: {_describe(head)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if forbidden := re.search(r"GLOBAL (\S+)", str(error)):
            raise ModelError(
                f"{path}: refused: it holds {forbidden[1]}, an object that could run code when loaded; "
                f"ask its maker for a file with tensors and plain values only (a state_dict)"
            ) from error
        raise _unreadable(path, error) from error
    except TORCH_FAULTS as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors; save a state_dict")
    try:
        _measure(content, {}, 0)
    except ValueError as error:
        raise ModelError(f"{path}: refused: {error}; it is no checkpoint of a network") from error
    return content


def _measure(value: Any, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """How many values and bytes of tensors `value` has when everything that it holds twice is counted twice.

    known: what was measured already, by id. Raises ValueError beyond the bounds; a list that holds itself is beyond DEEPEST.
    """
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            raise ValueError(f"a tensor without content (on {value.device})")
        return 1, value.numel() * value.element_size()
    if not isinstance(value, (dict, list, tuple, set)):
        return 1, 0
    if id(value) not in known:
        if depth == DEEPEST:
            raise ValueError(f"lists or dictionaries inside each other, more than {DEEPEST} deep")
        # The parts stay alive as long as the whole does, so that no id is used again.
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
        measured = [_measure(part, known, depth + 1) for part in parts]
        count, size = 1 + sum(count for count, _ in measured), sum(size for _, size in measured)
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        if size > MOST_BYTES:
            raise ValueError(f"tensors of more than {MOST_BYTES // 2**30} GiB")
        known[id(value)] = count, size
    return known[id(value)]


def _verify_checksums(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MOST_BYTES:
                raise ModelError(
                    f"{path}: refused: it unpacks to {size / 2**30:,.0f} GiB, which is no checkpoint of a network"
                )
            # torch reads an entry that is marked as a folder as if it were empty, whatever its checksum.
            folders = (entry.filename for entry in archive.infolist() if entry.external_attr & MSDOS_FOLDER)
            damaged = archive.testzip() or next(folders, None)
    except ZIP_FAULTS as error:
        raise ModelError(f"{path}: torn or damaged ({_first_line(error)}); copy or download it again") from error
    except OSError as error:
        # A torn directory can point before the file's start; any other cause lies with the disk, not with the file.
        if error.errno != errno.EINVAL:
            raise
        raise ModelError(f"{path}: torn or damaged; copy or download it again") from error
    if damaged is not None:
        raise ModelError(f"{path}: damaged at {damaged} (wrong checksum); copy or download it again")


def _describe(head: bytes) -> str:
    start = head.lstrip().lower()
    if not start:
        return "the file is empty; copy or download it again"
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page (HTML); the download link led to a page, download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run git lfs pull"
    return f"it starts with {head[:8]!r}; expected a .pt, .pth or .safetensors file"


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path}: not a readable checkpoint ({_first_line(error)}); copy or download it again")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__


def to_bytes(
    params: dict[str, torch.Tensor], meta: dict[str, Any], notes: dict[str, str], version: str = SCHEMA_VERSION
) -> bytes:
    """The .safetensors file of `params` (on the CPU), with `meta` (JSON_ENTRIES, plain types) and `notes` (text) as metadata.

    version: ENSEMBLE_VERSION for the tensors of several networks (darkir/ensemble.py). The same arguments give the same bytes.
    """
    table, content = _split(safetensors.torch.save({name: tensor.contiguous() for name, tensor in params.items()}))
    texts = {name: json.dumps(meta[name], separators=(",", ":"), allow_nan=False) for name in JSON_ENTRIES}
    digests = {
        PARAMS_DIGEST: _params_digest(table, content),
        SEEN_DIGEST: seen_digest(meta["data"]),
        META_DIGEST: _meta_digest(texts),
    }
    # safetensors itself writes metadata in an order of chance.
    whole = {METADATA: {SCHEMA: version, **notes, **digests, **texts}, **table}
    header = json.dumps(whole, separators=(",", ":")).encode("utf-8")
    header += b" " * (-len(header) % ALIGNMENT)
    return struct.pack(LENGTH, len(header)) + header + content


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors by name; for a file of ours {"params": tensors, ...} with the JSON_ENTRIES, as a checkpoint has them.

    An ensemble's has {"members": {name: tensors}} for `params`. Raises ModelError when the file is damaged, or when a file of ours
    was changed since it was written.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ModelError(
            f"{path}: damaged safetensors file ({_first_line(error)}); copy or download it again"
        ) from error
    if SCHEMA not in metadata:
        return tensors
    version = metadata[SCHEMA]
    if version not in (SCHEMA_VERSION, ENSEMBLE_VERSION):
        raise ModelError(f"{path}: {SCHEMA} {version:.20}; this toolkit reads {SCHEMA_VERSION} and {ENSEMBLE_VERSION}")
    try:
        meta = {name: json.loads(metadata[name], parse_constant=_no_constant) for name in JSON_ENTRIES}
        same = {
            "the list of photos seen": metadata[SEEN_DIGEST] == seen_digest(meta["data"]),
            f"an entry of {', '.join(JSON_ENTRIES)}": metadata[META_DIGEST] == _meta_digest(metadata),
            "the tensors": metadata[PARAMS_DIGEST] == _params_digest(*_split(path.read_bytes())),
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{path}: broken metadata ({type(error).__name__}: {error!s:.200}); export it again"
        ) from error
    changed = next((what for what, is_same in same.items() if not is_same), None)
    if changed is not None:
        raise ModelError(f"{path}: {changed} changed since the export; copy or export it again")
    if version == SCHEMA_VERSION:
        return {"params": tensors, **meta}
    members: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        member, _, key = name.partition(".")
        members.setdefault(member, {})[key] = tensor
    # In the order of folds, in which all others sum: fold_2 before fold_10.
    return {MEMBERS: dict(sorted(members.items(), key=lambda member: (len(member[0]), member[0]))), **meta}


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The bytes of a sound file -> its table of tensors, and their content."""
    (length,) = struct.unpack(LENGTH, raw[:LENGTH_BYTES])
    table = json.loads(raw[LENGTH_BYTES : LENGTH_BYTES + length])
    table.pop(METADATA, None)
    return table, raw[LENGTH_BYTES + length :]


def _params_digest(table: dict[str, Any], content: bytes) -> str:
    """sha256 over names, types, shapes and places of all tensors, and their bytes."""
    whole = hashlib.sha256(json.dumps(table, sort_keys=True).encode("utf-8"))
    whole.update(content)
    return whole.hexdigest()


def seen_digest(data: dict[str, Any]) -> str:
    """sha256 over the sorted digests of all photos that shaped some weights, as a checkpoint's `data` lists them."""
    return hashlib.sha256("\n".join(sorted({*data["own"], *data["earlier"]})).encode("utf-8")).hexdigest()


def _meta_digest(texts: dict[str, str]) -> str:
    """sha256 over the JSON_ENTRIES as they are written: the network's dilations, for one, leave no trace in the tensors."""
    return hashlib.sha256("\n".join(texts[name] for name in JSON_ENTRIES).encode("utf-8")).hexdigest()
