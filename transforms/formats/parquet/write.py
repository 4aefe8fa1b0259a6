"""Writes Parquet files: rows with columns for their predictions.

Where all rows of whole row groups are written, their encoded columns are copied, and encoded columns of predictions
follow them. Other rows, such as those of a row group with dead letters, are decoded and encoded again by pyarrow. Both
ways give equal tables.
"""

import base64
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import RunError
from transforms.formats.added_columns import added_columns, error_column, key_column, not_utf8, spread
from transforms.formats.base import Block, Joined
from transforms.formats.parquet import footer as footers
from transforms.formats.parquet.footer import Encoded, Footer
from transforms.formats.parquet.read import ParquetBlock, ParquetReader, own
from transforms.records import BadRow, Chunk, Layout, Positions, without

ARROW = b"ARROW:schema"  # the key under which Arrow keeps its schema in the metadata of a file
COMPRESSION = "snappy"  # of parts from another format, and where the source has a codec that pyarrow does not write
GROUP_ROWS = 1 << 20  # rows of a row group, where the source gives none
WRITES = {"none", "snappy", "gzip", "brotli", "lz4", "zstd"}


class _Added(NamedTuple):
    """The columns that are added to the rows of a part.

    Attributes:
        numbers: The numbers of the rows to write.
        table: One record for each of them.
        refused: The rows that have a prediction and cannot be written with it.
    """

    numbers: Positions
    table: pa.Table
    refused: list[BadRow]


