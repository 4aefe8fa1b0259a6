"""Reads, scores and writes some rows in memory before a run, and measures what each of these steps takes.

The rows are those in the middles of thirds of the input, since the first ones may be of another size than the others:
files are sorted, and have long headers. Each place counts for a third of the bytes, so one large row changes little.
The run's own functions do the steps, so that the figures include what the format, the model and the flags cost.
"""

import contextlib
import functools
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.model.model_process import process
from pipeline.plan.memory import peak_bytes
from pipeline.plan.probe import ProbeError, probe
from pipeline.plan.sample import Sample
from pipeline.plan.spread_sample import Place, middles, rows_at
from transforms import columns
from transforms.errors import ModelError, RunError, UsageError
from transforms.formats.base import Block, Format, Reader
from transforms.mapping import partitions
from transforms.predict import KeyedChunkHandler, to_ipc
from transforms.records import BadRow, Feature, Layout, Predictions, Source, Unit, pack_bad
from transforms.saved_model.model import Arrays, Model
from transforms.saved_model.output_shapes import is_open
from transforms.scoring.groups import LATE, Group, largest
from transforms.scoring.score import filled_up_to, score
from transforms.storage import compression, files
from transforms.threads import THREADS
from transforms.write_part import join_rows

PLACES = 3
BYTES = 1 << 19  # of the rows of a place; a run reads chunks of 128 times as many
# The same for formats that copy whole row groups, and take tens of milliseconds to decode a few rows of one.
GROUP_BYTES = {"parquet": 1 << 23}
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
    """What some rows took. If a place has other rows than the next, `rows` and what follows are means by bytes.

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

    rows: float
    bytes: float
    read_seconds: float
    write_seconds: float
    written: float
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


class _Took(NamedTuple):
    """What the rows of one place took, for each byte of the decompressed source; see `Trial`."""

    rows: float
    read_seconds: float
    write_seconds: float
    written: float


def measure(
    sample: Sample,
    sources: Sequence[Source],
    handler: KeyedChunkHandler,
    model: Model,
    fmt: Format,
    layout: Layout,
    chunk_bytes: int,
) -> Trial | None:
    """Reads, scores and writes rows in memory. The calls may change the state of the model.

    Args:
        sample: The first rows.
        sources: The input files.
        handler: The handler that will call the model in the run.
        model: The model.
        fmt: The reader of the input and the writer of the parts.
        layout: The fields of an output row.
        chunk_bytes: Bytes of input of a chunk.

    Returns:
        What the steps took; None if no row is good, or the model or a step raised an error.
    """
    if sample.head is None:
        return None
    with contextlib.suppress(ProbeError, RunError, UsageError, OSError):  # the run reports what a source lacks
        read = [one for one in _read(sources, fmt.reader, handler.features) if one.inputs.num_rows]
        most = max((one.inputs for one in read), key=lambda inputs: inputs.num_rows, default=None)
        group = None if most is None else largest(most, handler.features)
        if group is None:
            return None
        rows = sample.call_rows(handler.batch_size, chunk_bytes, _filled_up_to(handler, group))
        made = list(_calls(model, handler, group, rows))
        predictions = _columns(made[-1][1], handler)
        if not predictions.num_rows:
            return None
        took = _Took(*map(fmean, zip(*(_written(one, predictions, fmt, layout) for one in read), strict=True)))
        size, calls = sum(one.bytes for one in read), tuple(calls for calls, _ in made)
        expansions = {source: _expansion(source) for source in {one.source for one in read}}
        return Trial(
            took.rows * size,
            size,
            took.read_seconds * size,
            took.write_seconds * size,
            took.written * size,
            calls,
            fmean(expansions[one.source] for one in read),
            fmt.reader.unit,
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
    """The rows of a place.

    Attributes:
        source: Their source.
        block: The rows.
        bytes: Their size in the decompressed source.
        inputs: The model's inputs of the good rows.
        bad: The bad rows.
        seconds: Seconds of one thread until they were inputs.
    """

    source: Source
    block: Block
    bytes: float
    inputs: pa.RecordBatch
    bad: list[BadRow]
    seconds: float


def _faster(step: Callable[[], Out]) -> tuple[float, Out]:
    """Takes a step, and again if it was short. Returns the shorter processor time of all threads, and the result.

    Processor time is the same on a busy machine. One interruption would be most of such a short time.
    """
    times = list[float]()
    while len(times) < (2 if min(times, default=0) < SHORT_SECONDS else 1):
        started = time.process_time()
        made = step()
        times.append(time.process_time() - started)
    return min(times), made


def _read(sources: Sequence[Source], reader: Reader, features: Sequence[Feature]) -> Iterator[_Rows]:
    """Reads rows of some places, as the run reads a chunk. Rows that stand for two places come twice."""
    window, found = GROUP_BYTES.get(reader.name, BYTES), dict[tuple[str, int], _Rows]()
    for source, at in middles(sources, PLACES, reader.unit):
        with contextlib.ExitStack() as stack:
            place = rows_at(source, at, reader, window, stack)
            if place is None:
                continue
            key = source.path, place.chunk.start
            if key not in found:
                seconds, (block, inputs, bad) = _faster(functools.partial(_load, place, reader, features))
                found[key] = _Rows(source, block, place.bytes, inputs, bad, seconds)
            yield found[key]


def _load(place: Place, reader: Reader, features: Sequence[Feature]) -> tuple[Block, pa.RecordBatch, list[BadRow]]:
    block = reader.load(place.file, place.chunk)
    return block, *partitions.inputs(block, features)


def _written(read: _Rows, predictions: pa.RecordBatch, fmt: Format, layout: Layout) -> _Took:
    """Makes the part of the rows of a place."""
    some = predictions.take(pa.array(np.arange(read.inputs.num_rows) % predictions.num_rows))
    seconds, written = _faster(lambda: _write(read, some, fmt, layout))
    return _Took(*(value / read.bytes for value in (len(read.block.positions), read.seconds, seconds, written)))


def _write(read: _Rows, predictions: pa.RecordBatch, fmt: Format, layout: Layout) -> int:
    """Makes the part of some rows, and returns its size in bytes."""
    made = Predictions(to_ipc(predictions), predictions.num_rows, pack_bad([]))
    joined, codec = join_rows(read.block, read.bad, made, fmt, layout), compression.codec_of(read.source.suffix)
    stored = compression.compressed(codec, joined.blocks) if codec else joined.blocks
    return sum(memoryview(block).nbytes for block in stored)


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
