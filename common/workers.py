"""Tasks -> results, in processes that may crash: a lost task is tried once more alone, and its loss is then a result.

Workers write nothing and hold no lock. One thread each: N processes with N threads would fight for N CPUs.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from typing import Any

from common import signals

POLL_SECONDS = 0.2
QUEUED = 2  # tasks a worker has at a time: the next one waits at hand while the parent writes
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
OUT_OF_MEMORY = 12  # a worker's exit code


@dataclass(frozen=True)
class Lost:
    """A task that has no result: its worker died, or took too long."""

    reason: str


@dataclass(frozen=True)
class _Raised:
    trace: str


def use_one_thread() -> None:
    """Limit numerical libraries to one thread; to be called before they are imported."""
    os.environ.update(dict.fromkeys(THREAD_LIMITS, "1"))


def run_tasks(
    function: Callable[[Any], Any], tasks: Iterable[Any], workers: int, timeout: float
) -> Iterator[tuple[Any, Any | Lost]]:
    """Yield (task, function(task)) in order of completion; Lost when a task costs two workers their life.

    timeout: seconds a task. An exception of `function` ends the run as RuntimeError with its traceback. Raises
    Stopped between results when a stop was asked for. However the iteration ends, no worker is left.
    """
    suspects = []
    for task, result in _one_pass(function, tasks, workers, timeout):
        if isinstance(result, Lost):
            suspects.append(task)
        else:
            yield task, result
    # Alone, because the first loss may have been for want of memory.
    yield from _one_pass(function, suspects, 1, timeout)


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    tasks: deque = field(default_factory=deque)
    since: float = 0.0

    def send(self, task: Any) -> None:
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        # A worker that has died is noticed by the reader of its pipe.
        with contextlib.suppress(OSError):
            self.pipe.send(task)

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _one_pass(
    function: Callable[[Any], Any], tasks: Iterable[Any], workers: int, timeout: float
) -> Iterator[tuple[Any, Any | Lost]]:
    waiting = deque(tasks)
    pool: list[_Worker] = []
    try:
        while waiting or any(worker.tasks for worker in pool):
            while len(pool) < min(workers, len(waiting)):
                pool.append(_start(function, pool))
            for _ in range(QUEUED):
                for worker in pool:
                    if waiting and len(worker.tasks) < QUEUED:
                        worker.send(waiting.popleft())
            ready = connection.wait([worker.pipe for worker in pool], POLL_SECONDS)
            signals.check()
            for worker in list(pool):
                late = bool(worker.tasks) and time.monotonic() - worker.since > timeout
                if worker.pipe not in ready and not late:
                    continue
                answer = Lost(f"took more than {timeout:g} seconds") if worker.pipe not in ready else _receive(worker)
                if isinstance(answer, Lost):
                    pool.remove(worker)
                    worker.close()
                    waiting.extendleft(reversed(list(worker.tasks)[1:]))
                if worker.tasks:
                    yield worker.tasks.popleft(), answer
                    worker.since = time.monotonic()
    finally:
        for worker in pool:
            worker.close()


def _receive(worker: _Worker) -> Any | Lost:
    try:
        answer = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode
        how = (
            "it ran out of memory" if code == OUT_OF_MEMORY else f"signal {-code}" if code < 0 else f"exit code {code}"
        )
        return Lost(f"worker crashed ({how})")
    if isinstance(answer, _Raised):
        raise RuntimeError(f"in a worker:\n{answer.trace}")
    return answer


def _start(function: Callable[[Any], Any], pool: list[_Worker]) -> _Worker:
    # Forked, so that no worker imports anything again; the parent has one thread.
    context = get_context("fork")
    ours, theirs = context.Pipe()
    inherited = [ours, *(worker.pipe for worker in pool)]
    with signals.held_back():
        process = context.Process(target=_serve, args=(function, theirs, inherited), daemon=True)
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(function: Callable[[Any], Any], pipe: connection.Connection, inherited: list) -> None:
    """A worker's life: it ends with its parent, because then the pipe does."""
    signals.ignore_in_worker()
    for other in inherited:
        # Else the parent's ends would live on in its children.
        other.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            pipe.send(_answer(function, task))


def _answer(function: Callable[[Any], Any], task: Any) -> Any:
    try:
        return function(task)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception:  # noqa: BLE001 (it is raised again, in the parent)
        return _Raised(traceback.format_exc())
