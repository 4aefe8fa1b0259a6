"""Writes the part of each chunk: reads the chunk again, joins each prediction to its row, and writes the file."""

import collections
import dataclasses
import io
import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from transforms import statistics
from transforms.dead_letters import dead_letter_lines
from transforms.errors import RunError
from transforms.formats import convert
from transforms.formats.base import Block, Format, Joined
from transforms.line_numbers import Lines
from transforms.mapping import defaults
from transforms.predict import from_ipc
from transforms.prefetch import Ahead
from transforms.read_chunk import load_chunk
from transforms.reasons import DEAD_LETTERS
from transforms.records import BadRow, Chunk, Layout, PartReceipt, Predictions, Receipt, unpack_bad, without
from transforms.storage import files
from transforms.storage.compression import codec_of, compressed, plain_name
from transforms.write_receipts import write_receipt

# Counters of Beam's metrics: a namespace, names, and the begin of the names with the reason of dead letters.
LEDGER, ROWS_JOINED, BYTES_JOINED, DEAD_PREFIX = "ledger", "rows_joined", "bytes_joined", "dead_letters_"
AT_ONCE = 2  # parts at once: while one waits for the disk, the next one is made


def write_part(
    receipt: Receipt, predictions: Predictions, fmt: Format, layout: Layout, output: str, temp: str, lines: Lines
) -> PartReceipt:
    """Writes a chunk's part, then its dead letters if there are any, then the receipt that proves both.

    A retry of the same chunk writes the same bytes to the same names. An earlier attempt may have written dead letters
    where this one has none. That file is then an unexpected file, which the commit of the run deletes.

    Args:
        receipt: The receipt of ReadChunk.
        predictions: The predictions of the chunk's good rows.
        fmt: The reader of the source and the writer of the part.
        layout: The fields of an output row.
        output: Output folder.
        temp: Folder for files that are deleted after the run; the receipt goes there.
        lines: The counter of the sources' lines.

    Returns:
        The receipt of what was written.

    Raises:
        RunError: The source changed after ReadChunk read it, or a file cannot be written.
    """
    chunk = receipt.chunk
    block = load_chunk(chunk, fmt.reader)
    if block.checksum != receipt.checksum:
        where = f"in {fmt.reader.unit}s {chunk.start} to {chunk.end}"
        raise RunError(f"{chunk.source} changed during the run, {where}; run again")
    unread = unpack_bad(receipt.bad)
    joined = join_rows(block, unread, predictions, fmt, layout)
    dead = joined.bad
    numbers = lines.numbers(chunk, block, [one.row for one in dead]) if dead else ()
    written = dead_letter_lines(block, dead, numbers)
    part, dead_written = write_files(output, chunk, joined.blocks, written, dead=bool(dead))
    made = PartReceipt(
        chunk,
        receipt.checksum,
        receipt.rows,
        receipt.blank,
        receipt.rows - len(dead),
        dict(collections.Counter(one.reason for one in dead)),
        *part,
        *dead_written,
        _pickled_bytes((receipt._replace(chunk=chunk._replace(version="")), predictions)),
        filled=count_filled(receipt.filled, receipt.rows, unread, dead),
        statistics=count_part(predictions, receipt.rows, unread, dead, layout),
        saved=predictions.saved,
    )
    write_receipt(temp, made)
    return made


def join_rows(block: Block, unread: Sequence[BadRow], predictions: Predictions, fmt: Format, layout: Layout) -> Joined:
    """Joins the predictions to the rows that they were made from.

    Args:
        block: The rows.
        unread: The rows that could not go into the model, in order.
        predictions: The predictions of the other rows.
        fmt: The reader of the rows and the writer of the part.
        layout: The fields of an output row.

    Returns:
        The joined rows. `bad` holds all rows that are not joined, in order, from every stage.
    """
    bad = sorted([*unread, *_unscored(predictions, len(block.positions), unread)])
    columns = from_ipc(predictions.columns)
    if fmt.is_spliced:
        joined = fmt.writer.write(block, bad, columns, layout)
    else:
        joined = convert.write(block, bad, columns, layout, fmt)
    return Joined(joined.blocks, sorted([*bad, *joined.bad]))


def _unscored(predictions: Predictions, rows: int, unread: Sequence[BadRow]) -> list[BadRow]:
    numbers = without(rows, unread)
    return [bad._replace(row=int(numbers[bad.row])) for bad in unpack_bad(predictions.bad)]


def count_part(
    predictions: Predictions, rows: int, unread: Sequence[BadRow], dead: Sequence[BadRow], layout: Layout
) -> tuple[bytes, ...]:
    """Counts the predictions of the joined rows.

    Args:
        predictions: The predictions of the scored rows, with the counts of their inputs.
        rows: How many rows there are, good and bad.
        unread: The rows that could not go into the model.
        dead: The rows that are not joined, `unread` included.
        layout: The names of the predictions.

    Returns:
        The counts of the inputs, and those of the predictions, each packed. None of those that count no row.
    """
    unscored = [*unread, *_unscored(predictions, rows, unread)]
    kept = None
    if len(dead) > len(unscored):
        kept = ~np.isin(without(rows, sorted(unscored)), [one.row for one in dead])
    made = statistics.count_predictions(from_ipc(predictions.columns), layout.predictions, kept)
    return tuple(packed for packed in (predictions.features, statistics.pack(made)) if packed)


