"""A function over many files in threads, with a bar and stops: decoding leaves Python's lock, so threads are enough."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from tqdm import tqdm

from common import signals
from common.errors import InputError

POLL_SECONDS = 0.2

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, title: str, progress: bool = True
) -> Iterator[tuple[Item, Result | InputError]]:
    """Yield each item with function(item), or with the InputError that it raised, in order of completion.

    A progress bar with `title` is shown on a terminal only. Raises Stopped when a stop was asked for.
    """
    items = list(items)
    bar = tqdm(total=len(items), desc=title, disable=not (progress and sys.stderr.isatty()))
    pool = ThreadPoolExecutor(workers)
    waiting: dict[Future, Item] = {}
    rest = iter(items)
    try:
        while True:
            # Few at a time: a stop must not wait for thousands of queued images.
            while len(waiting) < 2 * workers and (item := next(rest, _END)) is not _END:
                waiting[pool.submit(function, item)] = item
            if not waiting:
                return
            done, _ = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            signals.check()
            for future in done:
                bar.update()
                yield waiting.pop(future), _result(future)
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


_END = object()


def _result(future: Future) -> Result | InputError:
    try:
        return future.result()
    except InputError as error:
        return error
