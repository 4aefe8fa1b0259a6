"""Counts of what a chunk costs: lines of Python, objects, bytes; never seconds, so that nobody else's work shows."""

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
VISITS = 8  # of each instruction at which objects are counted, which takes long


class Steps(NamedTuple):
    """What was executed.

    Attributes:
        lines: Lines of keyjoin's transforms, once for each time: a turn of a loop, also of one in a comprehension, is a line.
        calls: Calls of functions written in Python, of any module: a loop over rows in a library shows by what it calls.
        objects: Python objects of up to 512 bytes that were there at a time, beyond those before.
    """

    lines: int
    calls: int
    objects: int


class _InTurn:
    """A pool without threads: what is traced is this one thread, and results are made as far ahead as may be."""

    def submit(self, function: Callable[[Any], Any], item: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(item))
        return done


@contextmanager
def in_turn() -> Iterator[None]:
    """Has slices of a chunk done in this thread, one after another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "_pool", _InTurn)
        patch.setattr(threads, "AHEAD", 4)  # as on two cores
        yield


def steps(function: Callable[[], Any]) -> Steps:
    """Counts what a function executes in this thread."""
    lines = calls = 0
    visits: dict[Any, bytearray] = {}  # of each instruction of a function; few objects, since objects are counted
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
        # Within a line, too: what a library makes of all rows may be gone again at its end. (Python 3.13 does not
        # tell of instructions in the first frames; there such objects show in the memory.)
        frame.f_trace_opcodes = seen[-1] < VISITS
        seen[-1] += frame.f_trace_opcodes
        return on_line

    outer = sys.gettrace()
    gc.disable()  # what others left behind would be collected meanwhile, and taken off
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


# Memory that Arrow allocated knows the pool that it is from, so none may end before all of it has.
_pools: list[pa.MemoryPool] = []


def peak(function: Callable[[], Any]) -> int:
    """Bytes that a function holds at most, what it returns included: Python's and NumPy's most, and Arrow's."""
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
    """Counts calls of functions written in Python, in this thread and in those that it starts: of any, and of keyjoin's."""
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
