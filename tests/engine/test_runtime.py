"""What the scripts set in the machine that they run on, and what they say of it."""

import ast
import importlib
import platform
import subprocess
import sys

import pytest
import torch

from engine.runtime import Precision, choose_device, describe_computing
from tests.helpers.paths import ROOT

FAULTS = """
import resource, torch
from engine.runtime import keep_freed_memory
for device in ("cuda", "cpu"):
    keep_freed_memory(torch.device(device))
    for _ in range(20):
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_used_again_on_the_cpu():
    # Page faults of a 64 MB tensor in a process whose allocator nothing else has set, after so many that the holes which small
    # objects leave beside it are filled.
    run = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, check=True, capture_output=True)
    by_default, kept = map(int, run.stdout.split())
    assert kept < by_default / 4  # 16,384 pages; a few dozen where the system hands out huge ones


def test_versions_are_those_of_the_packages_and_torchvision_is_not_imported():
    code = "import sys; from engine.runtime import versions; print(versions()); assert 'torchvision' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    said = ast.literal_eval(run.stdout)
    for name, package in {"torch": "torch", "torchvision": "torchvision", "numpy": "numpy", "pillow": "PIL"}.items():
        assert said[name] == str(importlib.import_module(package).__version__)


def test_the_chosen_gpu_is_the_one_that_torch_takes_where_none_is_named(monkeypatch):
    taken = []
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "set_device": taken.append,
        "get_arch_list": list,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    assert choose_device("cuda:1") == torch.device("cuda:1") and choose_device("cuda") == torch.device("cuda")
    assert taken == [torch.device("cuda:1")]


@pytest.mark.parametrize(("capability", "slow"), [("AVX2", True), ("DEFAULT", True), ("AVX512", False)])
def test_16_bit_on_a_cpu_that_computes_it_in_software_is_warned_of(monkeypatch, capability, slow):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    cpu = torch.device("cpu")
    assert ("ten times as slow" in describe_computing(Precision("cpu", torch.bfloat16), cpu)) is slow
    assert describe_computing(Precision("cpu", None), cpu) == f"float32, cpu ({torch.get_num_threads()} threads)"
