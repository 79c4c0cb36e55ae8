"""How a run ends early: refused (the user's input), failed (our side) or stopped (a signal). Needs no torch."""


class RunRefused(ValueError):
    """The run may not start or go on as asked: leakage, changed options, a folder in use. Exit code 2."""


class RunFailed(RuntimeError):
    """The run broke (non-finite loss, out of memory, disk full); the last checkpoint is sound. Exit code 1."""


class OutOfMemory(RunFailed):
    """A batch did not fit into the memory of its device."""


class Stopped(Exception):
    """A signal ended the run at a safe point, with its state saved; the same command continues it. Exit code 75."""


def lacks_memory(error: BaseException) -> bool:
    """Whether memory was refused: by Python, on a device of torch (by its error's name), or on the CPU (by its words)."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return "MemoryError" in names or "OutOfMemoryError" in names or "can't allocate memory" in str(error)
