"""Counts the cost of a chunk in lines of Python, objects and bytes; not in seconds, which depend on other load."""

import gc
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from tests.conftest import ROOT
from transforms import threads

OWN = f"{ROOT}/transforms/"
VISITS = 8  # limits how often each instruction counts objects, because counting is slow


class Steps(NamedTuple):
    """The counts of an execution.

    Attributes:
        lines: Executed lines of keyjoin's transforms. Each turn of a loop or of a comprehension counts again.
        calls: Calls of Python functions of any module. They reveal a loop over rows inside a library, which calls some.
        objects: The most Python objects of up to 512 bytes that existed at once, without those that existed before.
    """

    lines: int
    calls: int
    objects: int


class _InTurn:
    """A pool without threads, because only this thread is traced. It makes as many results ahead as a pool may."""

    def submit(self, function: Callable[[Any], Any], item: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(item))
        return done


@contextmanager
def in_turn() -> Iterator[None]:
    """Processes the slices of a chunk in this thread, one after another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "_pool", _InTurn)
        patch.setattr(threads, "AHEAD", 4)  # the value on two cores
        yield


def steps(function: Callable[[], Any]) -> Steps:
    """Counts what a function executes in this thread."""
    lines = calls = 0
    # For each function, the visits of each instruction; a bytearray, because other objects would be counted.
    visits: dict[Any, bytearray] = {}
    before = most = 0

    def on_line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines, most
        lines += event == "line"
        seen = visits[frame.f_code]
        if event == "return" or seen[frame.f_lasti] >= VISITS:
            frame.f_trace_opcodes = False
        else:
            seen[frame.f_lasti] += 1
            most = max(most, sys.getallocatedblocks())
        return on_line

    def on_call(frame: FrameType, *_: Any) -> Any:
        nonlocal calls
        calls += 1
        code = frame.f_code
        if not code.co_filename.startswith(OWN):
            return None
        seen = visits.setdefault(code, bytearray(len(code.co_code) + 1))
        # Count within a line, too: objects that a library makes for all rows may be freed before the line ends.
        # Python
        # 3.13 does not trace instructions in the first frames; objects there show in the memory peak instead.
        frame.f_trace_opcodes = seen[-1] < VISITS
        seen[-1] += frame.f_trace_opcodes
        return on_line

    outer = sys.gettrace()
    gc.disable()  # a collection of earlier garbage would lower the count
    before = most = sys.getallocatedblocks()
    sys.settrace(on_call)
    try:
        kept = function()
        most = max(most, sys.getallocatedblocks())
    finally:
        sys.settrace(outer)
        gc.enable()
    del kept
    return Steps(lines, calls, most - before)


# Arrow's memory refers to the pool that it is from, so a pool must live until all its memory is freed.
_pools: list[pa.MemoryPool] = []


def peak(function: Callable[[], Any]) -> int:
    """Returns the most bytes that a function and its result hold: the peak of Python and NumPy, plus that of Arrow."""
    outer = pa.default_memory_pool()
    _pools.append(pa.proxy_memory_pool(outer))
    pa.set_memory_pool(_pools[-1])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = function()
        most = tracemalloc.get_traced_memory()[1] - before
        del kept
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(outer)
    return most + _pools[-1].max_memory()


ANY, TRANSFORMS = "any", "transforms"


@contextmanager
def called() -> Iterator[Counter[str]]:
    """Counts calls of Python functions in this thread and in threads that it starts: all, and those of keyjoin."""
    found: Counter[str] = Counter()

    def on_call(frame: FrameType, *_: Any) -> None:
        found[ANY] += 1
        found[TRANSFORMS] += frame.f_code.co_filename.startswith(OWN)

    outer = sys.gettrace()
    threading.settrace(on_call)
    sys.settrace(on_call)
    try:
        yield found
    finally:
        sys.settrace(outer)
        threading.settrace(outer)  # type: ignore[arg-type]
