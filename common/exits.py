"""Exit codes of the scripts, and the one place that turns exceptions into them. Needs no torch.

0 done; 1 our failure; 2 the user's input is wrong; 3 finished, with more rejected inputs than allowed; 75 stopped by a signal.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import InputError, OutOfMemory, RunFailed, Stopped, lacks_memory, loader_fault
from common.log import over, watch, write
from common.signals import kill_children, no_more
from darkir.errors import ModelError  # the only import of darkir here: darkir stands alone, with an error of its own

# A path that cannot exist was named by the user; any other fault of the system is not the input's.
WRONG_PATHS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
LESS_MEMORY = "smaller batches or photos need less"
DONE, FAILED, WRONG_INPUT, REJECTS, STOPPED = 0, 1, 2, 3, 75


def guarded(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Wrap a script's main(argv) so that expected endings give their exit code and one message on stderr, no traceback.

    Anything unexpected still raises with its traceback: that is a bug, and Python ends with code 1.
    """

    @functools.wraps(main)
    def wrapper(argv: list[str] | None = None) -> int:
        prepare_streams()
        watch()
        try:
            return main(argv)
        except (InputError, ModelError) as error:
            return _say(f"error: {error}", WRONG_INPUT)
        except Stopped as stop:
            # The terminal shows ^C where the cursor was.
            line = "\n" if sys.stderr.isatty() else ""
            return _say(f"{line}stopped: {stop}", STOPPED)
        except OutOfMemory as failure:
            return _say(f"failed: {failure}: {LESS_MEMORY}", FAILED)
        except RunFailed as failure:
            return _say(f"failed: {failure}", FAILED)
        except (OSError, MemoryError, RuntimeError) as failure:
            kill_children()  # while `failure` still holds their loader, which would complain of each death when it goes
            if fault := loader_fault(failure):
                return _say(f"failed: {fault}", FAILED)
            if lacks_memory(failure):
                return _say(f"failed: not enough memory ({failure or 'no details'}): {LESS_MEMORY}", FAILED)
            if not isinstance(failure, OSError):
                raise
            where = f"{failure.filename}: " if failure.filename else ""
            advice = "; name one with TMPDIR" if "temporary directory" in str(failure) else ""
            word, code = ("error", WRONG_INPUT) if failure.errno in WRONG_PATHS else ("failed", FAILED)
            return _say(f"{word}: {where}{failure.strerror or failure}{advice}", code)
        finally:
            over()
            no_more()
            kill_children()

    return wrapper


@contextlib.contextmanager
def flagged(flag: str, path: str | Path | None) -> Iterator[None]:
    """Around the use of a `path` that `flag` named: an error that begins with the path, or is about it, names the flag as well."""
    try:
        yield
    except (InputError, ModelError) as error:
        if not _is_about(str(error), path):
            raise
        raise InputError.prefixed(f"{flag} ", error) from error
    except OSError as error:
        if _is_about(f"{error.filename}:", path):
            error.filename = f"{flag} {error.filename}"
        raise


def _is_about(message: str, path: str | Path | None) -> bool:
    if path is None:
        return False
    spellings = {str(path), str(Path(path))}  # as it was given, and as pathlib writes it
    return message.startswith(tuple(f"{spelling}{mark}" for spelling in spellings for mark in (" ", ":", os.sep)))


def prepare_streams() -> None:
    """Let stdout and stderr survive a terminal without UTF-8 (what it cannot show is written as an escape) and being closed."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            # Else the next file that is opened would become the standard stream of every process that is started.
            while (handle := os.open(os.devnull, os.O_WRONLY)) < number:
                pass
            setattr(sys, name, open(handle, "w", encoding="utf-8", errors="backslashreplace"))
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _say(message: str, code: int) -> int:
    write(sys.stdout, "")
    write(sys.stderr, message + "\n")
    return code
