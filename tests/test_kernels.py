"""The Triton kernels: right under Triton's interpreter, compiled for an H100, and behind --kernels of train_darkir_cv.py.

What runs kernels does so in processes of its own: whether Triton interprets or compiles is settled when it is imported.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
ROOT = Path(__file__).resolve().parent.parent


def python(*arguments: str, interpreted: bool, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": str(int(interpreted)), **variables}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )


def test_kernels_equal_the_reference():
    checks = ("-m", "pytest", "-p", "no:cacheprovider", "tests/kernel_checks.py")
    done = python(*checks, interpreted=not torch.cuda.is_available())
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_every_kernel_compiles_for_an_h100_with_wide_offsets(tmp_path):
    done = python("-m", "tests.compiled_kernels", interpreted=False, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    narrow_pointers = dict(line.split() for line in done.stdout.splitlines())
    # Elements of a large photo are more than 2**31.
    assert not {kernel: count for kernel, count in narrow_pointers.items() if count != "0"}
    modules = {"branches", "gate", "layer_norm", "polar", "residual", "scaling"}
    assert {kernel.split(".")[0] for kernel in narrow_pointers} == modules
    assert len(narrow_pointers) == 16
