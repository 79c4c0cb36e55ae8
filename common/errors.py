"""How work ends early, one class an exit code; and the collector of faults in input rows.

InputError 2: the user's input is wrong (so is darkir's own ModelError). RunFailed 1: our side. Stopped 75: a signal.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

SHOWN = 20
MOST = 10_000  # faults that are kept as text
LONGEST = 500  # characters of one fault: a reason may quote a line, and a line may hold megabytes


@dataclass(frozen=True)
class FaultList:
    """What is wrong, a line for each of `count` faults (at most MOST of them), and what to do."""

    headline: str
    lines: tuple[str, ...]
    count: int
    hint: str = ""

    def text(self, shown: int = SHOWN, place: str = "") -> str:
        """The message, with the first `shown` faults; `place`: where the others stand."""
        lines = [self.headline, *(f"  {line}" for line in self.lines[:shown])]
        if self.count > shown:
            lines.append(f"  ... and {self.count - shown} more{place}")
        return "\n".join([*lines, *([self.hint] if self.hint else [])])


class InputError(ValueError):
    """Rows, photos, weights or options cannot be used; the message names flag, file and line (one line for each fault) and
    what to do. Exit code 2.

    faults: the message as a list, where it is one (`common/lists.py` writes long ones into a file).
    """

    faults: FaultList | None = None

    @staticmethod
    def listing(faults: FaultList) -> InputError:
        """The error whose message is `faults`."""
        error = InputError(faults.text())
        error.faults = faults
        return error

    @staticmethod
    def prefixed(prefix: str, error: ValueError) -> InputError:
        """`error` as an InputError, with `prefix` before its message."""
        faults = getattr(error, "faults", None)
        if faults is None:
            return InputError(f"{prefix}{error}")
        return InputError.listing(replace(faults, headline=f"{prefix}{faults.headline}"))


class RunFailed(RuntimeError):
    """The run broke (non-finite loss, out of memory, disk full); the last checkpoint is sound. Exit code 1."""


class OutOfMemory(RunFailed):
    """A batch did not fit into the memory of its device."""


class Stopped(Exception):
    """A signal asked for a stop and nothing is left half-written: the same command continues. Exit code 75."""


class Faults:
    """Faults in the order in which they are found: the first 10,000 are kept as text, the rest only counted."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[str] = []

    def add(self, where: str, reason: str) -> None:
        """Note one fault; `where` is `file:line`, or a file name."""
        self.count += 1
        if len(self._lines) < MOST:
            short = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]} ... ({len(reason)} characters)"
            self._lines.append(f"{where}: {short}")

    def raise_if_any(self, headline: str, hint: str = "") -> None:
        """Raise InputError with `headline`, one line for each fault and `hint`, unless there is no fault."""
        if not self.count:
            return
        headline = f"{headline} ({self.count} {'fault' if self.count == 1 else 'faults'})"
        raise InputError.listing(FaultList(headline, tuple(self._lines), self.count, hint))


def lacks_memory(error: BaseException) -> bool:
    """Whether memory was refused: by Python, on a device of torch (by its error's name), or on the CPU (by its words)."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return "MemoryError" in names or "OutOfMemoryError" in names or "can't allocate memory" in str(error)


def loader_fault(error: BaseException) -> str | None:
    """What a fault of torch's loader processes means and what to do, by its words; None for any other error.

    torch raises it where the main process happens to be when it hears of a worker's death.
    """
    text = str(error)
    if "shared memory" in text or "Bus error" in text:
        what = "the loader processes have no room in /dev/shm: use fewer --num_workers, or a larger one (docker --shm-size)"
    elif f"exit code {errno.EMFILE}." in text or "Too many open files" in text or "received 0 items of ancdata" in text:
        what = "too many open files: raise the limit (ulimit -n), or use fewer --num_workers"
    elif "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        what = (
            "a loader process died, most often for want of memory (or of open files, ulimit -n): use fewer --num_workers, "
            "or --num_workers 0"
        )
    else:
        return None
    return f"{what} ({text.strip().splitlines()[-1][:200].strip()})"
