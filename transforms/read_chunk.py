"""Reads each chunk: makes the model's inputs from its good rows, and a receipt that accounts for all of its rows."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from typing import IO, Any, Final, Literal

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from transforms import formats
from transforms.errors import PlaceError, RunError, about
from transforms.formats import foreign
from transforms.formats.base import Block, Reader
from transforms.line_numbers import Lines
from transforms.mapping import defaults, partitions
from transforms.prefetch import Ahead
from transforms.records import Chunk, Feature, Features, Receipt, pack_bad
from transforms.storage import files, versions
from transforms.storage.compression import Codec, detect

FEATURES = "features"
RECEIPTS: Final = "receipts"

TaggedReceipt = beam.pvalue.TaggedOutput[Literal["receipts"], tuple[str, Receipt]]


def load_chunk(chunk: Chunk, reader: Reader, fields: Collection[str] | None = None) -> Block:
    """Loads the rows of a chunk.

    Args:
        chunk: The chunk.
        reader: The reader of its format.
        fields: The fields that will be used; None for all.

    Raises:
        RunError: The chunk's file cannot be read, ends early, or is not the version that was planned.
    """
    with about(chunk.source), versions.open_chunk(chunk) as file:
        return reader.load(file, chunk, fields)


def checksum_now(file: IO[bytes], chunk: Chunk, reader: Reader) -> int | None:
    """Computes the checksum that a chunk's rows have now; None if the source ends before the end of the chunk.

    Args:
        file: The source, decompressed.
        chunk: The chunk.
        reader: The reader of its format.
    """
    try:
        return reader.load(file, chunk).checksum
    except RunError:
        return None


def read_chunk(chunk: Chunk, reader: Reader, features: tuple[Feature, ...]) -> tuple[Features, Receipt]:
    """Reads one chunk.

    Returns:
        The inputs of the good rows, and the receipt of all rows.

    Raises:
        RunError: The chunk's file cannot be read, ends early, is not the version that was planned, or has another
            format.
    """
    fields = [field for feature in partitions.in_rows(features) for field in feature.fields]
    block = load_chunk(chunk, reader, fields if all(feature.fields for feature in features) else None)
    with about(chunk.source), _with_line(chunk, reader):  # some blocks decode their rows now
        inputs, bad = partitions.inputs(block, features)
    if bad and chunk.start == 0 and not inputs.num_rows and reader.traits.line_end:
        _check_kind(chunk)
    filled = defaults.pack(inputs, features)
    receipt = Receipt(chunk, block.checksum, len(block.positions), block.blank, pack_bad(bad), filled)
    return Features(chunk.key, inputs), receipt


@contextlib.contextmanager
def _with_line(chunk: Chunk, reader: Reader) -> Iterator[None]:
    """Puts the line of the place before the message of a `PlaceError`."""
    try:
        yield
    except PlaceError as error:
        line = Lines(reader.traits.line_end).at(chunk, error.position)
        raise RunError(str(error) if line is None else f"line {line:,}, {error}") from error


def _check_kind(chunk: Chunk) -> None:
    """Refuses a source whose first bytes are those of a binary file. All of its lines would be dead letters.

    Raises:
        RunError: The source begins as a binary file.
    """
    with versions.open_chunk(chunk) as file:
        kind = formats.binary_kind(file.read(chunk.end))
    if kind is not None:
        codec = None if chunk.data == chunk.source else _stored_codec(chunk)
        raise RunError(f"{chunk.source}: {foreign.refusal(kind, chunk.source, codec)}")


def _stored_codec(chunk: Chunk) -> Codec | None:
    with files.open_raw(chunk.source) as stored:
        return detect(stored.read(foreign.FIRST_BYTES))


@dataclasses.dataclass(eq=False)
class ReadChunk(beam.PTransform[beam.PCollection[Chunk], Any]):
    """Reads chunks.

    Input:  PCollection[Chunk]
    Output: FEATURES, RECEIPTS = PCollection[Features], PCollection[tuple[str, Receipt]], one of each for each
            chunk; the receipt is keyed by the chunk's key
    """

    reader: Reader
    features: tuple[Feature, ...]

    def expand(self, chunks: beam.PCollection[Chunk]) -> Any:  # Beam warns about every type for several outputs
        """Wires the step."""
        return chunks | "ReadBytes" >> beam.ParDo(_Read(self.reader, self.features)).with_outputs(
            RECEIPTS, main=FEATURES
        )


class _Read(beam.DoFn):
    def __init__(self, reader: Reader, features: tuple[Feature, ...]) -> None:
        self.reader, self.features = reader, features
        self.rows = Metrics.counter("ledger", "rows_read")

    def start_bundle(self) -> None:
        self.ahead = Ahead(self._read)

    def _read(self, chunk: Chunk) -> tuple[Features, Receipt]:
        return read_chunk(chunk, self.reader, self.features)

    def process(self, chunk: Chunk) -> Iterator[Features | TaggedReceipt]:
        for features, receipt in self.ahead.put(chunk):
            yield features
            yield self._receipt(receipt, (features.key, receipt))

    def finish_bundle(self) -> Iterator[Any]:
        for features, receipt in self.ahead.rest():
            yield GlobalWindows.windowed_value(features)
            yield self._receipt(receipt, GlobalWindows.windowed_value((features.key, receipt)))

    def _receipt(self, receipt: Receipt, output: Any) -> TaggedReceipt:
        self.rows.inc(receipt.rows)
        return beam.pvalue.TaggedOutput(RECEIPTS, output)
