"""What the scripts set in the machine that they run on."""

import platform
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

FAULTS = """
import resource, torch
from engine.runtime import keep_freed_memory
for device in ("cuda", "cpu"):
    keep_freed_memory(torch.device(device))
    for _ in range(2):
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_used_again_on_the_cpu():
    # Page faults of a 64 MB tensor that is made for the third time, in a process whose allocator nothing else has set.
    run = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, check=True, capture_output=True)
    by_default, kept = map(int, run.stdout.split())
    assert kept < by_default / 4  # 16,384 pages; a few dozen where the system hands out huge ones
