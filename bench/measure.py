"""What the benchmarks share: variants timed in turn, memory peaks, errors, the machine in words, Markdown tables."""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data" / "sample" / "pairs.jsonl"
RESET_PEAK = "5"  # written to clear_refs; see proc(5)

Key = TypeVar("Key", bound=Hashable)  # the name of what is called
Values = tuple[torch.Tensor, dict[str, torch.Tensor]]


@dataclass
class Cost:
    """Seconds of the timed calls: those that passed, and those of all CPUs together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)

    def columns(self, digits: int) -> list[str]:
        """Median, spread and median CPU time in ms."""
        return [f"{1000 * seconds:.{digits}f}" for seconds in (*median_and_spread(self.wall), self.median_cpu)]


def median_and_spread(seconds: list[float]) -> tuple[float, float]:
    """The median, and the distance between the quartiles (IQR)."""
    low, median, high = statistics.quantiles(seconds, n=4)
    return median, high - low


def time_in_turn(calls: dict[Key, Callable[[int], object]], rounds: int, warm_up: int = 2) -> dict[Key, Cost]:
    """Call all of them `warm_up` + `rounds` times in the order A B C A B C, with the number of the round.

    In turn, because a machine that others use changes its speed while one measures: all variants see the same changes.
    """
    costs = {name: Cost() for name in calls}
    for number in range(-warm_up, rounds):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call(number)
            if number >= 0:
                costs[name].wall.append(time.perf_counter() - wall)
                costs[name].cpu.append(time.process_time() - cpu)
    return costs


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes of resident memory that the call takes at its peak, on top of what is there before it (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps of earlier calls would hide what this one needs
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before = _status_bytes("VmRSS")
    call()
    return _status_bytes("VmHWM") - before


def peaks(calls: dict[Key, Callable[[int], object]]) -> dict[Key, int]:
    """`peak_memory` of one more call of each."""
    return {name: peak_memory(lambda call=call: call(0)) for name, call in calls.items()}


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def relative_error(value: torch.Tensor, exact: torch.Tensor) -> float:
    """2-norm of the difference over the 2-norm of the exact value."""
    return ((value.double() - exact).norm() / exact.norm()).item()


def values(
    network: nn.Module,
    restore: Callable[[torch.Tensor], torch.Tensor],
    src: torch.Tensor,
    tar: torch.Tensor,
    training: bool,
) -> Values:
    """What `restore`, which calls `network`, makes of src and, in training, the gradient of each parameter by name."""
    network.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(training):
        output = restore(src)
    if training:
        F.l1_loss(output.to(tar.dtype), tar).backward()
    parameters = network.named_parameters()
    gradients = {name.removeprefix("_orig_mod."): p.grad.clone() for name, p in parameters if p.grad is not None}
    return output.detach().clone(), gradients


def errors(found: Values, exact: Values) -> tuple[float, float | None]:
    """Relative error of the output and, where there are gradients, of the one that is furthest off."""
    worst = max((relative_error(found[1][name], gradient) for name, gradient in exact[1].items()), default=None)
    return relative_error(found[0], exact[0]), worst


def machine() -> str:
    """Processor, CPUs, versions, date and load, as one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    cpus, capability = len(os.sched_getaffinity(0)), torch.backends.cpu.get_cpu_capability()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{model}, {cpus} CPUs ({capability}); {versions}; {datetime.date.today()}; load {os.getloadavg()[0]:.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
