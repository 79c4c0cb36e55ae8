"""Photos before and after -> a contact sheet: small pictures in OUTPUT/sheet, contact_sheet.html and contact_sheet_N.jpg."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw

from darkir.engine.pages import fill
from darkir.engine.visuals import jpeg
from data.files import write_bytes, write_text
from data.walk import visible_folders

SHEET, PAGE = "sheet", "contact_sheet.html"
WIDTH = 480  # pixels of each of the two pictures
QUALITY = 88
PER_IMAGE, COLUMNS, CELL = 40, 2, 480  # photos, columns and pixels of a column in a JPEG sheet
GAP, LABEL = 12, 16


def save_before_after(output_dir: Path, name: Path, before: np.ndarray, after: np.ndarray) -> None:
    """Write OUTPUT/sheet/NAME.jpg: both (H, W, 3) photos, uint8 or uint16, side by side at small size."""
    pair = Image.new("RGB", (2 * WIDTH, _height(after)))
    for place, pixels in enumerate((before, after)):
        eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        small = Image.fromarray(eight).resize((WIDTH, pair.height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        pair.paste(small, (place * WIDTH, 0))
    write_bytes(output_dir / SHEET / name.with_name(name.name + ".jpg"), jpeg(pair, QUALITY))


def _height(pixels: np.ndarray) -> int:
    return max(1, round(WIDTH * pixels.shape[0] / pixels.shape[1]))


def write_sheet(output_dir: Path, title: str) -> list[Path]:
    """Make the sheet of every photo that OUTPUT/sheet holds, whichever run made it; the files written."""
    folder = output_dir / SHEET
    found = [place / name for place, names in visible_folders(folder) for name in names if not name.startswith(".")]
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in found]
    photos = [
        {"name": name, "picture": quote(path.relative_to(output_dir).as_posix())}
        for name, path in zip(names, found, strict=True)
    ]
    write_text(output_dir / PAGE, fill("contact_sheet.html", title=title, photos=photos))
    written = [output_dir / PAGE]
    for number, start in enumerate(range(0, len(found), PER_IMAGE), start=1):
        written.append(output_dir / f"contact_sheet_{number}.jpg")
        part = slice(start, start + PER_IMAGE)
        write_bytes(written[-1], _montage(found[part], names[part]))
    return written


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
