"""Implements blocks for formats whose rows follow each other in a buffer of bytes."""

import abc
import functools
from collections.abc import Sequence
from typing import IO, Any, TypeVar

import google_crc32c
import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.errors import RunError
from transforms.formats.base import Block, RowTraits
from transforms.records import BadRow, Chunk, Feature, Positions, Rows
from transforms.storage import files

Own = TypeVar("Own", bound="ByteBlock")


class ByteBlock(abc.ABC):
    """Rows in one buffer, see `transforms.formats.base.Block`.

    Attributes:
        source: Path of the source.
        data: The buffer.
        start: Position of the buffer's first byte in the source. None if the buffer was put together from single rows.
        header: See `transforms.formats.base.Block`.
    """

    traits: RowTraits
    header = ""

    def __init__(
        self,
        source: str,
        data: bytes,
        start: int | None = None,
        rows: Rows | None = None,
        positions: Positions | None = None,
    ) -> None:
        """Keeps the buffer. Rows and positions that are not given are found when they are first needed."""
        self.source, self.data, self.start = source, data, start
        self._rows, self._positions = rows, positions

    @abc.abstractmethod
    def find(self) -> Rows:
        """Finds the places of all rows in the buffer.

        Raises:
            RunError: The buffer does not hold whole rows only.
        """

    @abc.abstractmethod
    def inputs(self, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """See `transforms.formats.base.Block`."""

    @abc.abstractmethod
    def schema(self) -> pa.Schema:
        """See `transforms.formats.base.Block`."""

    @abc.abstractmethod
    def table(self, rows: Sequence[int], schema: pa.Schema) -> tuple[pa.Table, list[BadRow]]:
        """See `transforms.formats.base.Block`."""

    @abc.abstractmethod
    def values(self) -> list[dict[str, Any]]:
        """See `transforms.formats.base.Block`."""

    @functools.cached_property
    def rows(self) -> Rows:
        """The places of the rows in the buffer."""
        return self.find() if self._rows is None else self._rows

    @functools.cached_property
    def positions(self) -> Positions:
        """Position of each row's first byte in the source. int64, (rows,)."""
        return self.rows.starts + (self.start or 0) if self._positions is None else self._positions

    @property
    def blank(self) -> int:
        """How many blank lines there are. They are not rows."""
        return self.rows.blank

    @property
    def nbytes(self) -> int:
        """Size of the buffer in bytes."""
        return len(self.data)

    @functools.cached_property
    def stored(self) -> int:
        """The bytes of the source that hold a sample's rows."""
        return len(self.data)

    @functools.cached_property
    def checksum(self) -> int:
        """The crc32c of the buffer."""
        return int(google_crc32c.value(self.data))

    def raw(self, rows: Sequence[int]) -> pa.LargeBinaryArray:
        """Returns the bytes of some rows."""
        return columns.gather(self.data, self.rows.starts[rows], self.rows.ends[rows])

    def take(self: Own, rows: Sequence[int]) -> Own:
        """Returns a block of some of the rows. It shares the buffer with this block."""
        some = Rows(self.rows.starts[rows], self.rows.ends[rows])
        return type(self)(self.source, self.data, self.start, some, self.positions[rows])

    def line_numbers(self, rows: Sequence[int]) -> list[int] | None:
        """Returns the line at which each of these rows begins, from 0; None if rows are not lines."""
        end = self.traits.line_end
        if not end:
            return None
        line, position, found = 0, 0, []
        for start in self.rows.starts[rows].tolist():
            line += self.data.count(end, position, start)
            position = start
            found.append(line)
        return found


def read_bytes(file: IO[bytes], chunk: Chunk) -> bytes:
    """Reads the bytes of a chunk whose positions are byte offsets.

    Raises:
        OSError: The file cannot be read.
        RunError: The file ends before the chunk's end.
    """
    return files.read_of(file, chunk.data or chunk.source, chunk.start, chunk.end)


def parse(kind: type[Own], name: str, raws: Sequence[bytes], positions: Sequence[int], source: str) -> Own:
    """Makes a block of single rows, see `transforms.formats.base.Reader.parse`.

    Args:
        kind: The class of the block.
        name: Name of the format.
        raws: The bytes of each row.
        positions: Position of each row in its source.
        source: Path of the source.

    Raises:
        RunError: An item of `raws` is not exactly one row.
    """
    end = kind.traits.line_end
    sizes = np.array([len(raw) for raw in raws], np.int64)
    starts = np.cumsum(sizes + len(end)) - sizes - len(end)
    data = b"".join(raw + end for raw in raws)
    made = kind(source, data, positions=np.array(positions, np.int64))
    if not (np.array_equal(made.rows.starts, starts) and np.array_equal(made.rows.ends, starts + sizes)):
        raise RunError(f"not exactly one row of {name} each: {len(made.rows.starts)} are in {len(raws)}")
    return made


def own(block: Block, kind: type[Own]) -> Own:
    """Checks that a block has the class that a writer writes, and returns the block.

    Raises:
        TypeError: The block has another class.
    """
    if not isinstance(block, kind):
        raise TypeError(f"{type(block).__name__} is no {kind.__name__}: a part has the format of its source")
    return block


def merge(kind: type[ByteBlock], parts: Sequence[tuple[bytes, Positions]]) -> list[pa.Buffer]:
    """Merges the rows of several parts into one part, see `transforms.formats.base.Writer.merge`."""
    end, pieces = len(kind.traits.line_end), []
    for data, _ in parts:
        rows = kind("", data).rows
        pieces.append(columns.gather(data, rows.starts, rows.ends + end))
    order = merged_order([len(piece) for piece in pieces], [numbers for _, numbers in parts])
    return [columns.contents(pa.concat_arrays(pieces).take(order))]


def merged_order(found: Sequence[int], numbers: Sequence[Positions]) -> pa.Int64Array:
    """Returns the order in which the rows of several parts, one part after the other, stand in the merged part.

    Args:
        found: How many rows each part has.
        numbers: The numbers of its rows. If two parts have the same row, the row of the later part is taken.

    Raises:
        RunError: A part does not have as many rows as there are numbers for it.
    """
    for count, expected in zip(found, map(len, numbers), strict=True):
        if count != expected:
            raise RunError(f"{count} rows are written where {expected} were expected; run again")
    whole = np.concatenate(numbers)
    _, from_last = np.unique(whole[::-1], return_index=True)
    return pa.array(len(whole) - 1 - from_last)
