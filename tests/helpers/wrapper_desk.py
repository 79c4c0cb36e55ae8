"""A desk at which tests run the wrappers under plain bash, with a stub that notes what it is asked to run."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

SPLIT = "create_data_splits.py"
FIVEK = "prepare_fivek_robust.py"
TRAIN = "train_darkir_cv.py"
EVALUATE = "evaluate_darkir_test.py"


class Desk:
    """A folder in which a user runs the wrappers, with the stub as interpreter unless `settings` name another."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder, self.log = folder, folder / "calls.jsonl"
        stub = folder / "stub python"
        stub.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests" / "helpers" / "stub_python.py"}" "$@"\n')
        stub.chmod(0o755)
        self.stub = str(stub)

    def environment(self, **settings):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CUDA_"))}
        return {**clean, "PYTHON": self.stub, "STUB_LOG": str(self.log), "INPUT_JSONL": "my pairs.jsonl", **settings}

    def start(self, wrapper, *arguments, **settings):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = ["bash", str(ROOT / wrapper), *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment(**settings), **pipes)

    def run(self, wrapper, *arguments, **settings):
        """Exit code, stdout, stderr."""
        process = self.start(wrapper, *arguments, **settings)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def calls(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def scripts(self):
        """What was run, in order, but for the checks of a split that is there."""
        return [call["script"] for call in self.calls() if "--check" not in call["argv"]]

    def checks(self):
        """How often a split that is there was compared with what the settings name."""
        return sum("--check" in call["argv"] for call in self.calls())


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "my desk")


def options(call):
    """The flags of a call with their values; switches are True."""
    argv, found = call["argv"], {}
    for place, word in enumerate(argv):
        if word.startswith("--"):
            follows = argv[place + 1] if place + 1 < len(argv) else "--"
            found[word[2:]] = True if follows.startswith("--") else follows
    return found
