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
from typing import NoReturn

from common.errors import InputError, OutOfMemory, RunFailed, Stopped, lacks_memory, loader_fault
from common.log import is_unread, over, watch, write
from common.signals import kill_children, no_more
from darkir.errors import ModelError  # the only import of darkir here: darkir stands alone, with an error of its own

# A path that cannot exist was named by the user; any other fault of the system is not the input's.
WRONG_PATHS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
NOT_MADE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
LESS_MEMORY = "smaller batches or photos need less"
DONE, FAILED, WRONG_INPUT, REJECTS, STOPPED = 0, 1, 2, 3, 75
UNREAD = 141  # 128 + SIGPIPE: what a shell expects of a program whose reader has left (`| head`)
HOME = Path(__file__).resolve().parent.parent
PACKAGE_OF = {"PIL": "pillow"}  # import name -> name to install


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
        except ImportError as error:
            if fault := _package_fault(error):
                return _say(f"error: {fault}", WRONG_INPUT)
            raise
        except (OSError, MemoryError, RuntimeError) as failure:
            if isinstance(failure, BrokenPipeError) and is_unread(sys.stdout):
                return UNREAD  # nobody is there to be told
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
            for stream in (sys.stdout, sys.stderr):
                write(stream, "")  # else Python, whose last flush fails, would end with a code and a message of its own

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


@contextlib.contextmanager
def output_folder(flag: str, folder: str | Path) -> Iterator[None]:
    """As `flagged`, around the use of a folder to write to. InputError when it cannot be made, or nothing written there; RunFailed
    when somebody removes it meanwhile."""
    with flagged(flag, folder):
        there = next(place for place in (Path(folder), *Path(folder).absolute().parents) if place.exists())
        if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
            raise InputError(
                f"{folder} cannot be written to: {there} does not let this user write; name another folder"
            )
        try:
            yield
        except OSError as error:
            if Path(folder).is_dir() or error.errno not in NOT_MADE or not _is_near(error.filename, folder):
                raise
            _refuse_missing_folder(flag, folder, error)


def _refuse_missing_folder(flag: str, folder: str | Path, error: OSError) -> NoReturn:
    """Nothing can be written to `folder`, which is not there: because it cannot be made, or because it was removed?"""
    try:
        Path(folder).mkdir(parents=True)
    except OSError as reason:
        raise InputError(f"{folder} cannot be made ({reason.strerror}); name another folder") from error
    Path(folder).rmdir()
    raise RunFailed(f"{flag} {folder} was removed while it was written to; run the same command again") from error


def _is_near(name: object, folder: str | Path) -> bool:
    """Whether a file is `folder`, lies in it, or is a folder that it lies in; `flagged` may have put the flag before its name."""
    if not isinstance(name, str):
        return False
    place, own = Path(name.split(" ", 1)[1] if name.startswith("--") else name).absolute(), Path(folder).absolute()
    return place == own or place in own.parents or own in place.parents


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


def _package_fault(error: ImportError) -> str | None:
    """What to install, when `error` is about a package of others; None for a fault of our own."""
    name = (error.name or "").split(".")[0]
    if not name or name in sys.stdlib_module_names or (HOME / name).exists() or (HOME / f"{name}.py").exists():
        return None
    name = PACKAGE_OF.get(name, name)
    what = (
        "is missing" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({str(error).splitlines()[0]})"
    )
    return (
        f"the package {name} {what}: {sys.executable} -m pip install -r {HOME / 'requirements.txt'} "
        "(docs/install.md says which torch a driver and a card need)"
    )


def _say(message: str, code: int) -> int:
    write(sys.stdout, "")
    write(sys.stderr, message + "\n")
    return code
