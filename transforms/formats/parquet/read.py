"""Reads Parquet files: the encoded columns of a chunk, of which it decodes those that are needed."""

import base64
import contextlib
import functools
import io
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import columns
from transforms.errors import RunError
from transforms.formats import conform, typed_inputs
from transforms.formats.base import Block, Cut, RowTraits
from transforms.formats.parquet import footer as footers
from transforms.formats.parquet import json_rows, split
from transforms.formats.parquet.footer import Encoded, Footer, Group
from transforms.records import BadRow, Chunk, Feature, Positions, Unit
from transforms.threads import in_threads

SAMPLE_ROWS = 100
SLICE_ROWS = 65_536  # converted at a time, in threads
# Of a part of a row group, so many bytes are decoded at a time, and so many encoded bytes of each column are read.
BATCH_BYTES, BUFFER = 1 << 23, 1 << 20


class ParquetBlock:
    """Rows of a Parquet file, see `transforms.formats.base.Block`.

    A block of a chunk holds encoded columns, and decodes some of them when they are needed. A block of single rows
    holds decoded columns.

    Attributes:
        source: Path of the source.
        positions: Number of each row in its source. int64, (rows,).
        blank: 0.
        nbytes: Bytes of the encoded columns.
        checksum: crc32c of the footer and the numbers of the first and the last row.
        header: The schema, see `ParquetReader.read_header`.
        footer: The footer of the file; None if the block has only decoded columns.
        groups: The row groups that have these rows; none if the columns are decoded.
    """

    traits = RowTraits(typed=True, has_index=True)
    blank = 0

    def __init__(
        self,
        source: str,
        positions: Positions,
        header: str,
        footer: Footer | None = None,
        groups: Sequence[Encoded] = (),
        decoded: pa.Table | None = None,
    ) -> None:
        """Keeps encoded columns, or the decoded ones."""
        self.source, self.positions, self.header = source, positions, header
        self.footer, self.groups = footer, groups
        self._decoded = decoded

    @property
    def nbytes(self) -> int:
        """Bytes of the encoded columns."""
        if self._decoded is not None:
            return int(self._decoded.nbytes)
        return sum(len(column.data) for group in self.groups for column in group.columns)

    @functools.cached_property
    def stored(self) -> int:
        """The bytes of the source that hold a sample's rows."""
        return self.nbytes

    @functools.cached_property
    def checksum(self) -> int:
        """Crc32c of the footer, and of the numbers of the first and the last row.

        The footer has the place, the size and the statistics of each column. Whether the file was written anew shows
        in its version, see `transforms.storage.versions`.
        """
        ends = self.positions[[0, -1]] if len(self.positions) else self.positions
        encoded = self.footer.encoded if self.footer else self.header.encode()
        return int(google_crc32c.extend(google_crc32c.value(encoded), ends.astype("<i8").tobytes()))

    def arrow_schema(self) -> pa.Schema:
        """Returns names and types of the fields as pyarrow reads them, with the metadata of fields and file."""
        if self._decoded is not None:
            return self._decoded.schema
        return _without_views(self._file(None).schema_arrow)

    def decode(self, fields: Sequence[str]) -> pa.Table:
        """Decodes the columns of some fields, in their order.

        Raises:
            RunError: A column is damaged.
        """
        if self._decoded is not None:
            return self._decoded.select(fields)
        rows = len(self.positions)
        if not rows or not fields:
            schema = self.arrow_schema()
            chosen = pa.schema([schema.field(name) for name in fields], schema.metadata)
            return chosen.empty_table() if fields else _no_columns(rows)
        with _decoding(self.source, self.positions[0], self.positions[-1] + 1):
            return _cast_views(self._file(fields).read().select(fields))

    def _file(self, fields: Collection[str] | None) -> pq.ParquetFile:
        """Makes a file in memory of the row groups, with the columns of some fields."""
        assert self.footer is not None  # noqa: S101  a block without a footer is decoded
        schema = footers.elements(self.footer.meta)
        groups = [
            group._replace(columns=[column for column in group.columns if fields is None or column.field in fields])
            for group in self.groups
        ]
        there = {column.field for group in groups for column in group.columns}
        if groups:
            schema = {name: elements for name, elements in schema.items() if name in there}
        flat = list(itertools.chain.from_iterable(schema.values()))
        return _open(self.footer, footers.file_of(self.footer, flat, groups, footers.key_values(self.footer)))

    def inputs(self, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Decodes the columns that the model needs, and converts them in threads."""
        names = {field for feature in features for field in feature.fields}
        table = stored_types(self.decode([name for name in self.names if name in names]))
        firsts = range(0, len(self.positions), SLICE_ROWS)
        found = list(in_threads(lambda at: typed_inputs.to_inputs(table.slice(at, SLICE_ROWS), features), firsts))
        bad = [
            BadRow(first + row, "read", *why)
            for first, (_, refused) in zip(firsts, found, strict=True)
            for row, why in sorted(refused.items())
        ]
        return columns.concatenate([inputs for inputs, _ in found], features), bad

    @property
    def names(self) -> list[str]:
        """The names of the fields that were loaded, in order."""
        if self._decoded is not None:
            return list(self._decoded.column_names)
        assert self.footer is not None  # noqa: S101
        if not self.groups:
            return list(footers.elements(self.footer.meta))
        return list(dict.fromkeys(column.field for column in self.groups[0].columns))

    def raw(self, rows: Sequence[int]) -> pa.LargeBinaryArray:
        """Returns some rows as JSON, see `json_rows`."""
        return pa.array(json_rows.to_raws(self.take(rows).rows) if len(rows) else [], pa.large_binary())

    @functools.cached_property
    def rows(self) -> pa.Table:
        """The rows with all fields that were loaded, decoded."""
        return self.decode(self.names)

    def take(self, rows: Sequence[int]) -> "ParquetBlock":
        """Returns a block of some of the rows, decoded."""
        some = np.asarray(rows, np.int64)
        decoded = self.rows.take(pa.array(some))
        return ParquetBlock(self.source, self.positions[some], self.header, self.footer, decoded=decoded)

    def schema(self) -> pa.Schema:
        """Returns the names and types of the fields. Extension types are those in which they are stored."""
        return stored_types(_schema(self.header).empty_table()).schema

    def table(self, rows: Sequence[int], schema: pa.Schema) -> tuple[pa.Table, list[BadRow]]:
        """Converts some rows to columns of other types, see `transforms.formats.base.Block`."""
        fields = [name for name in self.names if name in schema.names]
        found, unfit = conform.conform(stored_types(self.take(rows).decode(fields)), schema)
        kept = np.delete(np.arange(found.num_rows), list(unfit))
        return found.take(pa.array(kept)), [BadRow(int(rows[at]), "write", *why) for at, why in sorted(unfit.items())]

    def values(self) -> list[dict[str, Any]]:
        """Returns the first `SAMPLE_ROWS` rows, each as field -> value, see `typed_inputs.rows_of`."""
        return typed_inputs.rows_of(stored_types(self.rows.slice(0, SAMPLE_ROWS)))

    def line_numbers(self, rows: Sequence[int]) -> list[int] | None:  # noqa: ARG002
        """Returns None: rows are not lines."""
        return None


class ParquetReader:
    """Reads Parquet files, see `transforms.formats.base.Reader`."""

    name = "parquet"
    unit: Unit = "row"
    traits = ParquetBlock.traits

    def __init__(self, header: str = "") -> None:
        """Keeps the schema of the planned sources."""
        self.header = header

    def read_header(self, file: IO[bytes], size: int) -> str:  # noqa: ARG002  a compressed file has another one
        """Returns the names and types of the fields: an Arrow schema message, as base64."""
        return _header(footers.read_footer(file, file.seek(0, io.SEEK_END), ""))

    def split(self, file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None = None) -> Iterator[Cut]:
        """Splits a file into chunks of whole row groups, or of rows of one row group."""
        return split.cuts(footers.read_footer(file, size, ""), chunk_bytes, chunk_rows)

    def load(self, file: IO[bytes], chunk: Chunk, fields: Collection[str] | None = None) -> ParquetBlock:
        """Reads the encoded columns of the row groups of a chunk. It decodes the rows of a part of a row group.

        Raises:
            RunError: The file has fewer rows, or is damaged.
        """
        footer = footers.read_footer(file, file.seek(0, io.SEEK_END), chunk.source)
        if footer.rows < chunk.end:
            raise RunError(f"{chunk.source} has {footer.rows} rows where {chunk.end} were expected; run again")
        return _load(file, footer, chunk.source, chunk.start, chunk.end, fields)

    def sample(self, file: IO[bytes], size: int) -> ParquetBlock:
        """Reads and decodes the first rows, of about `size` bytes."""
        file_size = file.seek(0, io.SEEK_END)
        footer = footers.read_footer(file, file_size, "")
        end = next((cut.end for cut in split.cuts(footer, size, None)), 0)
        made = _load(file, footer, "", 0, end, None, decoded=True)
        made.stored = file_size * end // max(footer.rows, 1)
        return made

    def parse(
        self, raws: Sequence[bytes], positions: Sequence[int], source: str = "", header: str | None = None
    ) -> ParquetBlock:
        """Makes a block of rows, which are given as `ParquetBlock.raw` returns them."""
        header = self.header if header is None else header
        table = json_rows.from_raws(raws, _schema(header))
        return ParquetBlock(source, np.array(positions, np.int64), header, decoded=table)

    def least_bytes(self, features: Sequence[Feature]) -> int:  # noqa: ARG002
        """Returns 0: columns are encoded, so that the size of a file says nothing about its number of rows."""
        return 0


def stored_types(table: pa.Table) -> pa.Table:
    """Returns columns of extension types, such as UUIDs, in the types in which they are stored."""
    for at, field in enumerate(table.schema):
        if isinstance(field.type, pa.BaseExtensionType):
            chunks = [chunk.storage for chunk in table.column(at).chunks]
            plain = pa.chunked_array(chunks, field.type.storage_type)
            table = table.set_column(at, pa.field(field.name, plain.type, field.nullable), plain)
    return table


def _cast_views(table: pa.Table) -> pa.Table:
    return table.cast(_without_views(table.schema))


def _without_views(schema: pa.Schema) -> pa.Schema:
    """Returns a schema without Arrow's view types, of which pyarrow can take no rows. The columns are the same."""
    fields = [field.with_type(_without_view(field.type)) for field in schema]
    return pa.schema(fields, schema.metadata)


def _without_view(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_view(field.type)) for field in kind])
    if pa.types.is_map(kind):
        fields = (field.with_type(_without_view(field.type)) for field in (kind.key_field, kind.item_field))
        return pa.map_(*fields, keys_sorted=kind.keys_sorted)
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.ListViewType | pa.LargeListViewType):
        element = kind.value_field.with_type(_without_view(kind.value_type))
        if isinstance(kind, pa.FixedSizeListType):
            return pa.list_(element, kind.list_size)
        return pa.list_(element) if isinstance(kind, pa.ListType) else pa.large_list(element)
    return kind


