"""First of all that a script does: refuse a Python or a system that it cannot run on, in one line. Any Python reads this file."""

import sys

OLDEST = (3, 10)
WRONG_INPUT = 2  # as in common/exits.py, which an old Python cannot read


def check_machine() -> None:
    """End with exit code 2 unless this is Python 3.10 or newer on Linux: locks, signals and loader processes are those of Linux."""
    wrong = None
    if sys.version_info < OLDEST:
        wrong = "Python 3.10 or newer is needed; this is " + sys.version.split()[0]
    elif sys.platform != "linux":
        wrong = (
            "this toolkit runs on Linux; this is "
            + sys.platform
            + " (on Windows use WSL, on a Mac a container or a Linux machine)"
        )
    if wrong:
        sys.stderr.write("error: " + wrong + "\n")
        sys.exit(WRONG_INPUT)
