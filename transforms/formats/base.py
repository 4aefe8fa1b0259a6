"""What a file format has: a reader, which makes blocks of sources, and a writer, which makes parts of blocks."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple, Protocol

import pyarrow as pa

from transforms.records import BadRow, Chunk, Feature, Layout, Positions, Unit


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


class Cut(NamedTuple):
    """Where a chunk ends.

    Attributes:
        end: The position after its last row, in the reader's unit.
        bytes: What its rows take in the source.
    """

    end: int
    bytes: int


class Block(Protocol):
    """Rows that were loaded: those of a chunk, the first ones of a source, or rows that came by themselves.

    Rows are numbered 0, 1, … within their block.

    Attributes:
        source: Path of their source, the first half of their keys; empty if they have none.
        positions: Where each row is in its source, in the reader's unit. int64, (rows,).
        blank: Lines that are not rows.
        nbytes: Bytes that were loaded.
        checksum: crc32c of what was loaded (RFC 3720, appendix B.4).
    """

    source: str

    @property
    def positions(self) -> Positions: ...  # noqa: D102  see the class

    @property
    def blank(self) -> int: ...  # noqa: D102

    @property
    def nbytes(self) -> int: ...  # noqa: D102

    @property
    def checksum(self) -> int: ...  # noqa: D102

    def inputs(self, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """The model's inputs of the good rows, as of `records.Features`, and the bad rows, in order.

        What becomes of a row depends on that row alone, never on its neighbours or on the block.
        """

    def raw(self, rows: Sequence[int]) -> pa.LargeBinaryArray:
        """The bytes of some rows, for dead letters; `Reader.parse` makes rows of them again."""

    def take(self, rows: Sequence[int]) -> "Block":
        """Some of the rows, in their order, with the positions that they have."""

    def values(self) -> list[dict[str, Any]]:
        """The readable ones among the first rows, each as field -> value."""

    def line_numbers(self, rows: Sequence[int]) -> list[int] | None:
        """The lines of the block at which rows begin, from 0, for rows in order; None where rows are not lines."""


class Reader(Protocol):
    """Makes blocks of the sources of one format. Objects of it are pickled to workers.

    Attributes:
        name: The format's.
        unit: Of positions.
        traits: What its rows are like.
    """

    name: str
    unit: Unit
    traits: RowTraits

    def split(self, file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None = None) -> Iterator[Cut]:
        """Cuts a file into chunks that end with a row; their positions increase, and the last one is that of its end.

        Args:
            file: The file.
            size: Its bytes.
            chunk_bytes: A chunk ends with the row that makes it so long.
            chunk_rows: A chunk has at most so many rows; None for no such limit, then rows are not counted.

        Raises:
            RunError: The file's framing is damaged.
        """

    def load(self, file: IO[bytes], chunk: Chunk, fields: Collection[str] | None = None) -> Block:
        """Reads the rows of a chunk: the only way in which keyjoin reads rows of a source.

        Who calls it opens the source: keyjoin decompresses it and checks its version in one place for all formats.

        Args:
            file: The source, decompressed.
            chunk: Which rows.
            fields: The fields that will be used; None for all. A reader may load the others, too.

        Raises:
            OSError: The file cannot be read.
            RunError: It ends early.
        """

    def sample(self, file: IO[bytes], size: int) -> Block:
        """Reads the first whole rows of a source.

        Args:
            file: The source, decompressed.
            size: Bytes to read at most.

        Raises:
            RunError: The source does not begin as a file of this format does.
        """

    def parse(self, raws: Sequence[bytes], positions: Sequence[int], source: str = "") -> Block:
        """Makes a block of rows that come by themselves: dead letters, repaired rows, instances of a request.

        Args:
            raws: The bytes of each row, as of `Block.raw`.
            positions: Where each is in its source.
            source: Path of the source.

        Raises:
            RunError: The bytes of one are not exactly one row.
        """

    def least_bytes(self, features: Sequence[Feature]) -> int:
        """What a good row takes at least, the end of its line included; a lower bound is enough."""


class Writer(Protocol):
    """Makes parts of blocks of its own format. Objects of it are pickled to workers."""

    def write(self, block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> Joined:
        """Joins predictions to their rows; with `layout.error`, bad rows are written too, each in its place.

        Args:
            block: The rows of a chunk.
            bad: Rows without a prediction, in order.
            predictions: One record for each other row, in order.
            layout: What stands in an output row.
        """

    def read_back(self, part: bytes) -> Block:
        """Makes a block of the rows of a part, with their predictions as fields."""

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Makes a part of the rows of parts; they keep their bytes, which their source may not have any more.

        Args:
            parts: The bytes of each, decompressed, and the numbers of its rows in their chunk. Of a row that is in two
                of them, that of the later one is taken.

        Returns:
            The part's bytes, as buffers in order.

        Raises:
            RunError: A part has another number of rows.
        """


class Format(NamedTuple):
    """A file format."""

    reader: Reader
    writer: Writer
