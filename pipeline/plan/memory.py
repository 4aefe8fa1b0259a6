"""Estimates the memory that a local run needs, and has the system keep the run within `--max_memory`.

Bounded is what a process cannot give back to the system: its private, writable memory (RLIMIT_DATA, see
setrlimit(2)); code that is mapped from files is not in it. Each of the two processes has its own share.
"""

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.model.model_process import process
from pipeline.plan.chunk_size import ChunkSize
from transforms.errors import UsageError

HELD = 4.0  # of --wave_bytes, for each byte of predictions: the rest of what a wave holds does not wait
# Bytes that a run holds at most (measured: benchmarks/NOTES.md) ...
CHUNK_BYTE = 4.0  # ... for each byte of a chunk and of its features, which may be Python objects
PREDICTION_BYTE = 16.0  # ... for each byte of a wave's predictions, which Beam encodes and which become text
PROCESS = 96 << 20  # ... for a process: the graph, threads, calls of the model


class Row(NamedTuple):
    """Bytes of a row.

    Attributes:
        text: In the input.
        features: As the model is called with it.
        predictions: As the model answers.
    """

    text: float
    features: float
    predictions: float


class Need(NamedTuple):
    """An estimate of what a run needs, in bytes.

    Attributes:
        own: Of keyjoin's process.
        model: Of the model's process.
    """

    own: int
    model: int

    @property
    def total(self) -> int:
        """Of both."""
        return self.own + self.model


def estimate(chunk: ChunkSize, row: Row, size: int, wave_bytes: int) -> Need | None:
    """Estimates what a run needs, from what its two processes have now; None where the system does not say that.

    Args:
        chunk: How large chunks are.
        row: What a row takes.
        size: Bytes of the whole input at most, decompressed.
        wave_bytes: See `--wave_bytes`.
    """
    if sys.platform != "linux":
        return None
    largest = min(chunk.bytes, size, math.inf if chunk.rows is None else round(chunk.rows * row.text))
    # A wave has at least a chunk, and may end half a one above its size.
    wave = min(wave_size(size, wave_bytes, row.predictions / row.text) + largest, size)
    held = CHUNK_BYTE * largest * (1 + row.features / row.text) + PREDICTION_BYTE * wave * row.predictions / row.text
    return Need(private_bytes("self") + PROCESS + round(held), private_bytes(str(process().pid)) + PROCESS)


@contextlib.contextmanager
def bounded(max_memory: int | None, need: Need | None, lower: str) -> Iterator[None]:
    """Keeps both processes within `--max_memory`, where it is given, as long as the context.

    Args:
        max_memory: See `--max_memory`.
        need: What the run needs.
        lower: The flags whose values make it need less.

    Raises:
        UsageError: It is less than that, or this system does not keep it.
    """
    if max_memory is None:
        yield
        return
    if need is None:
        raise UsageError(f"--max_memory={max_memory} is kept by Linux only; leave it out")
    if need.total > max_memory:
        raise UsageError(
            f"--max_memory={max_memory} is less than the {need.total} bytes that this run needs, as estimated; "
            f"give it so many, or lower {lower}"
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
    """How much of an input goes into a wave: all of one that is less than two of them, since each costs a graph.

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
    """Private, writable memory of a process, which RLIMIT_DATA bounds; 0 if the process has ended.

    A sampled row can end the model process. The run then reports which row it was.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData:")), 0)


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
    """Whether what a step raised says that there was no memory: by its type, or where a runner has only its text."""
    text = str(error)
    return isinstance(error, MemoryError) or "MemoryError" in text or "can't start new thread" in text
