"""Reads, scores and writes the first rows in memory before a run, and measures what each of these steps takes.

The run's own functions do the steps, so that the figures include what the format, the model and the flags cost.
"""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.model.model_process import process
from pipeline.plan.memory import peak_bytes
from pipeline.plan.probe import ProbeError, probe
from pipeline.plan.read_sample import Head
from pipeline.plan.sample import Sample
from transforms import columns
from transforms.errors import ModelError, RunError, UsageError
from transforms.formats.base import Block, Format, Reader
from transforms.mapping import partitions
from transforms.predict import KeyedChunkHandler, to_ipc
from transforms.records import BadRow, Chunk, Feature, Layout, Predictions, Source, Unit, pack_bad
from transforms.saved_model.model import Arrays, Model
from transforms.saved_model.output_shapes import is_open
from transforms.scoring.groups import LATE, Group, largest
from transforms.scoring.score import filled_up_to, score
from transforms.split_into_chunks import open_plain
from transforms.storage import compression, files
from transforms.threads import THREADS
from transforms.write_part import join_rows

BYTES = 1 << 20  # of the rows that are read and written; a run reads chunks of 64 times as many
# The same for formats that copy whole row groups, and take tens of milliseconds to decode a few rows of one.
GROUP_BYTES = {"parquet": 1 << 24}
SHORT_SECONDS = 0.02  # a shorter step is repeated, since the first call of a library takes longer
MOST_SECONDS = 1.0  # no call is made that would take longer, if its time grows as its rows do
STEP = 8  # times the rows of the call before
PREFIX = 1 << 20  # first bytes of a compressed file, from which its ratio follows

Out = TypeVar("Out")


class Calls(msgspec.Struct, frozen=True):
    """Calls of the model with one number of rows, one call on each core at a time, as in a local run.

    Attributes:
        rows: Rows of a call.
        rows_a_second: Rows that all calls together scored in a second.
        peak_bytes: The most memory that the model process has taken so far; None if the system does not report it.
    """

    rows: int
    rows_a_second: float
    peak_bytes: int | None


class Trial(NamedTuple):
    """What the first rows took.

    Attributes:
        rows: How many rows were read and written.
        bytes: Their size in the decompressed source.
        read_seconds: Seconds of one thread until they were the model's inputs.
        write_seconds: Seconds of one thread to join, encode and compress them.
        written: The size of their part in bytes.
        calls: Calls of the model by their numbers of rows, ascending. The largest one has the rows of the run, unless
            it would take longer than `MOST_SECONDS`.
        expansion: Bytes of decompressed input for each stored byte, of compressed sources.
        unit: The unit of positions in sources.
    """

    rows: int
    bytes: float
    read_seconds: float
    write_seconds: float
    written: int
    calls: tuple[Calls, ...]
    expansion: float
    unit: Unit

    @property
    def rows_a_second(self) -> float:
        """Rows that the model scores in a second, in calls of the size of the run as far as they were measured."""
        return self.calls[-1].rows_a_second

    def plain_bytes(self, sources: Sequence[Source]) -> float:
        """Returns the decompressed size of the rows to read of sources."""
        return sum(self._plain_bytes(source) for source in sources)

    def _plain_bytes(self, source: Source) -> float:
        whole = source.size * (self.expansion if source.codec else 1)
        if source.end is None:
            return whole
        return min(whole, source.end * (self.bytes / self.rows if self.unit == "row" else 1))


def measure(
    sample: Sample, handler: KeyedChunkHandler, model: Model, fmt: Format, layout: Layout, chunk_bytes: int
) -> Trial | None:
    """Reads, scores and writes the first rows in memory. The calls may change the state of the model.

    Args:
        sample: The first rows.
        handler: The handler that will call the model in the run.
        model: The model.
        fmt: The reader of the input and the writer of the parts.
        layout: The fields of an output row.
        chunk_bytes: Bytes of input of a chunk.

    Returns:
        What the steps took; None if no row is good, or the model or a step raised an error.
    """
    head = sample.head
    if head is None:
        return None
    with contextlib.suppress(ProbeError, RunError, UsageError):
        read_seconds, read = _faster(lambda: _read(head, fmt.reader, handler.features))
        group = largest(read.inputs, handler.features) if read.inputs.num_rows else None
        if group is None:
            return None
        rows = sample.call_rows(handler.batch_size, chunk_bytes, _filled_up_to(handler, group))
        made = list(_calls(model, handler, group, rows))
        predictions = _columns(made[-1][1], handler)
        if not predictions.num_rows:
            return None
        some = predictions.take(pa.array(np.arange(read.inputs.num_rows) % predictions.num_rows))
        write_seconds, written = _faster(lambda: _write(read, some, fmt, layout, head.source))
        count = len(read.block.positions)
        stored = head.block.stored * count / len(head.block.positions)
        calls = tuple(calls for calls, _ in made)
        return Trial(
            count, stored, read_seconds, write_seconds, written, calls, _expansion(head.source), fmt.reader.unit
        )
    return None


