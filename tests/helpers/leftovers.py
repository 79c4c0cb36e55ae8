"""Temporary files as a killed process of this toolkit leaves them, and files of other people that look alike."""

import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT

LEAVE = """
import os, sys
from common.files import atomic_output
writing = [atomic_output(name) for name in sys.argv[1:]]
for each in writing:
    each.__enter__().write_bytes(b"half")
os._exit(9)
"""
FOREIGN = ("results.tmp.csv", "x.tmp.1.jsonl", ".darkir-tmp.notes", ".darkir-tmp.elsewhere.1.01234567.a.jpg")


def leave(*paths: Path) -> list[Path]:
    """Let a process die in the middle of writing each of `paths`; the temporary files that it left."""
    subprocess.run([sys.executable, "-c", LEAVE, *map(str, paths)], cwd=ROOT, check=False)
    left = [found for path in paths for found in path.parent.glob(f".darkir-tmp.*.{path.name}")]
    assert len(left) == len(paths)
    return left


def foreign_files(folder: Path) -> list[Path]:
    """Files of other people and machines in `folder`."""
    paths = [folder / name for name in FOREIGN]
    for path in paths:
        path.write_text("theirs")
    return paths