@contextlib.contextmanager
def _decoding(source: str, first: int, end: int) -> Iterator[None]:
    """Turns the errors of pyarrow for damaged columns into one error.

    Raises:
        OSError: The file cannot be read.
        RunError: A column is damaged.
    """
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        damage = f"{source or 'the file'}: rows {first} to {end} cannot be decoded ({_line(error)})"
        raise RunError(f"{damage}; copy the file again from where it was written") from error


def _open(footer: Footer, made: Iterator[Any]) -> pq.ParquetFile:
    """Opens a file in memory.

    Raises:
        RunError: pyarrow does not read its footer.
    """
    try:
        return pq.ParquetFile(pa.BufferReader(b"".join(made)), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(footer, error) from error


def _damaged(footer: Footer, error: Exception) -> RunError:
    return RunError(
        f"{footer.path or 'the file'}: the Parquet footer is damaged ({_line(error)}); copy the file again from where "
        "it was written"
    )


def _load(
    file: IO[bytes],
    footer: Footer,
    source: str,
    start: int,
    end: int,
    fields: Collection[str] | None,
    *,
    decoded: bool = False,
) -> ParquetBlock:
    """Reads the rows from `start` to `end`: encoded columns, or decoded ones for a part of a row group."""
    groups = [group for group in footer.groups if group.start < end and group.ends > start]
    if not footers.can_copy(footer, groups):
        raise RunError(
            f"{source or 'the file'}: its columns are encrypted or in other files, which keyjoin does not read"
        )
    names = None if fields is None else set(fields)
    if groups and (decoded or start != groups[0].start or end != groups[-1].ends):
        table = _range(file, footer, groups, start, end, names)
        return ParquetBlock(source, np.arange(start, end), _header(footer), footer, decoded=table)
    found = [footers.read_group(file, footer, group, names) for group in groups]
    return ParquetBlock(source, np.arange(start, end), _header(footer), footer, found)


def _range(
    file: IO[bytes], footer: Footer, groups: Sequence[Group], start: int, end: int, fields: Collection[str] | None
) -> pa.Table:
    """Decodes a range of rows. It never holds a whole row group.

    Raises:
        OSError: The file cannot be read.
        RunError: A column is damaged.
    """
    own = footers.elements(footer.meta)
    names = [name for name in own if fields is None or name in fields]
    rows, size = sum(group.rows for group in groups), sum(group.bytes for group in groups)
    step = max(1, min(SLICE_ROWS, BATCH_BYTES * rows // max(1, size)))
    numbers = [number for number, group in enumerate(footer.groups) if group.start < end and group.ends > start]
    left_out, left, found = start - groups[0].start, end - start, []
    with _decoding(footer.path, start, end):
        opened = pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER, page_checksum_verification=True)
        schema = opened.schema_arrow
        if not names:
            return _no_columns(end - start)
        for batch in opened.iter_batches(step, numbers, names):
            skipped = min(left_out, batch.num_rows)
            left_out -= skipped
            if skipped == batch.num_rows:
                continue  # a slice without rows would keep the memory of its batch
            found.append(batch.slice(skipped, left))
            left -= found[-1].num_rows
            if not left:
                break
    if left:
        raise RunError(
            f"{footer.path}: rows {end - left} to {end} are not there; copy the file again from where it was written"
        )
    table = _cast_views(pa.Table.from_batches(found).select(names))
    return table.replace_schema_metadata(schema.metadata)


@functools.lru_cache(maxsize=8)
def _header_of(encoded: bytes) -> str:
    footer = footers.parse(encoded, "")
    try:
        flat = list(itertools.chain.from_iterable(footers.elements(footer.meta).values()))
        made = _open(footer, footers.file_of(footer, flat, [], footers.key_values(footer)))
        plain = pa.schema([field.remove_metadata() for field in _without_views(made.schema_arrow)])
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise _damaged(footer, error) from error
    return base64.b64encode(plain.serialize().to_pybytes()).decode()


def _header(footer: Footer) -> str:
    return _header_of(footer.encoded)


def _schema(header: str) -> pa.Schema:
    if not header:
        return pa.schema([])
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(header)))


def _no_columns(rows: int) -> pa.Table:
    return pa.table({"row": pa.nulls(rows)}).select([])


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def own(block: Block) -> ParquetBlock:
    """Checks that a block is of this format, and returns it.

    Raises:
        TypeError: It is of another format.
    """
    if not isinstance(block, ParquetBlock):
        raise TypeError(f"{type(block).__name__} is not a ParquetBlock")
    return block