def _filled_up_to(handler: KeyedChunkHandler, group: Group) -> int:
    return filled_up_to(handler.contract, group.arrays, handler.batch_size, handler.weights)


def _calls(model: Model, handler: KeyedChunkHandler, group: Group, most: int) -> Iterator[tuple[Calls, Arrays]]:
    """Calls the model with few rows, then with more and more, up to `most`, or until a call would take too long.

    Yields:
        The calls with each number of rows, and their predictions.
    """
    probed, rows, seconds = probe(model, ModelError), min(_filled_up_to(handler, group), most), 0.0
    while True:
        speed = 0.0
        # The first call with a number of rows may take longer. Then there are as many at a time as in a run.
        for count in (rows, rows * THREADS):
            arrays = _repeated(group, count)
            started = time.perf_counter()
            scored = score(probed, handler.contract, arrays, count, rows, keep_non_finite=True)
            seconds = time.perf_counter() - started
            speed = max(speed, count / seconds)
        yield Calls(rows, speed, peak_bytes(process().pid)), scored.outputs
        more = min(rows * STEP, most)
        if more == rows or seconds * more / rows > MOST_SECONDS:
            return
        rows = more


def _repeated(group: Group, count: int) -> dict[str, Any]:
    """Returns the inputs of `count` rows: those of the group, in turns."""
    which = np.arange(count) % len(group.numbers)
    found: Mapping[str, Any] = group.arrays
    return {name: array.take(which) if isinstance(array, LATE) else array[which] for name, array in found.items()}


def _columns(outputs: Arrays, handler: KeyedChunkHandler) -> pa.RecordBatch:
    arrays = {
        tensor.name: columns.from_array(outputs[tensor.name], is_open=is_open(tensor))
        for tensor in handler.contract.predictions
    }
    return pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))


class _Rows(NamedTuple):
    block: Block
    inputs: pa.RecordBatch
    bad: list[BadRow]


def _faster(step: Callable[[], Out]) -> tuple[float, Out]:
    """Takes a step, and again if it was short. Returns the shorter time and the result."""
    times = list[float]()
    while len(times) < (2 if min(times, default=0) < SHORT_SECONDS else 1):
        started = time.perf_counter()
        made = step()
        times.append(time.perf_counter() - started)
    return min(times), made


def _read(head: Head, reader: Reader, features: Sequence[Feature]) -> _Rows:
    """Reads the first rows as the run reads a chunk."""
    with _first_chunk(head, reader) as (file, chunk):
        block = reader.load(file, chunk)
    return _Rows(block, *partitions.inputs(block, features))


def _write(read: _Rows, predictions: pa.RecordBatch, fmt: Format, layout: Layout, source: Source) -> int:
    """Makes the part of the first rows, and returns its size in bytes."""
    made = Predictions(to_ipc(predictions), predictions.num_rows, pack_bad([]))
    joined, codec = join_rows(read.block, read.bad, made, fmt, layout), compression.codec_of(source.suffix)
    stored = compression.compressed(codec, joined.blocks) if codec else joined.blocks
    return sum(memoryview(block).nbytes for block in stored)


@contextlib.contextmanager
def _first_chunk(head: Head, reader: Reader) -> Iterator[tuple[Any, Chunk]]:
    """Opens the first rows of a source as one chunk. Where positions are bytes, the sample has their bytes."""
    source = head.source
    opened = (
        contextlib.nullcontext(io.BytesIO(head.text[: head.block.nbytes]))
        if reader.unit == "byte"
        else open_plain(source)
    )
    with opened as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        cut = next(iter(reader.split(file, size, GROUP_BYTES.get(reader.name, BYTES))))
        nbytes = None if reader.unit == "byte" else cut.bytes
        yield file, Chunk(source.path, source.path, 0, cut.end, 0, 1, f"part{source.suffix}", "", nbytes)


def _expansion(source: Source) -> float:
    """Returns the decompressed bytes for each stored byte at the start of a source; 1 if it is not compressed.

    A source that ends within these bytes gives the exact ratio.
    """
    if source.codec is None:
        return 1.0
    with files.open_raw(source.path) as stored:
        first = stored.read(PREFIX)
    plain = 0
    with contextlib.suppress(compression.DamagedError):  # the bytes end early
        for block in compression.blocks(io.BytesIO(first), source.codec):
            plain += len(block)
    return max(plain, 1) / max(len(first), 1)
