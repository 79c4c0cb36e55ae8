"""Items and a function -> results in order of completion: spread over threads, or over processes that may crash.

Threads suffice where the work leaves Python's lock, as decoding does. Processes write nothing and hold no lock; each has one
thread, because N processes with N threads would fight for N CPUs. A task whose process dies is tried once more alone.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from typing import Any, TypeVar

from common import signals
from common.errors import InputError
from common.log import alive, progress_bar

POLL_SECONDS = 0.2
QUEUED = 2  # tasks a process has at a time: the next one waits at hand while the parent writes
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
OUT_OF_MEMORY = 12  # a process's exit code

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, title: str
) -> Iterator[tuple[Item, Result | InputError]]:
    """Yield each item with function(item), or with the InputError that it raised, in order of completion.

    A progress bar with `title` is shown on a terminal only. Raises Stopped when a stop was requested.
    """
    queue = deque(items)
    bar = progress_bar(len(queue), title)
    pool = ThreadPoolExecutor(workers)
    running: dict[Future, Item] = {}
    try:
        while queue or running:
            # Few at a time: a stop must not wait for thousands of queued images.
            while queue and len(running) < 2 * workers:
                item = queue.popleft()
                running[pool.submit(function, item)] = item
            done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            signals.check()
            for future in done:
                alive()
                bar.update()
                try:
                    result = future.result()
                except InputError as error:
                    result = error
                yield running.pop(future), result
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


def use_one_thread() -> None:
    """Limit numerical libraries to one thread; call it before they are imported."""
    os.environ.update(dict.fromkeys(THREAD_LIMITS, "1"))


@dataclass(frozen=True)
class Lost:
    """A task that has no result: its process died, or took too long."""

    reason: str


@dataclass(frozen=True)
class _Raised:
    trace: str


def run_tasks(
    function: Callable[[Any], Any], tasks: Iterable[Any], workers: int, timeout: float
) -> Iterator[tuple[Any, Any | Lost]]:
    """Yield (task, function(task)) in order of completion, from processes; Lost when a task costs two of them their life.

    timeout: seconds a task. An exception of `function` ends the run as RuntimeError with its traceback. Raises
    Stopped between results when a stop was requested. However the iteration ends, no process is left.
    """
    suspects = []
    for task, result in _one_pass(function, tasks, workers, timeout):
        if isinstance(result, Lost):
            suspects.append(task)
        else:
            yield task, result
    # Alone, because the first loss may have been for want of memory.
    yield from _one_pass(function, suspects, 1, timeout)


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
                answer = worker.receive() if worker.pipe in ready else Lost(f"took more than {timeout:g} seconds")
                if isinstance(answer, Lost):
                    pool.remove(worker)
                    worker.close()
                    waiting.extendleft(reversed(list(worker.tasks)[1:]))
                if worker.tasks:
                    alive()
                    yield worker.tasks.popleft(), answer
                    worker.since = time.monotonic()
    finally:
        for worker in pool:
            worker.close()


@dataclass
class _Worker:
    """The parent's view of one process: its pipe, the tasks that it has, oldest first, and when it began that one."""

    process: Any
    pipe: connection.Connection
    tasks: deque = field(default_factory=deque)
    since: float = 0.0

    def send(self, task: Any) -> None:
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        # A process that has died is noticed by the reader of its pipe.
        with contextlib.suppress(OSError):
            self.pipe.send(task)

    def receive(self) -> Any | Lost:
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return Lost(f"worker crashed ({'it ran out of memory' if code == OUT_OF_MEMORY else how})")
        if isinstance(answer, _Raised):
            raise RuntimeError(f"in a worker:\n{answer.trace}")
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _start(function: Callable[[Any], Any], pool: list[_Worker]) -> _Worker:
    # Forked, so that no process imports anything again. The parent's only other thread waits for signals (common/signals.py),
    # and holds no lock that a process would inherit. A bar with a watching thread would be another one.
    context = get_context("fork")
    ours, theirs = context.Pipe()
    inherited = [ours, *(worker.pipe for worker in pool)]
    with signals.held_back():
        process = context.Process(target=_serve, args=(function, theirs, inherited), daemon=True)
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(function: Callable[[Any], Any], pipe: connection.Connection, inherited: list[connection.Connection]) -> None:
    """A process's life: it ends with its parent, because then the pipe does."""
    signals.ignore_in_worker()
    for other in inherited:
        # Else the parent's ends would live on in its children.
        other.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            try:
                answer = function(task)
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            except Exception:  # noqa: BLE001 (it is raised again, in the parent)
                answer = _Raised(traceback.format_exc())
            pipe.send(answer)
