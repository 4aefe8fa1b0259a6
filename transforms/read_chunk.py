"""ReadChunk: from a chunk's bytes to the model's inputs, and a receipt of all that was read."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Final, Literal

import apache_beam as beam
import google_crc32c
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from transforms import formats
from transforms.errors import RunError
from transforms.formats import foreign
from transforms.formats.base import Format
from transforms.mapping import defaults
from transforms.prefetch import Ahead
from transforms.records import Chunk, Feature, Features, Receipt, pack_bad
from transforms.storage import versions

FEATURES = "features"
RECEIPTS: Final = "receipts"

TaggedReceipt = beam.pvalue.TaggedOutput[Literal["receipts"], tuple[str, Receipt]]


def read_chunk(chunk: Chunk, fmt: Format, features: tuple[Feature, ...]) -> tuple[Features, Receipt]:
    """Reads one chunk.

    Raises:
        RunError: The chunk's file ends early, is another than the one that was planned, or is of another format.
    """
    data = versions.read_chunk(chunk)
    rows = fmt.rows(data, first=chunk.start == 0)
    inputs, bad = fmt.read(data, rows, features)
    if bad and chunk.start == 0 and not inputs.num_rows and fmt.traits.line_end:
        _check_kind(chunk, data)
    receipt = Receipt(
        chunk, google_crc32c.value(data), len(rows.starts), rows.blank, pack_bad(bad), defaults.pack(inputs, features)
    )
    return Features(chunk.key, inputs), receipt


def _check_kind(chunk: Chunk, data: bytes) -> None:
    """Refuses a source that begins as a binary file, and whose lines would all be dead letters.

    Raises:
        RunError: It does.
    """
    kind = formats.binary_kind(data)
    if kind is not None:
        packed = chunk.data != chunk.source
        raise RunError(f"{chunk.source}: {foreign.refusal(kind, chunk.source, packed=packed)}")


@dataclasses.dataclass(eq=False)
class ReadChunk(beam.PTransform[beam.PCollection[Chunk], Any]):
    """Reads chunks.

    Input:  PCollection[Chunk]
    Output: FEATURES, RECEIPTS = PCollection[Features], PCollection[tuple[str, Receipt]], one of each a
            chunk, the receipt by the chunk's key
    """

    format: Format
    features: tuple[Feature, ...]

    def expand(self, chunks: beam.PCollection[Chunk]) -> Any:  # Beam warns about every type for several outputs
        """Wires the step."""
        return chunks | "ReadBytes" >> beam.ParDo(_Read(self.format, self.features)).with_outputs(
            RECEIPTS, main=FEATURES
        )


class _Read(beam.DoFn):
    def __init__(self, fmt: Format, features: tuple[Feature, ...]) -> None:
        self.format, self.features = fmt, features
        self.rows = Metrics.counter("ledger", "rows_read")

    def start_bundle(self) -> None:
        self.ahead = Ahead(self._read)

    def _read(self, chunk: Chunk) -> tuple[Features, Receipt]:
        return read_chunk(chunk, self.format, self.features)

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
