"""Defines what a file format provides: a reader that loads sources as blocks, and a writer that writes them as parts.

A block is a number of rows in memory. A part is an output file with the rows of one chunk and their predictions.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple, Protocol

import pyarrow as pa

from transforms.records import BadRow, Chunk, Feature, Layout, Positions, Unit


class Joined(NamedTuple):
    """The content of one part.

    Attributes:
        blocks: The bytes of the part, as buffers in order. Threads make the next buffers while one is written.
        bad: Rows that have a prediction but cannot be written with it. `row` is the row's number in the chunk.
    """

    blocks: Iterable[Any]
    bad: list[BadRow]


class Instance(dict[str, Any]):
    """A sampled row that is a JSON value and not an object. It is held as `{"instance": value}`."""


class RowTraits(NamedTuple):
    """Describes the rows of a format. The defaults describe JSON objects.

    Attributes:
        flat_lists: Whether each field holds one flat list of integers, floats or byte strings. The model's signature
            gives its shape. Such a field holds no bools, no numbers written as text, and no objects.
        raw_feeds: Whether the bytes of a whole row may feed a model input.
        whole_values: Whether a row may be a value without fields, such as `[1.0, 2.0]`.
        text_cells: Whether all fields are text. Text is then the way to write a number, and `--strict_types` does not
            refuse it.
        typed: Whether the file gives each field a type, which all of its rows have.
        float_dtype: The widest float that an output row can hold.
        has_index: Whether a file says in one place where its rows are.
        line_end: The bytes that end each line, where rows are lines of text. Otherwise empty.
    """

    flat_lists: bool = False
    raw_feeds: bool = False
    whole_values: bool = False
    text_cells: bool = False
    typed: bool = False
    float_dtype: str = "float64"
    has_index: bool = False
    line_end: bytes = b""

    @property
    def has_header(self) -> bool:
        """Whether a file says once what all of its rows hold, see `Reader.header`."""
        return self.text_cells or self.typed


OBJECTS = RowTraits()  # of rows that are dictionaries, from a file or not


class Cut(NamedTuple):
    """The end of a chunk.

    Attributes:
        end: The position after the chunk's last row, in the reader's unit.
        bytes: The size of its rows in the decompressed source, in bytes.
    """

    end: int
    bytes: int


class Block(Protocol):
    """Loaded rows: the rows of a chunk, the first rows of a source, or single rows without a file.

    Rows are numbered 0, 1, … within their block.

    Attributes:
        source: Path of the source, which is the first half of each row's key. It is empty if there is no source.
        positions: Position of each row in its source, in the reader's unit. int64, (rows,).
        blank: How many blank lines there are. They are not rows.
        nbytes: How many bytes were loaded.
        stored: About how many bytes of the decompressed source hold the rows of a sample. It is not `nbytes` where the
            format compresses its own content.
        checksum: crc32c of the loaded bytes (RFC 3720, appendix B.4).
        header: What these rows need to be understood, see `Reader.header`.
    """

    source: str
    header: str

    @property
    def positions(self) -> Positions: ...  # noqa: D102  see the class

    @property
    def blank(self) -> int: ...  # noqa: D102

    @property
    def nbytes(self) -> int: ...  # noqa: D102

    @property
    def stored(self) -> int: ...  # noqa: D102

    @property
    def checksum(self) -> int: ...  # noqa: D102

    def inputs(self, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Returns the model's inputs of the good rows, see `records.Features`, and the bad rows, in order.

        The result for a row depends on that row alone, never on its neighbours or on the block.

        Args:
            features: The model's inputs, and the fields that feed them.
        """

    def raw(self, rows: Sequence[int]) -> pa.LargeBinaryArray:
        """Returns the bytes of some rows, for dead letters. `Reader.parse` makes a block of them again."""

    def take(self, rows: Sequence[int]) -> "Block":
        """Returns a block of some of the rows, in their order. Each row keeps its position."""

    def schema(self) -> pa.Schema:
        """Returns the names and types that the fields of these rows have in a part of another format.

        A format with typed fields returns their own types. Other formats return types that hold all of these rows; a
        field whose values have no common type is a union.
        """

    def table(self, rows: Sequence[int], schema: pa.Schema) -> tuple[pa.Table, list[BadRow]]:
        """Converts some rows to columns, for a writer of another format.

        Values keep their meaning: none is rounded, truncated or dropped. A row that does not fit the schema is bad: a
        value of another type, a field that the schema does not have.

        Args:
            rows: Numbers of the rows, ascending.
            schema: Names and types of the columns, in order. A field that a row does not have is null. Its metadata
                says which other fields a row may have, see `transforms.formats.schemas.ignores`. Where the file and not
                the row says which fields there are, the plan has compared them, and other fields are not converted.

        Returns:
            One record for each row that fits, in order; and the other rows, with the stage `write`.
        """

    def values(self) -> list[dict[str, Any]]:
        """Returns the readable rows among the first ones, each as a dictionary of field -> value."""

    def line_numbers(self, rows: Sequence[int]) -> list[int] | None:
        """Returns the line of the block, from 0, at which each row begins; None if rows of this format are not lines.

        Args:
            rows: Numbers of rows, ascending.
        """


