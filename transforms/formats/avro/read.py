"""Reads Avro files: their blocks, and the fields that the model needs. A row is a record."""

import functools
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any, NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.errors import RunError
from transforms.formats import blocks, conform, typed_inputs
from transforms.formats.avro import decode, json_rows, split
from transforms.formats.avro.container import SYNC, Header, new_header, places, read_block, read_header
from transforms.formats.avro.decode import Piece
from transforms.formats.avro.schema import Schema, parse
from transforms.formats.base import Cut, RowTraits
from transforms.formats.slices import Why
from transforms.reasons import Reason
from transforms.records import BadRow, Chunk, Feature, Positions, Rows, Unit

SAMPLE_ROWS = 100
RECURSIVE = pa.dense_union([pa.field("value", pa.null()), pa.field("itself", pa.struct([]))])


class _Run(NamedTuple):
    """Records of a buffer that come from one block of a file.

    Attributes:
        rows: How many there are.
        size: Their bytes.
        start: The position of the block in the file.
    """

    rows: int
    size: int
    start: int


class AvroBlock(blocks.ByteBlock):
    """Records in one buffer, see `transforms.formats.base.Block`.

    Attributes:
        file: The header of their file.
        header: The schema, as JSON.
    """

    traits = RowTraits(typed=True)

    def __init__(self, source: str, file: Header, pieces: Sequence[Piece], positions: Positions) -> None:
        """Keeps the records of some blocks of a file."""
        super().__init__(source, b"".join(piece.data for piece in pieces), positions=positions)
        self.file, self.header = file, file.schema
        self._runs = [_Run(piece.rows, len(piece.data), piece.start) for piece in pieces]

    @property
    def schema_of_file(self) -> Schema:
        """The schema, parsed."""
        return parse(self.header)

    @property
    def blank(self) -> int:
        """There are no blank lines."""
        return 0

    @functools.cached_property
    def checksum(self) -> int:
        """The crc32c of the schema and the records."""
        return int(google_crc32c.extend(google_crc32c.value(self.header.encode()), self.data))

    def find(self) -> Rows:
        """Finds the places of the records."""
        ends, first = [np.zeros(0, np.int64)], 0
        for piece in self._pieces():
            ends.append(decode.ends(piece, self.schema_of_file, first))
            first += len(piece.data)
        bounds = np.concatenate([[0], *ends]).astype(np.int64)
        return Rows(bounds[:-1], bounds[1:])

    def _pieces(self) -> Iterator[Piece]:
        first = 0
        for run in self._runs:
            yield Piece(self.data[first : first + run.size], run.rows, run.start)
            first += run.size

    def inputs(self, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Decodes the records, and makes columns of the fields that the model needs."""
        fields = dict.fromkeys(field for feature in features for field in feature.fields)
        found, bad, first = [], list[BadRow](), 0
        for table, unfit in self._tables([name for name in fields if name in self.schema_of_file.types]):
            kept = np.delete(np.arange(table.num_rows), list(unfit))
            inputs, refused = typed_inputs.to_inputs(table.take(pa.array(kept)) if unfit else table, features)
            found.append(inputs)
            whys = {**unfit, **{int(kept[row]): why for row, why in refused.items()}}
            bad += [BadRow(first + row, "read", *why) for row, why in sorted(whys.items())]
            first += table.num_rows
        return columns.concatenate(found, features), bad

    def _tables(self, fields: Sequence[str]) -> Iterator[tuple[pa.Table, dict[int, Why]]]:
        """Yields columns of some fields, and the rows with a value that Arrow cannot hold, see `decode.table`."""
        for rows in decode.batches(self._pieces(), self.schema_of_file):
            table, unfit = decode.table(rows, self.schema_of_file, fields)
            yield table, {row: (_reason(message), message) for row, message in unfit.items()}

    def values(self) -> list[dict[str, Any]]:
        """Returns the first `SAMPLE_ROWS` records.

        A value is absent if its field is not in `Schema.types`, and None if Arrow cannot hold it.
        """
        some = self.take(range(min(SAMPLE_ROWS, len(self.positions))))
        fields = list(self.schema_of_file.types)
        found = []
        for table, _ in some._tables(fields):
            found += typed_inputs.rows_of(table.select(fields)) if fields else [{}] * table.num_rows
        return found

    def raw(self, rows: Sequence[int]) -> pa.LargeBinaryArray:
        """Returns some rows as JSON, see `json_rows`."""
        records = super().raw(rows).to_pylist()
        return pa.array([json_rows.to_raw(record, self.header) for record in records], pa.large_binary())

    def take(self, rows: Sequence[int]) -> "AvroBlock":
        """Returns a block of some of the rows, with a copy of their bytes."""
        some = np.asarray(rows, np.int64)
        data = columns.contents(columns.gather(self.data, self.rows.starts[some], self.rows.ends[some])).to_pybytes()
        return AvroBlock(self.source, self.file, [Piece(data, len(some))], self.positions[some])

    def schema(self) -> pa.Schema:
        """Returns the names and types of the fields. That of a recursive field is a union, which no part can hold."""
        own = self.schema_of_file
        return pa.schema([(name, own.types.get(name, RECURSIVE)) for name in own.fields])

    def table(self, rows: Sequence[int], schema: pa.Schema) -> tuple[pa.Table, list[BadRow]]:
        """Converts some rows to columns, see `transforms.formats.base.Block`."""
        some = self.take(rows)
        found, bad, first = [], list[BadRow](), 0
        for made, unfit in some._tables([name for name in schema.names if name in self.schema_of_file.types]):
            table, refused = conform.conform(made, schema)
            whys = {**refused, **unfit}
            found.append(table.take(pa.array(np.delete(np.arange(table.num_rows), list(whys)))))
            bad += [BadRow(int(rows[first + row]), "write", *why) for row, why in sorted(whys.items())]
            first += made.num_rows
        return pa.concat_tables([schema.empty_table(), *found]), bad


def _reason(message: str) -> str:
    return (Reason.NOT_UTF8 if "UTF8" in message else Reason.OUT_OF_RANGE).value


class AvroReader:
    """Reads Avro files, see `transforms.formats.base.Reader`."""

    name = "avro"
    unit: Unit = "row"
    traits = AvroBlock.traits

    def __init__(self, header: str = "") -> None:
        """Keeps the schema of the planned sources."""
        self.header = header

    def read_header(self, file: IO[bytes], size: int) -> str:  # noqa: ARG002
        """Reads the schema of a source, as JSON without white space."""
        found = read_header(file).schema
        parse(found)
        return found

    def split(self, file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None = None) -> Iterator[Cut]:  # noqa: ARG002
        """Splits a file into chunks that end with a block, or with a record where there are too many."""
        return split.cuts(file, chunk_bytes, chunk_rows)

    def load(self, file: IO[bytes], chunk: Chunk, fields: Collection[str] | None = None) -> AvroBlock:  # noqa: ARG002
        """Reads the records of a chunk. All of their fields are loaded, whatever `fields` is.

        Raises:
            RunError: The file has fewer records, or a block is damaged.
        """
        header = read_header(file)
        schema = header.schema
        index = split.index(file, header, chunk)
        last = int(index.ends[-1]) if len(index.ends) else 0
        if last < chunk.end:
            raise RunError(f"{chunk.source}: it has {last} rows where {chunk.end} were expected; run again")
        first, end = np.searchsorted(index.ends, [chunk.start, chunk.end], ("right")), len(index.places)
        pieces = []
        for number in range(int(first[0]), end):
            begin = int(index.ends[number]) - index.places[number].rows
            if begin >= chunk.end:
                break
            place = index.places[number]
            piece = Piece(read_block(file, header, place), place.rows, place.start)
            pieces.append(_cut(piece, schema, chunk.start - begin, chunk.end - begin))
        return AvroBlock(chunk.source, header, pieces, np.arange(chunk.start, chunk.end))

    def sample(self, file: IO[bytes], size: int) -> AvroBlock:
        """Reads the records of the first blocks, as many as lie in the first `size` bytes."""
        header, pieces, stored = read_header(file), [], 0
        parse(header.schema)
        for place in places(file, header):
            if place.end + SYNC > size:
                break
            pieces.append(Piece(read_block(file, header, place), place.rows, place.start))
            stored += place.end + SYNC - place.start
        made = AvroBlock("", header, pieces, np.arange(sum(piece.rows for piece in pieces)))
        made.stored = stored
        return made

    def parse(
        self, raws: Sequence[bytes], positions: Sequence[int], source: str = "", header: str | None = None
    ) -> AvroBlock:
        """Makes a block of records, which are given as `AvroBlock.raw` returns them."""
        schema = self.header if header is None else header
        records = [json_rows.from_raw(raw, schema) for raw in raws]
        return AvroBlock(
            source, new_header(schema or EMPTY), [Piece(record, 1) for record in records], np.array(positions, np.int64)
        )

    def least_bytes(self, features: Sequence[Feature]) -> int:  # noqa: ARG002
        """Returns 0: blocks are compressed, so the size of a file says nothing about its number of rows."""
        return 0


EMPTY = '{"type":"record","name":"empty","fields":[]}'


def _cut(piece: Piece, schema: str, start: int, end: int) -> Piece:
    """Returns the records of a piece with numbers in [start, end)."""
    if start <= 0 and end >= piece.rows:
        return piece
    bounds = np.concatenate([[0], decode.ends(piece, parse(schema))])
    start, end = max(0, start), min(piece.rows, end)
    return Piece(piece.data[bounds[start] : bounds[end]], end - start, piece.start)
