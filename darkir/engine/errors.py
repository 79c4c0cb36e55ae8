"""How a run ends early: refused (the user's input), failed (our side) or stopped (a signal). Needs no torch."""


class RunRefused(ValueError):
    """The run may not start or go on as asked: leakage, changed options, a folder in use. Exit code 2."""


class RunFailed(RuntimeError):
    """The run broke (non-finite loss, out of memory, disk full); the last checkpoint is sound. Exit code 1."""


class Stopped(Exception):
    """A signal ended the run at a safe point, with its state saved; the same command continues it. Exit code 75."""
