"""Name of a file or folder of a FiveK copy -> which photo it is, and on which side of a pair it stands.

The 5000 photos are called `aNNNN-<camera name>`, each id once; what follows the id is not unique. Copies found on disk
add endings (`_input`, `.tif_GT`, `_C`), write `%20` for spaces, or keep the id alone. Touches no file.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple
from urllib.parse import unquote

INPUT, TARGET = "input", "target"
SIDE_ENDINGS = {"_input": INPUT, "_src": INPUT, "_gt": TARGET, "_output": TARGET, "_tar": TARGET, "_target": TARGET}
FORMAT_ENDING = re.compile(r"\.(tiff?|dng|jpe?g|png)$")
EXPERT_ENDING = re.compile(r"_([a-e])$")
FIVEK = re.compile(r"(a\d{4})(?:[-_ ](.*))?", re.DOTALL)

INPUT_FOLDERS = frozenset({"raw", "raws", "rawphotos", "dng", "dngs", "source", "sources", "src"})
TARGET_FOLDERS = frozenset({"output", "outputs", "target", "targets", "tar", "gt", "groundtruth", "expert", "experts"})
EXPERT_FOLDER = re.compile(r"(?:expert|tiff16|tiff8|fivek)([a-e])$")


class Side(NamedTuple):
    """INPUT or TARGET; for a target, the expert "A" to "E" when the name says which."""

    side: str
    expert: str | None = None


class PhotoName(NamedTuple):
    """key: what pairs match by, `aNNNN` or else the whole name. name: the camera's part of a FiveK name, if it is there.

    side: what the ending of the file name says about it, or None.
    """

    key: str
    name: str | None
    side: Side | None


def parse_file_name(stem: str) -> PhotoName:
    """Read a file name without its last suffix."""
    plain = unquote(stem)
    # A slash can stand in no file name: `%2F` there is not an escape.
    text = unicodedata.normalize("NFC", stem if "/" in plain or "\0" in plain else plain).casefold()
    text, side = _without_endings(text)
    match = FIVEK.fullmatch(text)
    if match is None:
        return PhotoName(text, None, side)
    return PhotoName(match[1], match[2] or None, side)


def side_of_folder(name: str) -> Side | None:
    """What the name of one folder says about the files below it, or None."""
    text = re.sub(r"[^a-z0-9]", "", name.casefold())
    if text in INPUT_FOLDERS or "input" in text or "original" in text:
        return Side(INPUT)
    expert = EXPERT_FOLDER.search(text) or re.fullmatch("([a-e])", text)
    if expert is not None:
        return Side(TARGET, expert[1].upper())
    return Side(TARGET) if text in TARGET_FOLDERS or "label" in text else None


def _without_endings(text: str) -> tuple[str, Side | None]:
    """Take known endings off until none is left; the side that the last of them names."""
    side = None
    while True:
        ending = next((ending for ending in SIDE_ENDINGS if text.endswith(ending) and text != ending), None)
        expert = EXPERT_ENDING.search(text) if FIVEK.fullmatch(text) else None
        if ending:
            side, text = side or Side(SIDE_ENDINGS[ending]), text.removesuffix(ending)
        elif expert:
            # Only behind a FiveK id: `kitchen_a` and `kitchen_b` are two photos.
            side, text = side or Side(TARGET, expert[1].upper()), text[: expert.start()]
        elif FORMAT_ENDING.search(text) and not FORMAT_ENDING.fullmatch(text):
            text = FORMAT_ENDING.sub("", text)
        else:
            return text, side