class Reader(Protocol):
    """Loads the sources of one format as blocks. Beam pickles readers to send them to workers.

    Attributes:
        name: Name of the format.
        unit: The unit of positions.
        traits: Describes the rows.
        header: What the rows of a source need to be understood and what a file says once, at its start or end: the
            header record of CSV, the schema of Avro or Parquet, as text. Empty if rows need nothing. This is the
            header of the planned sources, see `FormatSpec.header`; `load` reads the source's own header.
    """

    name: str
    unit: Unit
    traits: RowTraits
    header: str

    def read_header(self, file: IO[bytes], size: int) -> str:
        """Reads the header of a source. Sources with equal headers have the same fields, of the same types.

        Args:
            file: The decompressed source.
            size: Size of the file in bytes.

        Raises:
            RunError: The source does not begin or end like a file of this format.
        """

    def split(self, file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None = None) -> Iterator[Cut]:
        """Splits a file into chunks that end on row boundaries.

        Args:
            file: The file.
            size: Size of the file in bytes.
            chunk_bytes: A chunk ends with the row that makes it at least this long.
            chunk_rows: The most rows of a chunk. With None there is no such limit, and rows are not counted.

        Yields:
            The end of each chunk. Positions increase, and the last one is the end of the file.

        Raises:
            RunError: The framing of the file's records is damaged.
        """

    def load(self, file: IO[bytes], chunk: Chunk, fields: Collection[str] | None = None) -> Block:
        """Reads the rows of a chunk. keyjoin has no other way to read rows of a source during a run.

        The caller opens the source, so that one place decompresses it and checks its version for all formats.

        Args:
            file: The decompressed source.
            chunk: The chunk to read.
            fields: The fields that will be used; None for all. A reader may load other fields too.

        Raises:
            OSError: The file cannot be read.
            RunError: The file ends before the chunk's end.
        """

    def sample(self, file: IO[bytes], size: int) -> Block:
        """Reads the first whole rows of a source.

        Args:
            file: The decompressed source.
            size: The most bytes to read.

        Raises:
            RunError: The source does not begin like a file of this format.
        """

    def parse(
        self, raws: Sequence[bytes], positions: Sequence[int], source: str = "", header: str | None = None
    ) -> Block:
        """Makes a block of single rows without a file: dead letters, repaired rows, or the instances of a request.

        Args:
            raws: The bytes of each row, as `Block.raw` returns them.
            positions: Position of each row in its source.
            source: Path of the source.
            header: The header of the source, see `Block.header`; None for the header of the planned sources.

        Raises:
            RunError: An item of `raws` is not exactly one row.
        """

    def least_bytes(self, features: Sequence[Feature]) -> int:
        """Returns the least bytes that a good row takes, with the end of its line. A lower bound is enough.

        It is 0 if the rows are compressed inside the file, so that its size says nothing about their number.
        """


class Writer(Protocol):
    """Writes parts of one format. Beam pickles writers to send them to workers.

    Attributes:
        name: Name of the format.
        traits: Describes the rows of a part.
    """

    name: str
    traits: RowTraits

    def write(self, block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> Joined:
        """Joins predictions to rows of this format. With `layout.error` it also writes bad rows, each in its place.

        A row's own bytes, cells or columns are copied to the part. They are not decoded and encoded again.

        Args:
            block: The rows of a chunk.
            bad: The rows without a prediction, in order.
            predictions: One record for each other row, in order.
            layout: The fields of an output row.
        """

    def encode(self, table: pa.Table) -> Joined:
        """Writes rows that come from another format.

        Args:
            table: One record for each output row, and one column for each of its fields, in order.

        Returns:
            The part. `bad` has the rows that the format cannot hold, numbered by their record, with the stage `write`.

        Raises:
            UsageError: The format cannot hold a column of this type. The plan encodes the sampled rows, so it is raised
                before the run.
        """

    def read_back(self, part: bytes) -> Block:
        """Makes a block of the rows of a part. The predictions are fields of its rows."""

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Merges the rows of several parts into one part.

        It copies the bytes of the rows from the parts, because the source may no longer have these rows.

        Args:
            parts: For each part, its decompressed bytes, and the numbers of its rows in the chunk. If two parts have
                the same row, the row of the later part is written.

        Returns:
            The bytes of the merged part, as buffers in order.

        Raises:
            RunError: A part does not have as many rows as there are numbers for it.
        """


class Format(NamedTuple):
    """How to read the sources and how to write the parts.

    Attributes:
        reader: The reader of the sources.
        writer: The writer of the parts.
        schema: If parts have another format than their sources: the types of a row's own fields in the parts.
    """

    reader: Reader
    writer: Writer
    schema: pa.Schema | None = None

    @property
    def is_spliced(self) -> bool:
        """Whether parts have the format of their sources, so that rows are copied and not converted."""
        return self.reader.name == self.writer.name
