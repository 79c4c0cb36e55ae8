"""A page whose pictures lie beside it -> one file to mail, which holds them: PAGE_single.html beside PAGE.html.

    python -m common.single_file outputs_darkir_384_m_cv/report.html

Small pages hold their pictures anyway. Links to results, and pictures at a photo's own size, stay links. Needs no torch.
"""

from __future__ import annotations

import argparse
import base64
import html
import re
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

from common.errors import InputError
from common.exits import DONE, flagged, guarded
from common.files import write_text

IMAGE = re.compile(r'(<img\b[^>]*?\bsrc=")([^"]+)(")')
KINDS = {".jpg": "image/jpeg", ".png": "image/png"}


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
