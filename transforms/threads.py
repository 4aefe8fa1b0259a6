"""Runs functions in threads, as many as there are processors that this process may use.

Inside a chunk that pays: Arrow, NumPy and the model leave the interpreter's lock while they work.
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
    """How many processors this process may use: those of its affinity, and no more than its control groups allow.

    A container with two processors of a machine that has 64 gets two. See sched_setaffinity(2), and `cpu.max` in
    https://docs.kernel.org/admin-guide/cgroup-v2.html; half a processor counts as one.

    Args:
        root: Where `proc` and `sys` are.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _cgroup_limits(root))]))


def _cgroup_limits(root: Path) -> Iterator[float]:
    """The processors that each control group of this process allows, of version 1 and 2, from its own to the root's."""
    with contextlib.suppress(OSError):  # no Linux, or nothing mounted
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
                with contextlib.suppress(OSError, ValueError):  # no limit in this one: "max", or -1
                    quota, period = _quota(folder, number == "0")
                    if quota > 0:
                        yield quota / period


def _quota(folder: Path, is_version_2: bool) -> tuple[int, int]:
    """Microseconds of processor time in each period, and of a period."""
    if is_version_2:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota), int(period)
    return int((folder / "cpu.cfs_quota_us").read_text()), int((folder / "cpu.cfs_period_us").read_text())


THREADS = processors()
AHEAD = 2 * THREADS


def in_threads(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """What a function gives for each item, in order, computed on all processors, a few items ahead.

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
