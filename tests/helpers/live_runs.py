"""Real trainings in processes of their own, to which something happens while they run; for tests and make soak."""

import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.paths import ROOT

SMALL = (
    "--model_size tiny --resolution 16 --batch_size 2 --lambda_vgg 0 --cache off --epochs 500 --num_workers 2".split()
)
SECONDS = 60  # for a busy machine; an idle one takes two


def words_of(rows: Path, *flags: str) -> list[str]:
    """The command that trains on `rows` in run/ beside them; later flags win."""
    places = ["--train_jsonl", rows, "--output_dir", rows.parent / "run"]
    return [str(word) for word in (sys.executable, ROOT / "train_darkir_cv.py", *places, *SMALL, *flags)]


def start(rows: Path, *flags: str, stdout: object = subprocess.DEVNULL) -> subprocess.Popen:
    """A training in a process of its own, once it is in its second epoch."""
    process = subprocess.Popen(words_of(rows, *flags), stdout=stdout, stderr=subprocess.PIPE, text=True)
    log = rows.parent / "run" / "train.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "Epoch   2/" in log.read_text(encoding="utf-8")):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.05)
    return process


def end_of(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and stderr; the process must end by itself, and no child of it may be left."""
    children = children_of(process.pid)
    try:
        _, message = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()], "loader processes outlived the run"
    return process.returncode, message


def children_of(pid: int) -> list[int]:
    """The processes that `pid` has started; none when it has ended."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []
