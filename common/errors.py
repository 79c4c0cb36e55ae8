"""How work ends early, one class an exit code; and the collector of faults in input rows.

InputError 2: the user's input is wrong (so is darkir's own ModelError). RunFailed 1: our side. Stopped 75: a signal.
"""

from __future__ import annotations

import errno

SHOWN = 20
LONGEST = 500  # characters of one fault: a reason may quote a line, and a line may hold megabytes


class InputError(ValueError):
    """Rows, photos, weights or options cannot be used; the message names flag, file and line (one line for each fault) and
    what to do. Exit code 2."""


class RunFailed(RuntimeError):
    """The run broke (non-finite loss, out of memory, disk full); the last checkpoint is sound. Exit code 1."""


class OutOfMemory(RunFailed):
    """A batch did not fit into the memory of its device."""


class Stopped(Exception):
    """A signal asked for a stop and nothing is left half-written: the same command continues. Exit code 75."""


class Faults:
    """Faults in the order in which they are found: the first 20 are kept as text, the rest only counted."""

    def __init__(self) -> None:
        self.count = 0
        self._shown: list[str] = []

    def add(self, where: str, reason: str) -> None:
        """Note one fault; `where` is `file:line`, or a file name."""
        self.count += 1
        if len(self._shown) < SHOWN:
            short = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]} ... ({len(reason)} characters)"
            self._shown.append(f"{where}: {short}")

    def raise_if_any(self, headline: str, hint: str = "") -> None:
        """Raise InputError with `headline`, one line for each fault and `hint`, unless there is no fault."""
        if not self.count:
            return
        lines = [f"{headline} ({self.count} {'fault' if self.count == 1 else 'faults'})"]
        lines += [f"  {fault}" for fault in self._shown]
        if self.count > len(self._shown):
            lines.append(f"  ... and {self.count - len(self._shown)} more")
        if hint:
            lines.append(hint)
        raise InputError("\n".join(lines))


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
