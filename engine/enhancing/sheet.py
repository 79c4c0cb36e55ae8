"""Photos before and after -> a contact sheet: small pictures in OUTPUT/sheet, contact_sheet.html and contact_sheet_N.jpg."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from common.files import TEMPORARY, visible_folders, write_bytes, write_text
from common.pages import fill
from engine.testing.visuals import jpeg

SHEET, PAGE = "sheet", "contact_sheet.html"
SHEET_IMAGE = r"contact_sheet_\d+"  # without its ending
WIDTH, TALLEST = 480, 1920  # pixels of each of the two pictures
QUALITY = 88
PER_IMAGE, COLUMNS, CELL = 40, 2, 480  # photos, columns and pixels of a column in a JPEG sheet
GAP, LABEL = 12, 16


def before_and_after(before: np.ndarray, after: np.ndarray, made_with: str) -> bytes:
    """Both (H, W, 3) photos, uint8 or uint16, side by side at small size, as JPEG with `made_with` as its comment."""
    pair = Image.new("RGB", (2 * WIDTH, _height(after)))
    for place, pixels in enumerate((before, after)):
        eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        small = Image.fromarray(eight).resize((WIDTH, pair.height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        pair.paste(small, (place * WIDTH, 0))
    buffer = io.BytesIO()
    pair.save(buffer, "JPEG", quality=QUALITY, subsampling=0, comment=made_with)
    return buffer.getvalue()


def picture_path(output_dir: Path, name: Path) -> Path:
    """Where the before-and-after picture of the photo `name` lies."""
    return output_dir / SHEET / name.with_name(name.name + ".jpg")


def made_with(output_dir: Path, name: Path) -> str | None:
    """What the picture of the photo `name` says that it was made with; None without a picture of this script."""
    try:
        with Image.open(picture_path(output_dir, name), formats=("JPEG",)) as picture:
            comment = picture.info.get("comment")
    except (FileNotFoundError, NotADirectoryError, UnidentifiedImageError):
        return None
    return None if comment is None else comment.decode("utf-8", "replace")


def _height(pixels: np.ndarray) -> int:
    """The photo's own; strips taller than TALLEST are squeezed, as no JPEG is that long."""
    return min(TALLEST, max(1, round(WIDTH * pixels.shape[0] / pixels.shape[1])))


def write_sheet(output_dir: Path, title: str) -> list[Path]:
    """Make the sheet of every photo that OUTPUT/sheet holds, whichever run made it; the files written."""
    folder = output_dir / SHEET
    found = [place / name for place, names in visible_folders(folder) for name in names if _is_picture(name)]
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in found]
    photos = [
        {"name": name, "picture": quote(os.fsencode(path.relative_to(output_dir)))}
        for name, path in zip(names, found, strict=True)
    ]
    page = fill("contact_sheet.html", title=title, photos=photos)
    # A file's name may hold bytes that are no UTF-8.
    write_text(output_dir / PAGE, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    written = [output_dir / PAGE]
    for number, start in enumerate(range(0, len(found), PER_IMAGE), start=1):
        written.append(output_dir / f"contact_sheet_{number}.jpg")
        part = slice(start, start + PER_IMAGE)
        write_bytes(written[-1], _montage(found[part], names[part]))
    return written


def _is_picture(name: str) -> bool:
    """Whether a file is a whole picture: not one that another process is writing, or was killed over."""
    return name.endswith(".jpg") and not name.startswith(".") and not re.search(rf"{re.escape(TEMPORARY)}\d+\.", name)


def _montage(paths: list[Path], names: list[str]) -> bytes:
    """Before-and-after pictures in columns, each with its name, as JPEG."""
    cells = []
    for path in paths:
        with Image.open(io.BytesIO(path.read_bytes()), formats=("JPEG",)) as picture:
            cells.append(picture.convert("RGB").resize((CELL, max(1, round(CELL * picture.height / picture.width)))))
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in row) + LABEL + GAP for row in rows]
    sheet = Image.new("RGB", (COLUMNS * (CELL + GAP) + GAP, sum(heights) + GAP), "white")
    draw, labels, top = ImageDraw.Draw(sheet), iter(names), GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            left = GAP + column * (CELL + GAP)
            sheet.paste(cell, (left, top))
            draw.text((left, top + cell.height + 2), next(labels).encode("ascii", "replace").decode(), fill="black")
        top += height
    return jpeg(sheet, QUALITY)
