"""Long lists of paths -> a file, and a few lines that name it: whoever reads the log need not scroll. Needs no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from common.errors import FaultList, InputError
from common.files import write_text

SHOWN = 5
FAULTS = "faults.txt"


@contextlib.contextmanager
def listed_in(folder: str | Path | None, name: str = FAULTS) -> Iterator[None]:
    """Around what may find many faults: an InputError that lists more than five leaves all of them in `folder`/`name`, and names
    the first five and that file. With None (nothing may be written), and where no file can be, it stays as it is."""
    try:
        yield
    except InputError as error:
        faults = error.faults
        if folder is None or faults is None or faults.count <= SHOWN:
            raise
        path = Path(folder) / name
        rest = faults.count - len(faults.lines)
        lines = [*faults.lines, *([f"... and {rest} more"] if rest else [])]
        try:
            write_lines(path, lines)
        except OSError:
            raise error from None
        raise InputError(faults.text(SHOWN, f", all of them in {path}")) from error


def shortened(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def listed_error(headline: str, names: Sequence[str], advice: str) -> InputError:
    """One line that names up to five; of more, a list with a line each, which `listed_in` puts into a file."""
    if len(names) <= SHOWN:
        return InputError(f"{headline} {', '.join(names)}; {advice}")
    return InputError.listing(FaultList(headline, tuple(names), len(names), advice))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A line each, whole or not at all. Raises OSError."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def log_list(log: Callable[[str], None], lines: Sequence[str], path: Path | None) -> None:
    """Log up to five lines; of more, the first five, and all of them into the file `path` (None: nothing may be written).

    The list of an earlier run under that name is replaced, or removed where five lines say it all.
    """
    for line in lines if path is None or len(lines) <= SHOWN else lines[:SHOWN]:
        log(line)
    if path is None:
        return
    if len(lines) <= SHOWN:
        path.unlink(missing_ok=True)
        return
    write_lines(path, lines)
    log(f"  ... and {len(lines) - SHOWN} more, all of them in {path}")