class ParquetWriter:
    """Writes Parquet files, see `transforms.formats.base.Writer`."""

    name = "parquet"
    traits = ParquetBlock.traits

    def write(self, block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> Joined:
        """Joins predictions to their rows: copies their encoded columns where it can."""
        rows = own(block)
        added = _add(rows, bad, predictions, layout)
        names = _names(rows.names, layout)
        if _can_copy(rows, added):
            return Joined(_copied(rows, added.table, names), added.refused)
        return Joined(_encoded(rows, added, names), added.refused)

    def read_back(self, part: bytes) -> ParquetBlock:
        """Makes a block of the rows of a part."""
        rows = pq.read_metadata(pa.BufferReader(part)).num_rows
        return ParquetReader().load(io.BytesIO(part), Chunk("", "", 0, rows, 0, 1, ""))

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Merges the rows of several parts into one part, see `transforms.formats.base.Writer`."""
        tables = [pq.read_table(pa.BufferReader(data)) for data, _ in parts]
        for table, (_, numbers) in zip(tables, parts, strict=True):
            if table.num_rows != len(numbers):
                raise RunError(f"{table.num_rows} rows are written where {len(numbers)} were expected; run again")
        numbers = np.concatenate([numbers for _, numbers in parts])
        _, from_last = np.unique(numbers[::-1], return_index=True)
        order = len(numbers) - 1 - from_last
        whole = pa.concat_tables([table.cast(tables[0].schema) for table in tables]).take(pa.array(order))
        first = self.read_back(parts[0][0])
        codec = _codec(first.groups[0]) if first.groups else COMPRESSION
        return _write([whole], whole.schema, codec, _metadata(_source(first), whole.schema))

    def encode(self, table: pa.Table) -> Joined:
        """Writes rows that come from another format."""
        firsts = range(0, table.num_rows, GROUP_ROWS)
        return Joined(_write((table.slice(at, GROUP_ROWS) for at in firsts), table.schema, COMPRESSION), [])


def _add(block: ParquetBlock, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> _Added:
    count = len(block.positions)
    numbers = without(count, bad)
    refused, errors = not_utf8(predictions, layout, numbers), None
    if refused:
        kept = ~np.isin(numbers, [one.row for one in refused])
        numbers, predictions = numbers[kept], predictions.filter(pa.array(kept))
    if layout.error:
        dead = sorted([*bad, *refused])
        predictions, numbers = spread(predictions, numbers, count), np.arange(count)
        errors = error_column(
            dead, [None] * len(dead), count
        )  # the row's own fields are in the part, as they have types
    keys = key_column(block.source, block.positions[numbers]) if layout.key else None
    table = pa.table(dict(added_columns(predictions, layout, keys, errors)))
    return _Added(numbers, table.cast(_nullable(table.schema)) if layout.error else table, refused)


def _nullable(schema: pa.Schema) -> pa.Schema:
    """Returns a schema with lists in place of fixed-size lists: pyarrow does not read these where one is null."""
    return pa.schema([(field.name, _nullable_type(field.type)) for field in schema])


def _nullable_type(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_nullable_type(kind.value_type)) if pa.types.is_fixed_size_list(kind) else kind


def _names(fields: Sequence[str], layout: Layout) -> tuple[str, ...]:
    """Returns the names of the columns of a part, in order.

    Raises:
        RunError: The part would have a name twice.
    """
    chosen = [name for name in fields if (name in layout.include if layout.include else name not in layout.exclude)]
    own_fields = chosen if layout.row else []
    twice = sorted(set(own_fields) & set(layout.added))
    if twice:
        raise RunError(f"the rows already have a column {twice[0]}; choose another name with --rename")
    return layout.order or (*own_fields, *layout.added, *((layout.key_field,) if layout.key_field else ()))


def _can_copy(block: ParquetBlock, added: _Added) -> bool:
    """Returns whether the part has all rows of whole row groups."""
    rows = sum(group.rows for group in block.groups)
    return bool(block.groups) and len(added.numbers) == len(block.positions) == rows


def _copied(block: ParquetBlock, added: pa.Table, names: Sequence[str]) -> Iterator[Any]:
    """Yields a part in which the columns of the source are copied.

    Args:
        block: The rows of whole row groups.
        added: The columns to add, with one record for each row.
        names: The columns of the part, in order.
    """
    source, first, groups = _source(block), 0, []
    schema = footers.elements(source.meta)
    for group in block.groups:
        made, encoded = _column_chunks(added.slice(first, group.rows), _codec(group))
        schema |= footers.elements(made.meta)
        first += group.rows
        both = [*group.columns, *encoded.columns]
        groups.append(Encoded(group.meta, [column for name in names for column in both if column.field == name]))
    flat = list(itertools.chain.from_iterable(schema[name] for name in names))
    yield from footers.file_of(source, flat, groups, _metadata(source, _schema(block, added, names)))


def _encoded(block: ParquetBlock, added: _Added, names: Sequence[str]) -> Iterator[Any]:
    """Yields a part in which pyarrow encodes all columns, in the row groups of the source."""
    schema = _schema(block, added.table, names)
    own_names = [name for name in names if name in block.names and name not in added.table.column_names]
    table = block.decode(own_names).take(pa.array(added.numbers))
    whole = pa.table({name: (table if name in own_names else added.table)[name] for name in names})
    codec = _codec(block.groups[0]) if block.groups else COMPRESSION
    metadata = _metadata(_source(block), schema) if block.footer else []
    yield from _write(_by_group(block, added.numbers, whole), schema, codec, metadata)


def _by_group(block: ParquetBlock, numbers: Positions, whole: pa.Table) -> Iterator[pa.Table]:
    ends = np.cumsum([group.rows for group in block.groups] or [len(block.positions)]) - block.first
    bounds = [0, *np.searchsorted(numbers, ends).tolist()]
    for start, end in itertools.pairwise(bounds):
        if end > start:
            yield whole.slice(start, end - start)


def _write(
    tables: Iterable[pa.Table], schema: pa.Schema, codec: str, metadata: Sequence[tuple[bytes, bytes]] = ()
) -> Iterator[Any]:
    """Yields a file that pyarrow encodes, with a row group for each table."""
    sink = pa.BufferOutputStream()
    kept = {key: value for key, value in metadata if key != ARROW}
    with pq.ParquetWriter(sink, schema.with_metadata(kept), compression=codec) as writer:
        for table in tables:
            writer.write_table(table.cast(writer.schema), row_group_size=max(1, table.num_rows))
    yield sink.getvalue()


def _column_chunks(table: pa.Table, codec: str) -> tuple[Footer, Encoded]:
    """Encodes columns as one row group."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=max(1, table.num_rows), compression=codec, store_schema=False)
    data = sink.getvalue()
    file = pa.BufferReader(data)
    footer = footers.read_footer(file, data.size, "")
    return footer, footers.read_group(file, footer, footer.groups[0], None)


def _source(block: ParquetBlock) -> Footer:
    assert block.footer is not None  # noqa: S101  the block has row groups
    return block.footer


def _codec(group: Encoded) -> str:
    """Returns pyarrow's name of the codec of a row group, if pyarrow writes it."""
    codecs = {footers.CODECS[column.chunk.of(footers.META).of(footers.CODEC)] for column in group.columns}
    return codecs.pop() if len(codecs) == 1 and codecs <= WRITES else COMPRESSION


def _schema(block: ParquetBlock, added: pa.Table, names: Sequence[str]) -> pa.Schema:
    """Returns the schema of a part. Fields keep their metadata, such as their ids."""
    there = block.arrow_schema()
    return pa.schema(
        [there.field(name) if name not in added.column_names else added.schema.field(name) for name in names]
    )


def _metadata(footer: Footer, schema: pa.Schema) -> list[tuple[bytes, bytes]]:
    """Returns the metadata of the source, with the Arrow schema of the part."""
    kept = [pair for pair in footers.key_values(footer) if pair[0] != ARROW]
    return [*kept, (ARROW, base64.b64encode(schema.with_metadata(dict(kept)).serialize().to_pybytes()))]
