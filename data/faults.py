"""Collects what is wrong with input rows, so that one error names all of them. Needs no torch."""

from __future__ import annotations

from data.errors import DataError

SHOWN = 20
LONGEST = 500  # characters of one fault: a reason may quote a line, and a line may hold megabytes


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
        """Raise DataError with `headline`, one line for each fault and `hint`, unless there is no fault."""
        if not self.count:
            return
        lines = [f"{headline} ({self.count} {'fault' if self.count == 1 else 'faults'})"]
        lines += [f"  {fault}" for fault in self._shown]
        if self.count > len(self._shown):
            lines.append(f"  ... and {self.count - len(self._shown)} more")
        if hint:
            lines.append(hint)
        raise DataError("\n".join(lines))
