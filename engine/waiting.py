"""How the threads of a computation on the CPU wait for each other: spinning on CPUs of their own, asleep beside other processes.

libgomp's threads spin for milliseconds before they sleep. On idle CPUs that is fastest; on CPUs that other processes use as well,
they keep away the very thread that they wait for, and an update takes many times as long. Which of both is better changes in the
hours of a run, but libgomp reads its settings only once. It has one rule that acts at once: as soon as a process has more OpenMP
threads than CPUs, all of them spin for moments only (libgomp, wait.h and env.c: gomp_managed_threads, gomp_available_cpus,
gomp_throttled_spin_count_var). So a second team of threads, asleep for as long as it is there, makes the first one give way.
How threads wait changes no result; how many there are would.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common import signals

# Whoever set one of these has decided: GNU's, and those of other OpenMP libraries.
DECIDED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
FIRST_LOOK = 0.3  # seconds that a computation waits for its first look at the CPUs
PERIOD = 10.0  # seconds between looks
# CPUs that lack for one thread each: from the first on the threads sleep, below the second they spin again.
CROWDED, ROOMY = 0.6, 0.3
ENOUGH_WORK = 2**20  # elements of a tensor that torch shares among all its threads
TICKS = os.sysconf("SC_CLK_TCK")


class Waiting:
    """While the block lasts, a thread looks at how busy the CPUs of this process are, and lets its threads sleep or spin.

    For computations on the CPU with several threads on Linux; elsewhere, and where the user has decided, it does nothing. What it
    does first is told in `log`. root: the folder in which proc lies.
    """

    def __init__(
        self, device: torch.device, log: Callable[[str], None], root: Path = Path("/"), period: float = PERIOD
    ):
        self.log, self.statistics, self.period = log, root / "proc" / "stat", period
        self.threads, self.cpus = torch.get_num_threads(), sorted(os.sched_getaffinity(0))
        self.acts = device.type == "cpu" and self.threads > 1 and self.statistics.exists()
        self._told = False
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="waiting", daemon=True)
        self._team: threading.Thread | None = None
        self._team_ends = threading.Event()

    @property
    def gives_way(self) -> bool:
        """Whether the threads sleep where they wait."""
        return self._team is not None

    def __enter__(self) -> Waiting:
        chosen = [f"{name}={os.environ[name]}" for name in DECIDED if name in os.environ]
        if self.acts and chosen:
            self.log(f"Threads wait for each other as {' '.join(chosen)} says")
            self.acts = False
        if self.acts:
            self._last = self._now()
            time.sleep(FIRST_LOOK)
            self._look()  # before the first update, which may take minutes where threads spin in each other's way
            self._watcher.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self._spin()

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)  # they are the main thread's
        while not self._ended.wait(self.period):
            self._look()

    def _look(self) -> None:
        before, self._last = self._last, self._now()
        seconds, busy, own = (now - then for now, then in zip(self._last, before, strict=True))
        others = max(0.0, busy - own) / max(seconds, 1e-3)
        lacking = others + self.threads - len(self.cpus)
        if lacking >= CROWDED and not self.gives_way:
            self._sleep()
            if not self._told:
                self._told = True
                self.log(
                    f"Other processes use about {others:.1f} of the {len(self.cpus)} CPUs: while they do, the {self.threads} "
                    "threads here sleep where they wait for each other, and do not spin; no result depends on it"
                )
        elif lacking < ROOMY and self.gives_way:
            self._spin()

    def _sleep(self) -> None:
        """Keep a second team of threads, asleep: with it this process has more OpenMP threads than CPUs."""
        self._team_ends.clear()
        ready = threading.Event()

        def hold() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)
            torch.ones(ENOUGH_WORK).add_(1)  # makes the team, which ends with this thread
            ready.set()
            self._team_ends.wait()

        team = threading.Thread(target=hold, name="second team", daemon=True)
        team.start()
        ready.wait()
        self._team = team

    def _spin(self) -> None:
        if self._team is not None:
            self._team_ends.set()
            self._team.join()
            self._team = None

    def _now(self) -> tuple[float, float, float]:
        """Seconds: the time, how long this process's CPUs were busy in all, and how long it was itself."""
        names, busy = {f"cpu{number}" for number in self.cpus}, 0
        for line in self.statistics.read_text().splitlines():
            name, *counts = line.split()
            if name in names:
                # user, nice, system, (idle, iowait,) irq, softirq, steal: proc(5)
                busy += sum(int(count) for count in (*counts[:3], *counts[5:8]))
        return time.monotonic(), busy / TICKS, time.process_time()
