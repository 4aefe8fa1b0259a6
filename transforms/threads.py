"""Threads inside a chunk: Arrow, NumPy and the model leave the interpreter's lock while they work."""

import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = os.cpu_count() or 1
AHEAD = 2 * THREADS

In = TypeVar("In")
Out = TypeVar("Out")


def in_threads(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """What a function gives for each item, in order, computed on all cores, a few items ahead.

    Only a few, so that results do not pile up where who takes them waits for a disk. The function must not call
    `in_threads` itself: its threads could then wait for each other.
    """
    left = iter(items)
    first = list(itertools.islice(left, 2))
    if len(first) < 2:
        yield from map(function, first)
        return
    running: deque[Future[Out]] = deque()
    try:
        for item in itertools.chain(first, left):
            running.append(_pool().submit(function, item))
            if len(running) > AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """One for the whole process, however many Beam threads there are."""
    return ThreadPoolExecutor(THREADS, "keyjoin")
