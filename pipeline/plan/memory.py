"""What a local run may have of memory: how much it will need, and bounds that the system keeps.

Bounded is what a process cannot give back to the system: its private, writable memory (RLIMIT_DATA, see
setrlimit(2)); code that is mapped from files is not in it. Each of the two processes has its own share.
"""

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.model.model_process import EndedError, process
from pipeline.options.run_options import RunOptions
from pipeline.plan.chunk_size import ChunkSize
from transforms import threads
from transforms.errors import UsageError
from transforms.formats.base import Format
from transforms.predict import KeyedChunkHandler
from transforms.saved_model.model import Arrays
from transforms.scoring.score import score

# Measured, benchmarks/NOTES.md: bytes that are held at most, beyond what is there before the first row ...
FEATURE_BYTE = 1.0  # ... for each byte of a chunk's features
PREDICTION_BYTE = 12.0  # ... for each byte of a chunk's predictions, which become text
WAVE_BYTE = 5.5  # ... for each byte of a wave's predictions, which wait for their join
HELD = 4.0  # of --wave_bytes, for each byte of predictions: the rest of what a wave holds does not wait
GRAPH = 100 << 20  # ... by Beam, and by the threads of a run
CALLS = 64 << 20  # ... by the model's process


class Need(NamedTuple):
    """What a run needs at least, in bytes.

    Attributes:
        now: What keyjoin's process has before the first row.
        model: What the model's process has after it was called with as many rows as in the run.
        chunk: For a chunk: its bytes, features and predictions.
        wave: For the predictions of a wave.
    """

    now: int
    model: int
    chunk: int
    wave: int

    @property
    def own(self) -> int:
        """Of keyjoin's process."""
        return self.now + GRAPH + self.chunk + self.wave

    @property
    def total(self) -> int:
        """Of both."""
        return self.own + self.model


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


@contextlib.contextmanager
def bounded(
    options: RunOptions,
    chunk: ChunkSize,
    handler: KeyedChunkHandler,
    fmt: Format,
    rows: Arrays | None,
    row_bytes: float,
    size: int,
) -> Iterator[None]:
    """Keeps both processes within `--max_memory`, where it is given, as long as the context.

    Args:
        options: What is run.
        chunk: How large chunks are.
        handler: The model, and what feeds it.
        fmt: Format of the input.
        rows: Some rows, as the model is called with them, or None if there are none.
        row_bytes: Bytes of a row in the input.
        size: Bytes of the whole input at most, decompressed.

    Raises:
        UsageError: It cannot be met.
    """
    if options.max_memory is None:
        yield
        return
    if sys.platform != "linux":
        raise UsageError(f"--max_memory={options.max_memory} is kept by Linux only; leave it out")
    started = process()
    least = need(options, chunk, fmt, Row(row_bytes, 0.0, 0.0), size)
    _check(options, chunk, handler, least)
    try:
        # Also what is measured is bounded: afterwards it would be too late.
        started.limit(options.max_memory - least.own)
        try:
            row = _measured(handler, rows, row_bytes)
        except EndedError as error:
            raise UsageError(
                f"--max_memory={options.max_memory} is too little for the model, whose process ended when it was "
                f"called with --batch_size={handler.batch_size} rows; lower that, or raise it"
            ) from error
        found = need(options, chunk, fmt, row, size)
        _check(options, chunk, handler, found)
        spare = options.max_memory - found.total
        started.limit(found.model + spare // 2)
        with _limited(found.own + spare // 2):
            yield
    finally:
        started.limit(None)


def need(options: RunOptions, size_of_chunk: ChunkSize, fmt: Format, row: Row, size: int) -> Need:
    """What a run needs at least.

    Args:
        options: What is run.
        size_of_chunk: How large chunks are.
        fmt: Format of the input.
        row: What a row takes.
        size: Bytes of the whole input at most, decompressed.
    """
    rows = size_of_chunk.rows
    chunk = min(size_of_chunk.bytes, size, math.inf if rows is None else round(rows * row.text))
    # A wave has at least a chunk, and may end half a one above its size.
    wave = min(wave_size(size, options.wave_bytes, row.predictions / row.text) + chunk, size)
    of_rows = FEATURE_BYTE * row.features + PREDICTION_BYTE * row.predictions
    return Need(
        private_bytes("self"),
        private_bytes(str(process().pid)) + CALLS,
        round(chunk * (fmt.held_bytes + of_rows / row.text)),
        round(wave * WAVE_BYTE * row.predictions / row.text),
    )


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


def _measured(handler: KeyedChunkHandler, rows: Arrays | None, row_bytes: float) -> Row:
    """What a row takes, found by calling the model as often side by side, and with as many rows, as in the run."""
    if not rows:
        return Row(row_bytes, 0.0, 0.0)
    count = threads.THREADS * handler.batch_size
    many = {name: np.resize(array, (count, *array.shape[1:])) for name, array in rows.items()}
    scored = score(handler.load_model(), handler.contract, many, count, handler.batch_size, keep_non_finite=True)
    good = max(count - len(scored.bad), 1)
    return Row(row_bytes, _size(many.values()) / count, _size(scored.outputs.values()) / good)


def _size(arrays: Iterable[npt.NDArray[Any]]) -> int:
    return sum(sum(map(len, array.flat)) if array.dtype == object else array.nbytes for array in arrays)


def _check(options: RunOptions, chunk: ChunkSize, handler: KeyedChunkHandler, found: Need) -> None:
    if options.max_memory is not None and found.total > options.max_memory:
        raise UsageError(
            f"--max_memory={options.max_memory} is less than the {found.total} bytes that this run needs at least: "
            f"{found.now + GRAPH} for keyjoin and {found.model} for the model, {found.chunk} for a chunk "
            f"(--chunk_bytes={chunk.bytes}) and {found.wave} for what a wave predicts "
            f"(--wave_bytes={options.wave_bytes}); lower these, or --batch_size={handler.batch_size}, or raise it"
        )


def private_bytes(pid: int | str) -> int:
    """Private, writable memory of a process, which RLIMIT_DATA bounds."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) << 10


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
