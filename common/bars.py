"""Progress bars, on a terminal only, and lines that do not run into them. Needs no torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(total: int, title: str | None = None, unit: str = "it", initial: int = 0, leave: bool = True) -> tqdm:
    """A bar over `total` things, `initial` of them done, that vanishes in the end unless `leave`; none where nothing is to do."""
    from tqdm import tqdm  # only here: scripts import this file before they parse their arguments

    class Bar(tqdm):
        monitor_interval = 0  # no watching thread: workers are forked beside it

    hidden = not sys.stderr.isatty() or initial >= total
    return Bar(total=total, desc=title, unit=unit, initial=initial, leave=leave, disable=hidden)


@contextlib.contextmanager
def above_bars() -> Iterator[None]:
    """Take the bars that are shown away while something is written, so that it begins on a line of its own."""
    module = sys.modules.get("tqdm")
    with contextlib.nullcontext() if module is None else module.tqdm.external_write_mode():
        yield
