"""Reads delimited text: CSV and TSV, see https://www.rfc-editor.org/rfc/rfc4180.

Each record is a row, and each cell is text. The first record of a source names the columns, unless the plan does.
"""

import functools
import itertools
import weakref
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any

import google_crc32c
import numpy as np
import pyarrow as pa

from transforms.errors import RunError
from transforms.formats import OTHER_DELIMITERS, blocks, slices
from transforms.formats.base import Cut, RowTraits
from transforms.formats.csv import cells, inputs, split
from transforms.formats.csv.dialect import Dialect
from transforms.formats.csv.scan import scan
from transforms.formats.csv.split import Header
from transforms.mapping.name_lists import repeated
from transforms.records import BadRow, Chunk, Feature, Positions, Rows, Unit

SAMPLE_ROWS = 100
LINE_END = b"\r\n"  # of rows that come by themselves: a row may end with a carriage return, which LF would make its own
# The header of each open file. A file that can only be read forward is then not read again from its start.
_headers: "weakref.WeakKeyDictionary[IO[bytes], Header]" = weakref.WeakKeyDictionary()


class CsvBlock(blocks.ByteBlock):
    """Records in one buffer, see `transforms.formats.base.Block`.

    Attributes:
        dialect: The dialect of the text.
        header: The record that names the columns. It is in the buffer too if the buffer is the start of a source with
            a header.
        line_end: The bytes that end the header.
    """

    traits = RowTraits(text_cells=True, line_end=b"\n")

    def __init__(
        self,
        source: str,
        data: bytes,
        dialect: Dialect,
        header: str,
        start: int | None = None,
        rows: Rows | None = None,
        positions: Positions | None = None,
        line_end: bytes = b"\n",
    ) -> None:
        """Keeps the buffer. Rows and positions that are not given are found when they are first needed."""
        super().__init__(source, data, start, rows, positions)
        self.dialect, self.header, self.line_end = dialect, header, line_end

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return names(self.header, self.dialect)

    def find(self) -> Rows:
        """Finds the records that are not blank. A byte order mark and the header belong to no row."""
        base = self.start or 0
        first = split.bom_size(self.data) if self.start == 0 else 0
        found = split.rows(self.data, self.dialect, first=first, base=base)
        if self.start == 0 and self.dialect.has_header:
            return Rows(found.starts[1:], found.ends[1:], found.blank)
        return found

    @functools.cached_property
    def checksum(self) -> int:
        """The crc32c of the header and the buffer: with another header the same records are other rows."""
        return int(google_crc32c.extend(google_crc32c.value(self.header.encode()), self.data))

    def inputs(self, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Converts the cells that the model needs."""
        columns, positions = self.names, self.positions

        def read_slice(part: Rows) -> slices.Found:
            first = np.searchsorted(self.rows.starts, part.starts[0])
            return inputs.read_slice(self.data, part, positions[first:], columns, features, self.dialect)

        return slices.read(self.data, self.rows, features, read_slice)

    def take(self, rows: Sequence[int]) -> "CsvBlock":
        """Returns a block of some of the rows. It shares the buffer with this block."""
        some = Rows(self.rows.starts[rows], self.rows.ends[rows])
        positions = self.positions[rows]
        return CsvBlock(self.source, self.data, self.dialect, self.header, self.start, some, positions, self.line_end)

    def values(self) -> list[dict[str, Any]]:
        """Returns the text of each cell of the first `SAMPLE_ROWS` records, None for an empty cell without quotes.

        Records that are not UTF-8 or do not have a cell for each column are not there.
        """
        rows = Rows(self.rows.starts[:SAMPLE_ROWS], self.rows.ends[:SAMPLE_ROWS])
        found, made = cells.find(self.data, rows, len(self.names), self.dialect), []
        for starts, ends in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
            spelled = [found.text[start:end] for start, end in zip(starts, ends, strict=True)]
            try:
                texts = [None if (v := self.dialect.value(cell)) is None else v.decode() for cell in spelled]
            except UnicodeDecodeError:
                continue
            made.append(dict(zip(self.names, texts, strict=True)))
        return made

    def schema(self) -> pa.Schema:
        """Returns the columns, which all hold text."""
        return pa.schema([(name, pa.string()) for name in self.names])

    def table(self, rows: Sequence[int], schema: pa.Schema) -> tuple[pa.Table, list[BadRow]]:
        """Converts some rows to columns of text, see `transforms.formats.base.Block`."""
        some = Rows(self.rows.starts[rows], self.rows.ends[rows])
        return inputs.table(self.data, some, np.asarray(rows, np.int64), self.names, schema, self.dialect)


def names(header: str, dialect: Dialect) -> tuple[str, ...]:
    """Returns the names of the columns that a header record gives.

    Raises:
        RunError: A name is there twice, or the record is not one record.

    >>> names('a,"b, c"', Dialect(ord(","), ord('"')))
    ('a', 'b, c')
    """
    record = header.encode()
    if not record:
        return ()
    if b"\0" in record:
        raise RunError(
            "the header has NUL bytes, so the file is no text or its content is lost; copy it again from where it was "
            "written"
        )
    found = scan(record, dialect, cells=True)
    bounds = [-1, *found.delimiters.tolist(), len(record)]
    spelled = [record[start + 1 : end] for start, end in itertools.pairwise(bounds)]
    dialect = dialect._replace(nulls=())  # a column may be called NA
    made = tuple((dialect.value(cell) or b"").decode() for cell in spelled)
    twice = repeated(made)
    if twice is not None:
        raise RunError(
            f"the header names the column {twice!r} twice; give each column a name of its own, or skip the header's "
            "line and name the columns with --columns"
        )
    after = [record[quote + 1 : quote + 2].decode() for quote in found.malformed.tolist()]
    if after and after[0] in OTHER_DELIMITERS:
        raise RunError(
            f"the header has {after[0]!r} after a quoted name, and the delimiter is {chr(dialect.delimiter)!r}; give "
            f"--delimiter {OTHER_DELIMITERS[after[0]]}"
        )
    if len(found.newlines) or len(found.malformed) or b"\r" in record:
        raise RunError(f"the header is not one record of {len(made)} names: {header[:SAMPLE_ROWS]!r}; repair its line")
    return made


class CsvReader:
    """Reads delimited text, see `transforms.formats.base.Reader`."""

    unit: Unit = "byte"
    traits = CsvBlock.traits

    def __init__(self, name: str, dialect: Dialect, header: str) -> None:
        """Makes a reader.

        Args:
            name: Name of the format.
            dialect: The dialect of the text.
            header: The record that names the columns of the planned sources; empty if the plan has read none.
        """
        self.name, self.dialect, self.header = name, dialect, header

    def read_header(self, file: IO[bytes], size: int) -> str:
        """Returns the first record of a source, without its line end. It is the plan's if sources have no header."""
        return self._header(file, size).text.decode()

    def _header(self, file: IO[bytes], size: int) -> Header:
        found = split.read_header(file, size, self.dialect)
        if not (self.dialect.has_header and found.text):
            return found._replace(text=self.header.encode())
        try:
            names(found.text.decode(), self.dialect)
        except UnicodeDecodeError as error:
            raise RunError(
                f"the header is not UTF-8: byte {error.start}: {error.reason}; convert the file with iconv"
            ) from error
        return found

    def split(self, file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None = None) -> Iterator[Cut]:
        """Splits a file into chunks that end with a record. Blank lines and the header count as rows here."""
        return split.cuts(file, size, chunk_bytes, chunk_rows, self.dialect)

    def load(self, file: IO[bytes], chunk: Chunk, fields: Collection[str] | None = None) -> CsvBlock:  # noqa: ARG002
        """Reads the records of a chunk. All of their cells are loaded, whatever `fields` is."""
        if file not in _headers:
            size = chunk.end if chunk.start == 0 else chunk.start  # the header is in the first chunk
            file.seek(0)
            _headers[file] = self._header(file, size)
        return self._block(chunk.source, blocks.read_bytes(file, chunk), _headers[file], chunk.start)

    def sample(self, file: IO[bytes], size: int) -> CsvBlock:
        """Reads the first whole records. The last record of a file is whole even if no newline ends it."""
        data = file.read(size)
        if len(data) == size:
            newlines = scan(data, self.dialect, first=split.bom_size(data), cells=False, whole=False).newlines
            data = data[: int(newlines[-1]) + 1 if len(newlines) else 0]
        file.seek(0)
        block = self._block("", data, self._header(file, len(data)), 0)
        inputs.read_slice(data, block.rows, block.positions, block.names, (), self.dialect)  # raises a PlaceError
        return block

    def _block(self, source: str, data: bytes, header: Header, start: int) -> CsvBlock:
        return CsvBlock(source, data, self.dialect, header.text.decode(), start, line_end=header.line_end)

    def parse(
        self, raws: Sequence[bytes], positions: Sequence[int], source: str = "", header: str | None = None
    ) -> CsvBlock:
        """Makes a block of records, which are given without their line ends."""
        sizes = np.array([len(raw) for raw in raws], np.int64)
        ends = np.cumsum(sizes + len(LINE_END)) - len(LINE_END)
        data = b"".join(raw + LINE_END for raw in raws)
        used = self.header if header is None else header
        made = CsvBlock(source, data, self.dialect, used, positions=np.array(positions, np.int64))
        if not (np.array_equal(made.rows.starts, ends - sizes) and np.array_equal(made.rows.ends, ends)):
            raise RunError(f"not exactly one row of {self.name} each: {len(made.rows.starts)} are in {len(raws)}")
        return made

    def least_bytes(self, features: Sequence[Feature]) -> int:
        """Returns the size of a record that holds only what the model needs, in its shortest spelling."""
        fields = {field: f.has_default(at) for f in features for at, field in enumerate(f.fields)}
        return max(1, sum(not may_lack for may_lack in fields.values()) + len(fields) - 1) + len("\n")