def count_filled(
    packed: Sequence[tuple[str, bytes]], rows: int, unread: Sequence[BadRow], dead: Sequence[BadRow]
) -> dict[str, int]:
    """Counts the joined rows that take the default of a field, by field.

    Args:
        packed: Which of the rows that went into the model take the default, packed by `defaults.pack`.
        rows: How many rows there are, good and bad.
        unread: The rows that could not go into the model.
        dead: The rows that are not joined, `unread` included.
    """
    if not packed:
        return {}
    return defaults.count(packed, ~np.isin(without(rows, unread), [one.row for one in dead]))


def write_files(
    output: str, chunk: Chunk, blocks: Iterable[Any], lines: Iterable[bytes], *, dead: bool
) -> tuple[files.Written, files.Written]:
    """Writes a part, and its dead letters if there are any.

    Returns:
        Size and checksum of the part, and of the dead letter file (`files.NOTHING` if there is none).

    Raises:
        RunError: A file cannot be written.
    """
    codec = codec_of(chunk.part)
    stored = compressed(codec, blocks) if codec else blocks
    part = files.write_whole(files.below(output, chunk.part), stored)
    if not dead:
        return part, files.NOTHING
    return part, files.write_whole(files.below(output, dead_letters_name(chunk.part)), files.in_blocks(lines))


def _pickled_bytes(value: Any) -> int:
    """Returns the pickled size of a value that crosses the join. It is the same on each runner and in each attempt."""
    pickled = io.BytesIO()
    pickler = pickle.Pickler(pickled, pickle.HIGHEST_PROTOCOL)
    pickler.fast = True  # no memo: else the size would depend on which fields are one object in this process
    pickler.dump(value)
    return pickled.tell()


def written_of(part: PartReceipt) -> Iterator[tuple[str, files.Written]]:
    """Yields name, size and checksum of each file that a receipt proves: the part, and its dead letters if any."""
    yield part.chunk.part, files.Written(part.bytes, part.checksum)
    if part.dead:
        yield dead_letters_name(part.chunk.part), files.Written(part.dead_bytes, part.dead_checksum)


def dead_letters_name(part: str) -> str:
    """Returns the path of a part's dead letters, relative to the output folder.

    >>> dead_letters_name("sub/a-00000-of-00001.jsonl")
    '_keyjoin/dead_letters/sub/a-00000-of-00001.jsonl'
    """
    stem = plain_name(part).rpartition(".")[0]
    suffix = part[len(stem) :]
    return f"{DEAD_LETTERS}/{stem}{suffix if suffix == '.jsonl' else suffix + '.jsonl'}"


@dataclasses.dataclass(eq=False)
class WritePart(beam.PTransform[beam.PCollection[tuple[Receipt, Predictions]], beam.PCollection[PartReceipt]]):
    """Writes parts and dead letters.

    Input:  PCollection[tuple[Receipt, Predictions]]
    Output: PCollection[PartReceipt], one for each input
    """

    format: Format
    layout: Layout
    output: str
    temp: str

    def expand(self, chunks: beam.PCollection[tuple[Receipt, Predictions]]) -> beam.PCollection[PartReceipt]:
        """Wires the step."""
        return chunks | "WritePart" >> beam.ParDo(_Write(self.format, self.layout, self.output, self.temp))


class _Write(beam.DoFn):
    def __init__(self, fmt: Format, layout: Layout, output: str, temp: str) -> None:
        self.format, self.layout, self.output, self.temp = fmt, layout, output, temp
        self.joined = Metrics.counter(LEDGER, ROWS_JOINED)
        self.dead = Metrics.counter(LEDGER, "rows_dead_lettered")
        self.bytes = Metrics.counter(LEDGER, BYTES_JOINED)

    def setup(self) -> None:
        self.lines = Lines(self.format.reader.traits.line_end)

    def start_bundle(self) -> None:
        self.ahead = Ahead(self._write, AT_ONCE)

    def _write(self, element: tuple[Receipt, Predictions]) -> PartReceipt:
        receipt, predictions = element
        return write_part(receipt, predictions, self.format, self.layout, self.output, self.temp, self.lines)

    def process(self, element: tuple[Receipt, Predictions]) -> Iterator[PartReceipt]:
        yield from map(self._counted, self.ahead.put(element))

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(GlobalWindows.windowed_value, map(self._counted, self.ahead.rest()))

    def _counted(self, part: PartReceipt) -> PartReceipt:
        self.joined.inc(part.joined)
        self.dead.inc(sum(part.dead.values()))
        self.bytes.inc(part.chunk.nbytes)
        for reason, rows in part.dead.items():
            Metrics.counter(LEDGER, f"{DEAD_PREFIX}{reason}").inc(rows)
        return part
