"""Threads inside a chunk: Arrow, NumPy and the model leave the interpreter's lock while they work."""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = os.cpu_count() or 1
AT_A_TIME = 1 << 10

In = TypeVar("In")
Out = TypeVar("Out")


def in_threads(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """What a function gives for each item, in order, computed ahead on all cores.

    The function must not call `in_threads` itself: its threads could then wait for each other.
    """
    todo = list(items)
    return map(function, todo) if len(todo) < 2 else _pool().map(function, todo)


def stream_in_threads(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """The same for more items than are to be held at a time."""
    left = iter(items)
    while some := list(itertools.islice(left, AT_A_TIME)):
        yield from in_threads(function, some)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """One for the whole process, however many Beam threads there are."""
    return ThreadPoolExecutor(THREADS, "keyjoin")
