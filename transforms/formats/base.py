"""What a file format has, and what it gives."""

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple, Protocol

import pyarrow as pa

from transforms.records import BadRow, Chunk, Feature, Layout, Rows


class Joined(NamedTuple):
    """The rows of one part.

    Attributes:
        blocks: The part's bytes, as buffers in order; they are made ahead while one is written.
        bad: Rows that had a prediction and could not be joined to it; `row` counts the chunk's rows.
    """

    blocks: Iterable[Any]
    bad: list[BadRow]


class Instance(dict[str, Any]):
    """A sampled row that is a JSON value as a whole: `{"instance": value}`."""


class RowTraits(NamedTuple):
    """What rows of a format are like; the defaults are those of JSON objects.

    Attributes:
        flat_lists: Whether each field holds one list of integers, floats or byte strings, whose shape the model knows.
            Such a field has no bools, no numbers written as text, and no objects to look into.
        raw_feeds: Whether a row's own bytes may be the value of a model's only input.
        whole_values: Whether a row may be a value without fields.
        float_dtype: The widest float that an output row holds.
        line_end: What ends each line, where rows are lines of text; else empty.
    """

    flat_lists: bool = False
    raw_feeds: bool = False
    whole_values: bool = False
    float_dtype: str = "float64"
    line_end: bytes = b""


OBJECTS = RowTraits()  # dictionaries, wherever they come from


class Format(Protocol):
    """What keyjoin needs to know of a file format. Objects of it are pickled to workers."""

    name: str
    traits: RowTraits
    # Bytes that a run holds at most for each byte of a chunk, as measured.
    held_bytes: float

    def split(self, file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None = None) -> Iterator[int]:
        """Ends of the chunks of a file: increasing offsets, the last one `size`, each the end of a row.

        Args:
            file: The file.
            size: Its bytes.
            chunk_bytes: A chunk ends with the row that makes it so long.
            chunk_rows: A chunk has at most so many rows; None for no such limit, then rows are not counted.

        Raises:
            RunError: The file's framing is damaged.
        """

    def rows(self, data: bytes, *, first: bool) -> Rows:
        """Where the rows of a chunk lie.

        Args:
            data: The chunk's bytes.
            first: Whether the chunk is the first of its source.
        """

    def read(self, data: bytes, rows: Rows, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """The model's inputs of a chunk's good rows, as of `records.Features`, and the bad rows, in order.

        What becomes of a row depends on that row alone, never on its neighbours or on the chunk.
        """

    def least_bytes(self, features: Sequence[Feature]) -> int:
        """What a good row takes at least, the end of its line included; a lower bound is enough."""

    def write(
        self,
        chunk: Chunk,
        data: bytes,
        rows: Rows,
        bad: Sequence[BadRow],
        predictions: pa.RecordBatch,
        layout: Layout,
    ) -> Joined:
        """Joins predictions to their rows; with `layout.error`, bad rows are written too, each in its place.

        Args:
            chunk: The chunk.
            data: Its bytes.
            rows: Where its rows lie.
            bad: Rows without a prediction, in order.
            predictions: One record for each other row, in order.
            layout: What stands in an output row.
        """

    def sample(self, data: bytes) -> list[dict[str, Any]]:
        """Some readable rows among the first bytes of a source, each as field -> value."""
