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

import train_darkir_cv
from darkir.checkpoint_file import read_checkpoint
from tests.photos import write_pairs
from tests.train_runs import SMALLEST

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


@pytest.mark.parametrize(("flags", "reason"), [([], "CUDA device"), (["--arch", "restormer"], "those of DarkIR")])
def test_kernels_that_cannot_run_are_refused(tmp_path, capsys, flags, reason):
    rows, output = write_pairs(tmp_path, 3), tmp_path / "run"
    argv = ["--train_jsonl", str(rows), "--output_dir", str(output), *SMALLEST, "--kernels", "triton", *flags]
    assert train_darkir_cv.main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --kernels triton") and reason in message and "--kernels plain" in message
    assert not output.exists()


# A network of two blocks under the name of the smallest: the interpreter takes seconds for a block.
TRAINING = """
import sys, train_darkir_cv
from darkir import NetworkConfig, architectures
from darkir.kernels import gated_branches
gated_branches.PIXELS = 512
architectures.MODEL_SIZES["darkir"]["tiny"] = NetworkConfig(
    width=4, enc_blocks=(1,), middle_enc_blocks=0, middle_dec_blocks=0, dec_blocks=(1,)
)
folder, *flags = sys.argv[1:]
for kernels in ("plain", "triton"):
    assert train_darkir_cv.main([*flags, "--kernels", kernels, "--output_dir", f"{folder}/{kernels}"]) == 0
"""


def test_a_training_ends_as_with_the_plain_operations(tmp_path):
    rows = write_pairs(tmp_path, 5)
    flags = ["--train_jsonl", str(rows), "--val_ratio", "0.2", *SMALLEST, "--lr", "1e-3", "--warmup_epochs", "0"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    done = python("-c", TRAINING, str(tmp_path), *flags, "--device", device, interpreted=device == "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("computes with the triton kernels") == 1 and "2 updates an epoch" in done.stdout
    plain, triton = (read_checkpoint(tmp_path / kernels / "checkpoint_last.pt") for kernels in ("plain", "triton"))
    for name, value in plain["raw_params"].items():
        torch.testing.assert_close(triton["raw_params"][name], value, atol=2e-5, rtol=1e-4)
    scores = [state["progress"]["history"][0]["val_psnr"] for state in (plain, triton)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)
