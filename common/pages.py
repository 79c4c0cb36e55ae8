"""Values -> one page (HTML, Markdown) by a template of this package; small pictures -> addresses in a page. Needs no torch.

    python -m common.pages outputs_darkir_384_m_cv/report.html

A page whose pictures lie beside it -> one file to mail, which holds them: PAGE_single.html beside PAGE.html. Small pages hold their
pictures anyway. Links to results, and pictures at a photo's own size, stay links.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import jinja2
from markupsafe import Markup

from common.errors import InputError
from common.exits import DONE, flagged, guarded
from common.files import write_text

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS, STYLESHEET = ("lists.js", "viewer.js"), "pages.css"
IMAGE = re.compile(r'(<img\b[^>]*?\bsrc=")([^"]+)(")')
KINDS = {".jpg": "image/jpeg", ".png": "image/png"}
MAILED_BYTES = 12 * 2**20  # of pictures: with a third more as text, what most mail servers take


def fill(template: str, filters: dict[str, Callable] | None = None, **values: Any) -> str:
    """Fill a template; in HTML every value is escaped, and an unknown name is an error.

    An HTML page gets the one stylesheet and the one script, and a policy by which no other script runs, and nothing is fetched but
    pictures from where the page lies.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters or {}
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals |= {
        "script": Markup(script),
        "stylesheet": Markup((TEMPLATES / STYLESHEET).read_text(encoding="utf-8")),
        "policy": f"default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    }
    return environment.get_template(template).render(**values)


def jpeg_url(content: bytes) -> str:
    """The content of a JPEG file as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def picture_addresses(files: Sequence[Path], folder: Path) -> list[str]:
    """Addresses of JPEG files for a page in `folder`, which holds all of them when they are small enough to mail, else links."""
    if sum(file.stat().st_size for file in files) <= MAILED_BYTES:
        return [jpeg_url(file.read_bytes()) for file in files]
    return [file_address(file, folder) for file in files]


def file_address(file: Path, folder: Path) -> str:
    """The address of a file below `folder` in a page there, whatever bytes its name holds."""
    return quote(os.fsencode(file.relative_to(folder)))


def shown_names(paths: Sequence[str]) -> list[str]:
    """Names to show for `paths` as they stand in a JSONL: absolute ones from the folder on that they share, others as they are."""
    folders = {Path(path).parent for path in paths if Path(path).is_absolute()}
    base = os.path.commonpath(folders) if folders else ""
    return [os.path.relpath(path, base) if Path(path).is_absolute() else path for path in paths]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts names as people count: 2 before 13."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="a report.html, contact_sheet.html or audit.html")
    page = parser.parse_args(argv).page
    with flagged("PAGE", page):
        if not page.is_file():
            raise InputError(f"{page}: no such page")
        text = page.read_text(encoding="utf-8")
        single = page.with_name(f"{page.stem}_single.html")
        write_text(single, IMAGE.sub(lambda image: image[1] + _held(image[2], page.parent) + image[3], text))
    sys.stdout.write(f"Wrote {single}, {single.stat().st_size / 2**20:.1f} MiB\n")
    return DONE


def _held(address: str, folder: Path) -> str:
    """The content of the picture at `address` as an address that holds it; one that holds it already stays as it is.

    Raises InputError for a picture that is missing, or that does not lie below the page's folder.
    """
    if address.startswith("data:"):
        return address
    path = folder / unquote_to_bytes(html.unescape(address)).decode("utf-8", "surrogateescape")
    kind = KINDS.get(path.suffix.lower())
    if kind is None or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise InputError(f"{path}: no picture of this page is there; make the page again")
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode("ascii")


if __name__ == "__main__":
    sys.exit(main())
