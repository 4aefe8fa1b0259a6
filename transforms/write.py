"""WritePart: reads a chunk's bytes again, puts each prediction into its row, and writes the part."""

import base64
import collections
import dataclasses
import gzip
import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import google_crc32c
import msgspec
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from transforms import files
from transforms.ahead import OneAhead
from transforms.errors import RunError
from transforms.formats import GZIP, Format
from transforms.predict import from_ipc
from transforms.records import BadRow, Chunk, Layout, PartReceipt, Predictions, Receipt, Rows, unpack_bad
from transforms.threads import in_threads

DEAD_LETTERS = "_dead_letter"
_TEXT = msgspec.json.Encoder().encode  # a JSON string, as bytes; ten times as fast as `json`


def write_part(receipt: Receipt, predictions: Predictions, fmt: Format, layout: Layout, output: str) -> PartReceipt:
    """Writes a chunk's part, and its dead letters if there are any.

    Raises:
        RunError: The source is not what it was when it was read, or a file cannot be written.
    """
    chunk = receipt.chunk
    data = files.read_range(chunk.data, chunk.start, chunk.end)
    if google_crc32c.value(data) != receipt.checksum:
        raise RunError(f"{chunk.source} changed during the run, in bytes {chunk.start} to {chunk.end}; run again")
    rows = fmt.rows(data, first=chunk.start == 0)
    good = np.ones(len(rows.starts), np.bool_)
    unread = unpack_bad(receipt.bad)
    good[[bad.row for bad in unread]] = False
    numbers = np.flatnonzero(good)
    unscored = [bad._replace(row=int(numbers[bad.row])) for bad in unpack_bad(predictions.bad)]
    good[[bad.row for bad in unscored]] = False
    joined = fmt.write(chunk, data, rows, good, from_ipc(predictions.columns), layout)
    dead = sorted([*unread, *unscored, *joined.bad])
    blocks = _gzip(joined.blocks) if chunk.part.endswith(GZIP) else joined.blocks
    part = files.write_whole(files.join(output, chunk.part), blocks)
    letters = files.in_blocks(_letters(chunk, data, rows, dead))
    dead_bytes = files.write_whole(files.join(output, letters_name(chunk.part)), letters).bytes if dead else 0
    return PartReceipt(
        chunk,
        receipt.rows,
        receipt.blank,
        receipt.rows - len(dead),
        dict(collections.Counter(bad.reason for bad in dead)),
        *part,
        dead_bytes,
        len(pickle.dumps((receipt, predictions), pickle.HIGHEST_PROTOCOL)),
    )


def _gzip(blocks: Iterable[Any]) -> Iterator[bytes]:
    """A gzip file of a member a block; without times in it, so that the same rows give the same bytes."""
    return in_threads(lambda block: gzip.compress(block, mtime=0), list(blocks) or [b""])


def letters_name(part: str) -> str:
    """Where the dead letters of a part are, relative to the output folder.

    >>> letters_name("sub/a-00000-of-00001.jsonl")
    '_dead_letter/sub/a-00000-of-00001.jsonl'
    """
    stem = part.removesuffix(".gz").rpartition(".")[0]
    suffix = part[len(stem) :]
    return f"{DEAD_LETTERS}/{stem}{suffix if suffix == '.jsonl' else suffix + '.jsonl'}"


def _letters(chunk: Chunk, data: bytes, rows: Rows, dead: Sequence[BadRow]) -> Iterator[bytes]:
    """The dead letters of rows, each a line without its newline."""
    numbers = [bad.row for bad in dead]
    source = _TEXT(chunk.source)
    for bad, start, end in zip(dead, rows.starts[numbers].tolist(), rows.ends[numbers].tolist(), strict=True):
        raw, position = data[start:end], chunk.start + start
        try:
            row, encoding = raw.decode(), b"utf-8"
        except UnicodeDecodeError:
            row, encoding = base64.b64encode(raw).decode(), b"base64"
        yield (
            b'{"key": %b#%d", "source": %b, "position": %d, "stage": %b, "reason": %b, "message": %b, '
            b'"row": %b, "row_encoding": "%b"}'
            % (
                source[:-1],
                position,
                source,
                position,
                _TEXT(bad.stage),
                _TEXT(bad.reason),
                _TEXT(bad.message),
                _TEXT(row),
                encoding,
            )
        )


@dataclasses.dataclass(eq=False)
class WritePart(beam.PTransform[beam.PCollection[tuple[Receipt, Predictions]], beam.PCollection[PartReceipt]]):
    """Writes parts and dead letters.

    Input:  PCollection[tuple[Receipt, Predictions]]
    Output: PCollection[PartReceipt], one for each input
    """

    format: Format
    layout: Layout
    output: str

    def expand(self, chunks: beam.PCollection[tuple[Receipt, Predictions]]) -> beam.PCollection[PartReceipt]:
        """Wires the step."""
        return chunks | "WritePart" >> beam.ParDo(_Write(self.format, self.layout, self.output))


class _Write(beam.DoFn):
    def __init__(self, fmt: Format, layout: Layout, output: str) -> None:
        self.format, self.layout, self.output = fmt, layout, output
        self.joined = Metrics.counter("ledger", "rows_joined")
        self.dead = Metrics.counter("ledger", "rows_dead_lettered")

    def start_bundle(self) -> None:
        self.ahead = OneAhead(self._write)

    def _write(self, element: tuple[Receipt, Predictions]) -> PartReceipt:
        receipt, predictions = element
        return write_part(receipt, predictions, self.format, self.layout, self.output)

    def process(self, element: tuple[Receipt, Predictions]) -> Iterator[PartReceipt]:
        yield from map(self._counted, self.ahead.put(element))

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(GlobalWindows.windowed_value, map(self._counted, self.ahead.rest()))

    def _counted(self, part: PartReceipt) -> PartReceipt:
        self.joined.inc(part.joined)
        self.dead.inc(sum(part.dead.values()))
        return part
