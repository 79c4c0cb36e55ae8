"""Times for whoever reads the log at night: the hour, how long an epoch took, what is left; within long epochs, how far it is."""

from __future__ import annotations

import math
import statistics
import time

from engine.training.history import Progress

LINE_SECONDS = 180.0
RECENT = 5  # epochs whose times say how long the others will take


def seconds_now() -> float:
    """Of a clock that only counts."""
    return time.monotonic()


def hour() -> str:
    """The time of day here."""
    return time.strftime("%H:%M:%S")


def date_and_hour() -> str:
    """Both, on the clock that the hours of the log are of."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """In words, to about two digits: 45 s, 12 min, 3 h 20 min, 2 days 5 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min"
    return f"{hours // 24} days {hours % 24} h"


class Clock:
    """Of one process's part of the run `name`, of `epochs` epochs with `updates` updates of `samples` pairs each."""

    def __init__(self, name: str, epochs: int, updates: int, samples: int, progress: Progress):
        self.name, self.epochs, self.updates, self.samples = name, epochs, updates, samples
        self._took: list[float] = []  # seconds of whole epochs, validation and files included
        self.begin_epoch(progress)

    def begin_epoch(self, progress: Progress) -> None:
        """An epoch begins, or goes on where a stopped run has left it."""
        self._began = self._told = seconds_now()
        self._first = progress.totals["updates"]

    def end_epoch(self, progress: Progress) -> str:
        """The line below an epoch's: the hour, how long the epoch took, and what is left of the run, at most."""
        took = seconds_now() - self._began
        # A part of an epoch, after a resume, says about how long a whole one is.
        whole = took * self.updates / max(1, self.updates - self._first)
        self._took = [*self._took, whole][-RECENT:]
        left = 0 if progress.stopped_early else self.epochs - progress.epochs
        end = f"; at most {duration(statistics.median(self._took) * left)} left of {self.name}" if left else ""
        self.begin_epoch(progress)
        return f"  {hour()} after {duration(took)}{end}"

    def line_within(self, progress: Progress) -> str | None:
        """Every few minutes of an epoch: how far it is, how fast, the loss so far, and what is left; None in between."""
        now = seconds_now()
        if now - self._told < LINE_SECONDS:
            return None
        self._told = now
        totals = progress.totals
        done, made = totals["updates"], totals["updates"] - self._first
        if made <= 0:
            return None
        pace = (now - self._began) / made
        measured = done - totals["left_out"]
        loss = f", Train Loss={totals['loss'] / measured:.4f} so far" if measured else ""
        left = (self.updates - done) * pace
        whole = statistics.median(self._took) if self._took else self.updates * pace
        in_all = left + whole * (self.epochs - progress.epochs - 1)
        return (
            f"  {hour()} epoch {progress.epochs + 1}: update {done} of {self.updates}, {self.samples / pace:.3g} pairs/s{loss}, "
            f"{duration(left)} left of its updates, {duration(in_all)} of {self.name}"
        )
