"""One bad or odd input: a script's command line, what it may end with, and how to prove what it accepted."""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import create_data_splits
import evaluate_darkir_test
import train_darkir_cv
from tests.helpers.paths import ROOT
from tests.soak.attempts import torn_files

SECONDS = 60
SCRIPTS = {"split": create_data_splits, "train": train_darkir_cv, "evaluate": evaluate_darkir_test}
if (ROOT / "prepare_fivek_robust.py").exists():
    import prepare_fivek_robust

    SCRIPTS["fivek"] = prepare_fivek_robust

# An argument that no shell can pass on, or one line of text that is not for people.
NOT_A_MESSAGE = re.compile(r"Traceback|object at 0x|Error\(")


@dataclass
class Case:
    """codes: allowed exit codes. names: what a refusal must mention. accepted: finds a fault in an accepted result, or None.

    forbidden: a file that only code of the input would make.
    """

    kind: str
    script: str
    argv: list[str]
    folder: Path
    codes: tuple[int, ...] = (0, 2)
    names: tuple[str, ...] = ()
    accepted: Callable[["Case"], str | None] | None = None
    forbidden: Path | None = None

    @property
    def output(self) -> Path:
        """Where the script is told to write."""
        return self.folder / "out"


@dataclass(frozen=True)
class Outcome:
    """How a case ended: exit code, what it printed, and what is wrong with that."""

    code: int
    out: str
    err: str
    faults: list[str]


class TookTooLong(BaseException):
    """Raised by the alarm in a case that hangs."""


def split_case(kind: str, base: Path, folder: Path, codes: tuple[int, ...], names: tuple[str, ...]) -> Case:
    """A split of the pairs.jsonl in `folder`, whose relative paths start at `base`."""
    argv = ["--input_jsonl", str(folder / "pairs.jsonl"), "--base_dir", str(base), "--output_dir", str(folder / "out")]
    return Case(kind, "split", [*argv, "--test_size", "2"], folder, codes, names)


def run_case(case: Case, as_process: bool) -> Outcome:
    """Run the case and judge it."""
    given = torn_files(case.output)
    code, out, err = (_in_process if as_process else _in_this_process)(case)
    faults = [] if code in case.codes else [f"exit code {code}, expected one of {case.codes}"]
    if NOT_A_MESSAGE.search(err):
        faults.append("a traceback, or an object's repr")
    if code == 2:
        faults += _faults_of_a_refusal(case, err)
    if code == 0 and case.accepted is not None and (wrong := case.accepted(case)):
        faults.append(f"silently wrong: {wrong}")
    if case.forbidden is not None and case.forbidden.exists():
        faults.append("code of the input was run")
    if case.output.is_dir():
        faults += [f"half-written: {path.name}" for path in case.output.rglob(".darkir-tmp.*")]
        faults += [f"torn: {path.name}" for path in torn_files(case.output) if path not in given]
    return Outcome(code, out, err, faults)


def _faults_of_a_refusal(case: Case, err: str) -> list[str]:
    faults = [f"the refusal does not mention {name!r}" for name in case.names if name not in err]
    if "error: " not in err:
        faults.append("a refusal without a message")
    if len(err) > 20_000:
        faults.append(f"a message of {len(err)} characters")
    return faults


def _in_process(case: Case) -> tuple[int, str, str]:
    command = [sys.executable, SCRIPTS[case.script].__file__, *case.argv]
    limits = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 2 * SECONDS, "check": False}
    ended = subprocess.run(command, cwd=case.folder, **limits)
    return ended.returncode, ended.stdout.decode("utf-8", "replace"), ended.stderr.decode("utf-8", "replace")


def _in_this_process(case: Case) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        os.chdir(case.folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _exit_code(case, err)
    finally:
        signal.alarm(0)
        os.chdir(before)
    return code, out.getvalue(), err.getvalue()


def _exit_code(case: Case, err: io.StringIO) -> int:
    """The code with which a process would end; what would end it with a traceback leaves one in `err`."""
    try:
        return SCRIPTS[case.script].main(case.argv)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except (Exception, TookTooLong):  # noqa: BLE001 - whatever escapes is the finding
        err.write(traceback.format_exc())
        return 1


def _too_long(number: int, frame: object) -> None:
    raise TookTooLong


def clear(case: Case) -> None:
    """Remove what the case left; thousands of cases would fill a disk."""
    shutil.rmtree(case.folder, ignore_errors=True)
