"""Runs functions in threads, with one thread for each processor that this process may use.

Threads make the work inside a chunk faster, because Arrow, NumPy and the model release the interpreter's lock (GIL).
"""

import contextlib
import functools
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def processors(root: Path = Path("/")) -> int:
    """Counts the processors that this process may use, by its affinity and the limits of its control groups.

    A container with a limit of two processors on a machine with 64 gets two. A fraction of a processor counts as one.
    See sched_setaffinity(2), and `cpu.max` in https://docs.kernel.org/admin-guide/cgroup-v2.html.

    Args:
        root: The folder that holds `proc` and `sys`.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _cgroup_limits(root))]))


def _cgroup_limits(root: Path) -> Iterator[float]:
    """Yields the processor limit of each control group (version 1 and 2), from this process's group up to the root."""
    with contextlib.suppress(OSError):  # not Linux, or control groups are not mounted
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, _, group_path = line.partition(":")
            controllers, _, path = group_path.partition(":")
            if number != "0" and "cpu" not in controllers.split(","):
                continue
            mounted = root / "sys/fs/cgroup" / controllers
            group = mounted / path.lstrip("/")
            for folder in (group, *group.parents):
                if not folder.is_relative_to(mounted):
                    break
                with contextlib.suppress(OSError, ValueError):  # this group has no limit: "max", or -1
                    quota, period = _quota(folder, number == "0")
                    if quota > 0:
                        yield quota / period


def _quota(folder: Path, is_version_2: bool) -> tuple[int, int]:
    """Returns the microseconds of processor time allowed in each period, and the microseconds of a period."""
    if is_version_2:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota), int(period)
    return int((folder / "cpu.cfs_quota_us").read_text()), int((folder / "cpu.cfs_period_us").read_text())


THREADS = processors()
AHEAD = 2 * THREADS


def in_threads(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Yields a function's result for each item, in order. All processors work, up to `AHEAD` items ahead.

    The bound keeps results from piling up in memory while the consumer waits for a disk. The function must not call
    `in_threads` itself: the threads of the shared pool could then wait for each other.
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
    """Returns the one pool of this process, which all Beam threads share."""
    return ThreadPoolExecutor(THREADS, "keyjoin")
