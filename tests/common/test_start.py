"""The first second of a script: a system it cannot run on, a package that is missing, a reader that has left."""

import ast
import errno
import os
import subprocess
import sys

import pytest

from common.exits import guarded
from tests.helpers.paths import ROOT

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
# What Windows lacks, and what a script finds where a package is not installed.
RUN = """
import os, runpy, signal, sys
script, platform, missing, *sys.argv = sys.argv[1:]
sys.platform = platform
sys.modules.update(dict.fromkeys(missing.split(","), None))
if platform == "win32":
    del signal.SIGUSR1, signal.SIGHUP, signal.pthread_sigmask
sys.argv.insert(0, script)
runpy.run_path(script, run_name="__main__")
"""
COMMANDS = {
    "create_data_splits.py": "--input_dir photos",
    "prepare_fivek_robust.py": "--fivek_dir photos",
    "train_darkir_cv.py": "--data_splits_dir none",
    "evaluate_darkir_test.py": "--cv_dir none --test_jsonl none.jsonl",
    "enhance_photos.py": "--cv_dir none --input photos --output out",
    "export_model.py": "--cv_dir none --output out.safetensors",
}
NEEDED = {"create_data_splits.py": "PIL", "prepare_fivek_robust.py": "numpy", "evaluate_darkir_test.py": "jinja2"}


def run(script, *flags, platform="linux", missing="none", **options):
    words = [sys.executable, "-c", RUN, str(ROOT / script), platform, missing, *flags]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, **options)


@pytest.mark.parametrize("script", SCRIPTS)
def test_windows_and_macs_are_told_in_one_line(script):
    for platform, missing in (("win32", "fcntl,resource"), ("darwin", "none")):
        ended = run(script, "--help", platform=platform, missing=missing)
        assert ended.returncode == 2 and ended.stdout == ""
        assert (
            ended.stderr.startswith(f"error: this toolkit runs on Linux; this is {platform} ")
            and ended.stderr.count("\n") == 1
        )


def test_what_stands_before_the_refusal_is_read_by_old_pythons():
    for path in [ROOT / "common" / "__init__.py", ROOT / "common" / "start.py", *map(ROOT.joinpath, SCRIPTS)]:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_package_is_one_line_that_says_what_to_install(script, tmp_path):
    package = NEEDED.get(script, "torch")
    ended = run(script, *COMMANDS[script].split(), missing=package, cwd=tmp_path)
    name = {"PIL": "pillow"}.get(package, package)
    assert ended.returncode == 2 and ended.stderr.startswith(
        f"error: the package {name} is missing: {sys.executable} -m pip install -r "
    )
    assert ended.stderr.count("\n") == 1 and (ROOT / "requirements.txt").as_posix() in ended.stderr


def test_a_split_needs_no_package_that_only_pages_and_training_need(tmp_path):
    flags = ["--input_jsonl", str(ROOT / "data" / "sample" / "pairs.jsonl"), "--output_dir", str(tmp_path / "s")]
    ended = run("create_data_splits.py", *flags, missing="jinja2,torch,matplotlib,safetensors")
    assert ended.returncode == 0, ended.stderr
    ended = run("create_data_splits.py", *flags, "--audit", missing="jinja2")
    assert ended.returncode == 2 and "the package jinja2 is missing" in ended.stderr


@pytest.mark.parametrize(("flags", "code"), [("--help", 0), ("--input_dir none", 2)])
@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_has_left_is_no_failure(flags, code, both):
    """`| head`: nothing of Python's own on stderr, and the exit code stands."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": writer, "stderr": subprocess.STDOUT if both else subprocess.PIPE}
    words = [sys.executable, str(ROOT / "create_data_splits.py"), *flags.split()]
    ended = subprocess.run(words, **streams, text=True, check=False, env={"PATH": os.environ["PATH"]})
    os.close(writer)
    assert ended.returncode == code
    assert "failed" not in (ended.stderr or "") and "Exception" not in (ended.stderr or "")


def test_help_into_a_pipe_that_nobody_reads_ends_as_a_shell_expects(monkeypatch, capfd):
    """Python 3.10's argparse lets the fault through."""

    @guarded
    def main(argv):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("common.exits.is_unread", lambda stream: True)
    assert main([]) == 141 and capfd.readouterr().err == ""
    monkeypatch.undo()
    assert main([]) == 1 and "failed: Broken pipe" in capfd.readouterr().err, "a pipe of our own is a fault of ours"
