"""One process of an interrupted training run: started, interrupted, ended, and what its output proves. For make soak."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import create_data_splits
import train_darkir_cv
from common import signals
from tests.helpers.interruptions import WriteHook
from tests.helpers.paths import ROOT
from tests.helpers.photos import write_pairs

FORK = multiprocessing.get_context("fork")
HANG_SECONDS = 90
CONTINUING = re.compile(r"Continuing fold (\d+) at update (\d+)")
STATE_SAVED = re.compile(r"state saved at update (\d+)")
FOLD_STARTS = re.compile(r"===== Fold (\d+)")


@dataclass(frozen=True)
class Interruption:
    """What happens to a process: SIGKILL, or stop signals to its group; after `delay` seconds, or at a moment of a write.

    With two signals, the first comes after the `count`-th save and the second at `moment` of the save that it causes.
    """

    signals: tuple[int, ...] = ()
    fresh: bool = False
    delay: float | None = None
    name: str = ""
    moment: str = ""
    count: int = 1

    @property
    def kind(self) -> str:
        """For the table of what was done."""
        if self.signals:
            where = "twice, the second time inside the save" if self.moment else "at a random moment"
            return f"signalled {where}, {'fresh' if self.fresh else 'forked'} process"
        if self.moment:
            where = f"inside a save of {self.name}" if "last" in self.name else "inside the writing of another file"
            return f"killed {where}"
        return f"killed at a random moment, {'fresh' if self.fresh else 'forked'} process"

    def hook(self) -> WriteHook | None:
        """The hook that a forked process installs in itself."""
        if not self.moment:
            return None
        if not self.signals:
            return WriteHook(self.name, {(self.moment, self.count): lambda: os.kill(os.getpid(), signal.SIGKILL)})
        first, second = (lambda number=number: os.killpg(os.getpgid(0), number) for number in self.signals)
        # Once a save: "before the write" comes first of all moments, so the next save is count + 1 for every moment but this.
        return WriteHook(self.name, {("folder synced", self.count): first, (self.moment, self.count + 1): second})


class Attempt:
    """A process of train_darkir_cv.py in a group of its own."""

    def __init__(self, argv: list[str], work: Path, interruption: Interruption | None):
        self.interruption = interruption
        self.out, self.err = work / "attempt.out", work / "attempt.err"
        self.signalled: float | None = None
        self.process = self._fresh(argv) if interruption and interruption.fresh else self._forked(argv)

    def _fresh(self, argv: list[str]) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "train_darkir_cv.py"), *argv]
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            return subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)

    def _forked(self, argv: list[str]):
        sys.stdout.flush()
        reader, writer = os.pipe()
        process = FORK.Process(target=self._run_script, args=(argv, writer))
        process.start()
        os.close(writer)
        os.read(reader, 1)  # until its handlers are installed
        os.close(reader)
        return process

    def _run_script(self, argv: list[str], ready: int) -> None:
        os.setsid()
        for path, number in ((self.out, 1), (self.err, 2)):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
        signals.install()
        hook = self.interruption.hook() if self.interruption else None
        if hook is not None:
            hook.install()
        os.write(ready, b".")
        os.close(ready)
        sys.exit(train_darkir_cv.main(argv))

    def end_of_process(self) -> int:
        """Interrupt the process when that is this side's part, and wait for its end. Returns the exit code, -N for signal N."""
        if self.interruption is not None and self.interruption.delay is not None:
            self._wait(self.interruption.delay)
            if self._code() is None:
                number = self.interruption.signals[0] if self.interruption.signals else signal.SIGKILL
                self.signalled = time.monotonic()
                os.killpg(self.process.pid, number)
        self._wait(HANG_SECONDS)
        self.ended = time.monotonic()
        code = self._code()
        if self.interruption is None or not self.interruption.signals:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # workers of a killed process
        return code if code is not None else self._hung()

    def _wait(self, seconds: float) -> None:
        if isinstance(self.process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        else:
            self.process.join(seconds)

    def _code(self) -> int | None:
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode

    def _hung(self) -> int:
        os.killpg(self.process.pid, signal.SIGKILL)
        raise SystemExit(f"hang: no end in {HANG_SECONDS} s after {self.interruption}\n{self.errors()}")

    def errors(self) -> str:
        """What the process wrote on stderr."""
        return self.err.read_text(encoding="utf-8", errors="replace")

    def seconds_to_stop(self) -> float:
        """From the signal of this side to the end of the process; 0 when the process signalled itself."""
        return 0.0 if self.signalled is None else self.ended - self.signalled

    def faults(self, saved: dict[int, int]) -> list[str]:
        """What the output shows to be wrong; `saved` holds the newest known update of each fold, and is brought up to date."""
        out, errors = self.out.read_text(encoding="utf-8", errors="replace"), self.errors()
        faults = ["a traceback on stderr"] if "Traceback" in errors else []
        for fold, update in CONTINUING.findall(out):
            if int(update) < saved.get(int(fold), 0):
                faults.append(f"fold {fold} continued at update {update}, but {saved[int(fold)]} was saved")
            saved[int(fold)] = max(int(update), saved.get(int(fold), 0))
        if (stopped := STATE_SAVED.search(errors)) is not None:
            saved[int(FOLD_STARTS.findall(out)[-1])] = int(stopped[1])
        if self.interruption is not None and self.interruption.signals and group_is_alive(self.process.pid):
            faults.append("loader processes outlived the run")
        return faults


def group_is_alive(group: int) -> bool:
    """Whether a process of the group is still there after a second."""
    for _ in range(20):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def make_split_folder(work: Path) -> Path:
    """12 pairs of small photos in three folds, made in a process of its own so that this one computes nothing."""
    rows = write_pairs(work / "photos", 12, width=18, height=16)
    argv = ["--input_jsonl", str(rows), "--test_size", "3", "--n_folds", "3", "--output_dir", str(work / "split")]
    process = FORK.Process(target=_quietly, args=(argv, work / "split.out"))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"no split: {(work / 'split.out').read_text()}")
    return work / "split"


def _quietly(argv: list[str], out: Path) -> None:
    with open(out, "w") as handle, contextlib.redirect_stdout(handle), contextlib.redirect_stderr(handle):
        sys.exit(create_data_splits.main(argv))


def torn_files(output: Path) -> list[Path]:
    """Files under their final names that are not whole."""
    torn = []
    for path in (path for path in output.rglob("*") if ".darkir-tmp." not in path.name):
        try:
            if path.suffix == ".pt":
                with zipfile.ZipFile(path) as archive:
                    assert archive.testzip() is None
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix in (".csv", ".html", ".png"):
                assert path.stat().st_size > 0
        except (ValueError, AssertionError, zipfile.BadZipFile):
            torn.append(path)
    return torn
