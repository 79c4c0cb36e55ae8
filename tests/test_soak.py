"""A short soak: interrupted three-fold runs end as if nothing had happened. make soak does it ten times longer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak") / "soak.py"
SHORT = {"random": 2, "fresh": 0, "writes": 2, "others": 1, "signals": 1, "second_signals": 1, "fresh_signals": 0}


@pytest.mark.long
def test_killed_and_stopped_runs_end_identical_to_an_uninterrupted_one():
    flags = [word for name, count in SHORT.items() for word in (f"--{name}", str(count))]
    command = [sys.executable, SOAK, *flags, "--epochs", "2", "--precisions", "float32"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "5 kills and 2 stops" in ended.stdout
    assert int(re.search(r"(\d+) tensors and records each", ended.stdout)[1]) > 10_000
