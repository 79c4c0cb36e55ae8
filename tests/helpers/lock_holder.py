"""Another process that holds the lock of a folder, for tests of what a second run there is told."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HOLD = """
import sys
from common.locks import FolderLock
with FolderLock(sys.argv[1], print):
    print("held", flush=True)
    input()
"""


@contextmanager
def locked_by_another(folder: Path) -> Iterator[subprocess.Popen]:
    """The process that holds the lock of `folder`; killed at the end, so that a dead process's lock stays behind."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout.readline() == "held\n"
            yield owner
        finally:
            owner.kill()
