"""Estimates the memory that a local run needs, and limits the run to `--max_memory`.

The system enforces the limit on the private, writable memory of a process (RLIMIT_DATA, see setrlimit(2)). Code that is
mapped from files does not count. keyjoin's process and the model process each have a limit of their own.
"""

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.model.model_process import process
from pipeline.plan.chunk_size import ChunkSize
from pipeline.terminal import amounts
from transforms.errors import UsageError

HELD = 4.0  # bytes of --wave_bytes for each byte of predictions: these wait in Beam for their join, other data does not
# The most bytes that a run holds (measured: benchmarks/NOTES.md) ...
CHUNK_BYTE = 4.0  # ... for each byte of a chunk and of its features, which may be Python objects
PREDICTION_BYTE = 16.0  # ... for each byte of a wave's predictions, which Beam encodes and the run turns into text
RESIDENT = 0.5  # the share of these bytes that are in memory at the same time
PROCESS = 96 << 20  # ... for each process: the Beam graph, threads, calls of the model


class Row(NamedTuple):
    """The bytes of a row.

    Attributes:
        text: Bytes in the input.
        features: Bytes of the arrays that the model is called with.
        predictions: Bytes of its predictions.
    """

    text: float
    features: float
    predictions: float


class Need(NamedTuple):
    """The estimated memory of a run.

    Attributes:
        own: Bytes of keyjoin's process.
        model: Bytes of the model process.
        resident: Bytes of both processes that are in memory at the peak of the run. The others count what the system
            limits, and much of that is never used.
    """

    own: int
    model: int
    resident: int

    @property
    def total(self) -> int:
        """The bytes of both processes."""
        return self.own + self.model


def estimate(chunk: ChunkSize, row: Row, size: int, expected: float, wave_bytes: int) -> Need | None:
    """Estimates the memory of a run, from the present memory of its two processes.

    Args:
        chunk: The size of chunks.
        row: The bytes of a row.
        size: The most bytes that the whole input may have, decompressed.
        expected: About how many bytes it has, decompressed.
        wave_bytes: See `--wave_bytes`.

    Returns:
        The estimate; None on systems other than Linux, where the memory of a process is not known.
    """
    if sys.platform != "linux":
        return None
    own, model = "self", str(process().pid)
    held = round(_held(chunk, row, size, wave_bytes))
    in_use = RESIDENT * _held(chunk, row, round(min(expected, size)), wave_bytes)
    resident = resident_bytes(own) + resident_bytes(model) + round(in_use)
    return Need(private_bytes(own) + PROCESS + held, private_bytes(model) + PROCESS, resident)


def _held(chunk: ChunkSize, row: Row, size: int, wave_bytes: int) -> float:
    """Returns the bytes that a run holds of its rows, for an input of `size` bytes."""
    largest = min(chunk.bytes, size, math.inf if chunk.rows is None else round(chunk.rows * row.text))
    # A wave has at least one chunk, and may exceed its size by half a chunk.
    wave = min(wave_size(size, wave_bytes, row.predictions / row.text) + largest, size)
    return CHUNK_BYTE * largest * (1 + row.features / row.text) + PREDICTION_BYTE * wave * row.predictions / row.text


@contextlib.contextmanager
def bounded(max_memory: int | None, need: Need | None, lower: str) -> Iterator[None]:
    """Limits both processes to `--max_memory` until the context ends. The processes share the spare memory equally.

    Args:
        max_memory: See `--max_memory`; None sets no limit.
        need: The estimated memory of the run.
        lower: The flags whose lower values make the run need less, for the message.

    Raises:
        UsageError: The limit is less than the estimate, or this system cannot enforce it.
    """
    if max_memory is None:
        yield
        return
    if need is None:
        raise UsageError(f"--max_memory={max_memory} is kept by Linux only; leave it out")
    if need.total > max_memory:
        enough = f"{math.ceil(need.total / 1e6)}MB"
        raise UsageError(
            f"--max_memory={max_memory} ({amounts.size(max_memory)}) is less than the {enough} that this run needs, as "
            f"estimated; give --max_memory={enough}, or lower {lower}"
        )
    spare = max_memory - need.total
    started = process()
    started.limit(need.model + spare // 2)
    try:
        with _limited(need.own + spare // 2):
            yield
    finally:
        started.limit(None)


def wave_size(size: int, wave_bytes: int, predictions: float) -> int:
    """Returns the bytes of input of a wave. An input of less than two waves becomes one, since each costs a Beam graph.

    Args:
        size: Bytes of the input.
        wave_bytes: See `--wave_bytes`.
        predictions: Bytes of predictions for each byte of input.

    >>> wave_size(15, 8, 0.0), wave_size(16, 8, 0.0), wave_size(16, 8, 1.0)
    (15, 8, 2)
    """
    most = max(1, round(wave_bytes / (1 + HELD * predictions)))
    return size if most < size < 2 * most else most


def private_bytes(pid: int | str) -> int:
    """Returns the bytes of a process's private, writable memory, which RLIMIT_DATA limits; 0 if the process has ended.

    A sampled row can end the model process. The run then reports which row it was.
    """
    return _status(pid, "VmData") or 0


def resident_bytes(pid: int | str) -> int:
    """Returns the bytes of a process that are in memory now; 0 if the process has ended."""
    return _status(pid, "VmRSS") or 0


def peak_bytes(pid: int) -> int | None:
    """Returns the most bytes of a process that were resident at a time; None if it has ended, or not on Linux."""
    return _status(pid, "VmHWM")


def _status(pid: int | str, field: str) -> int | None:
    """Returns a size in bytes from a process's status, see proc_pid_status(5); None if there is none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return None
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(f"{field}:")), None)


@contextlib.contextmanager
def _limited(size: int) -> Iterator[None]:
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def is_short(error: BaseException) -> bool:
    """Returns whether a step lacked memory, by the error's type or text: some runners keep only the text."""
    text = str(error)
    return isinstance(error, MemoryError) or "MemoryError" in text or "can't start new thread" in text
