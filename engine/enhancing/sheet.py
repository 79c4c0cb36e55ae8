"""Photos before and after -> a contact sheet: small pictures in OUTPUT/sheet, contact_sheet.html and contact_sheet_N.jpg."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from common.files import visible_folders, write_bytes, write_text
from common.pages import file_address, fill, natural, picture_addresses
from data.images import jpeg
from data.photo_files import KINDS

SHEET, PAGE = "sheet", "contact_sheet.html"
SIDES = ("source", "output")
SHEET_IMAGE = r"contact_sheet_\d+"  # without its ending
WIDTH, TALLEST = 640, 1920  # pixels of each of the two pictures
QUALITY = 88
PER_IMAGE, COLUMNS, CELL = 40, 2, 480  # photos, columns and pixels of a column in a JPEG sheet
GAP, LABEL = 12, 16


def before_and_after(before: np.ndarray, after: np.ndarray) -> bytes:
    """Both (H, W, 3) photos, uint8 or uint16 sRGB, side by side at small size, as JPEG."""
    height = round(WIDTH * after.shape[0] / after.shape[1])
    height = min(TALLEST, max(1, height))  # longer strips are squeezed, as no JPEG is that long
    pair = Image.new("RGB", (2 * WIDTH, height))
    for place, pixels in enumerate((before, after)):
        eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        small = Image.fromarray(eight).resize((WIDTH, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        pair.paste(small, (place * WIDTH, 0))
    return jpeg(pair, QUALITY)


def picture_path(output_dir: Path, name: Path) -> Path:
    """Where the before-and-after picture of the photo `name` lies."""
    return output_dir / SHEET / name.with_name(name.name + ".jpg")


def write_sheet(output_dir: Path, title: str) -> Path:
    """Make the sheet of every photo that OUTPUT/sheet holds, whichever run made it; the path of its page. Names as people count."""
    folder = output_dir / SHEET
    found = [
        place / name
        for place, names in (visible_folders(folder) if folder.is_dir() else ())
        for name in names
        if name.endswith(".jpg") and not name.startswith(".")
    ]
    found.sort(key=lambda path: natural(path.relative_to(folder).as_posix()))
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in found]
    photos = [
        {"name": name, "sides": SIDES, "picture": address, "link": _result(output_dir, name), **_size(path)}
        for name, path, address in zip(names, found, picture_addresses(found, output_dir), strict=True)
    ]
    page = fill("contact_sheet.html", title=title, photos=photos)
    # A file's name may hold bytes that are no UTF-8.
    write_text(output_dir / PAGE, page)
    for number, start in enumerate(range(0, len(found), PER_IMAGE), start=1):
        part = slice(start, start + PER_IMAGE)
        write_bytes(output_dir / f"contact_sheet_{number}.jpg", _montage(found[part], names[part]))
    return output_dir / PAGE


def _result(output_dir: Path, name: str) -> str | None:
    """The address of the result of the photo `name`, of whichever kind; None when somebody has moved it away."""
    files = (output_dir / (name + ending) for ending in KINDS.values())
    return next((file_address(file, output_dir) for file in files if file.exists()), None)


def _size(path: Path) -> dict[str, int]:
    with Image.open(path, formats=("JPEG",)) as picture:
        return {"width": picture.width, "height": picture.height}


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
