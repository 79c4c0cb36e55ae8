"""When a photo is restored in strips: memory is short, one pass ran out of it, or a batch on the CPU is large."""

import warnings
from pathlib import Path

import pytest
import torch

from common.memory import host_free_bytes
from darkir import DarkIR, NetworkConfig
from engine.inference import CPU_STREAMS, CPU_STRIPS_FROM, WORK_AREAS, restorer, stream_bytes, strips_are_better
from engine.runtime import Precision, free_bytes
from tests.darkir.test_network import active

FLOAT32 = Precision("cpu", None)
CPU = torch.device("cpu")
GIB = 2**30


class CountingDarkIR(DarkIR):
    """Counts its one-pass forwards; those of more than `room` pixels are out of memory."""

    def __init__(self, room: float = float("inf")):
        super().__init__(NetworkConfig(width=4))
        self.room, self.passes = room, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if x.numel() // 3 > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def make(room: float = float("inf")) -> CountingDarkIR:
    torch.manual_seed(0)
    return active(CountingDarkIR(room))


def expected(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return make()(x).clamp(0, 1)


@pytest.mark.parametrize(("missing", "passes"), [(0, 1), (1, 0)])
def test_strips_when_one_pass_would_not_fit(missing, passes):
    network, x = make(), torch.rand(2, 3, 33, 42)
    free = CPU_STREAMS * 4 * 4 * 2 * 40 * 48 + WORK_AREAS - missing  # 33 x 42 pixels are padded to 40 x 48
    restored = restorer(network, FLOAT32, free=lambda device: free)(x)
    assert network.passes == passes
    torch.testing.assert_close(restored, expected(x), atol=1e-6, rtol=0)


def test_on_the_cpu_large_batches_go_in_strips():
    network = DarkIR(NetworkConfig(width=32))
    small, large = torch.empty(1, 3, 256, 256, device="meta"), torch.empty(9, 3, 256, 256, device="meta")
    assert stream_bytes(network, small) < CPU_STRIPS_FROM < stream_bytes(network, large)
    on_cpu = torch.empty(9, 3, 256, 256)
    assert strips_are_better(network, on_cpu, free=1000 * GIB)
    assert not strips_are_better(network, on_cpu[:1], free=1000 * GIB)
    assert not strips_are_better(network, large, free=1000 * GIB), "another device"


def test_other_networks_take_one_pass():
    convolution = torch.nn.Conv2d(3, 3, 1)
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(restorer(convolution, FLOAT32, free=lambda device: 0)(x), convolution(x).clamp(0, 1))


def test_out_of_memory_is_told_and_tried_again_in_strips():
    network, told = make(room=500), []
    restore = restorer(network, FLOAT32, warn=told.append)
    small, large = torch.rand(1, 3, 20, 20), torch.rand(1, 3, 30, 25)
    for x in (small, large, large, small):
        torch.testing.assert_close(restore(x), expected(x), atol=1e-6, rtol=0)
    assert len(told) == 1
    assert "25 x 30" in told[0]
    assert network.passes == 3, "the second large photo goes in strips at once"


def test_by_default_the_warning_is_pythons():
    with pytest.warns(UserWarning, match="in strips from now on"):
        restorer(make(room=0), FLOAT32)(torch.rand(1, 3, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restorer(make(), FLOAT32)(torch.rand(1, 3, 8, 8))


def test_out_of_memory_of_another_network_stays_an_error():
    class Full(torch.nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        restorer(Full(), FLOAT32)(torch.rand(1, 3, 8, 8))


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A root folder with 8 GiB available and these cgroup files."""
    contents = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB\n", "proc/self/cgroup": cgroup}
    for name, content in {**contents, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def cgroup_v2(folder: str, limit: int | str, used: int, cached: int = 0) -> dict[str, str]:
    place = f"sys/fs/cgroup/{folder}"
    return {
        f"{place}/memory.max": f"{limit}\n",
        f"{place}/memory.current": f"{used}\n",
        f"{place}/memory.stat": f"anon 1\ninactive_file {cached}\n",
    }


def test_free_memory_without_limits(tmp_path):
    assert host_free_bytes(machine(tmp_path, "0::/\n", {})) == 8 * GIB
    assert host_free_bytes(machine(tmp_path, "0::/job\n", cgroup_v2("job", "max", GIB))) == 8 * GIB


def test_free_memory_under_a_cgroup_limit(tmp_path):
    files = cgroup_v2("job", 4 * GIB, 3 * GIB, cached=GIB // 2)
    assert host_free_bytes(machine(tmp_path, "0::/job\n", files)) == GIB + GIB // 2


def test_a_parents_limit_binds(tmp_path):
    files = cgroup_v2("job", 3 * GIB, 2 * GIB) | cgroup_v2("job/step/task", "max", GIB)
    assert host_free_bytes(machine(tmp_path, "0::/job/step/task\n", files)) == GIB


def test_a_container_that_sees_only_its_own_top(tmp_path):
    assert host_free_bytes(machine(tmp_path, "0::/of/the/host\n", cgroup_v2("", 2 * GIB, GIB))) == GIB


def test_free_memory_under_a_version_1_limit(tmp_path):
    place = "sys/fs/cgroup/memory/slurm/job"
    files = {
        f"{place}/memory.limit_in_bytes": f"{2 * GIB}\n",
        f"{place}/memory.usage_in_bytes": f"{GIB}\n",
        f"{place}/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB // 4}\n",
    }
    root = machine(tmp_path, "8:pids:/slurm/job\n4:cpu,memory:/slurm/job\n", files)
    assert host_free_bytes(root) == GIB + GIB // 4


def test_an_exhausted_limit_leaves_nothing(tmp_path):
    assert host_free_bytes(machine(tmp_path, "0::/job\n", cgroup_v2("job", GIB, 2 * GIB))) == 0


def test_free_memory_of_this_machine():
    assert 2**24 < free_bytes(CPU) < 2**50
