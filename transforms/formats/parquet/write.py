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

from transforms.columns import is_list
from transforms.errors import RunError
from transforms.formats import blocks
from transforms.formats.added_columns import not_utf8, typed_columns, without_key
from transforms.formats.base import Block, Joined
from transforms.formats.parquet import footer as footers
from transforms.formats.parquet.footer import Column, Encoded, Footer
from transforms.formats.parquet.read import ParquetBlock, ParquetReader, own
from transforms.records import BadRow, Chunk, Layout, Positions, without
from transforms.threads import in_threads

ARROW = b"ARROW:schema"  # the key under which Arrow keeps its schema in the metadata of a file
# The keys under which other programs keep their own schema of the columns. Such a program reads no other column, so it
# would not read the predictions. Without the key it reads the schema of the file.
OTHER_SCHEMAS = (
    b"org.apache.spark.sql.parquet.row.metadata",
    b"parquet.avro.schema",
    b"avro.schema",
    b"parquet.proto.descriptor",
    b"thrift.descriptor",
    b"iceberg.schema",
)
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
        copied = _copied(rows, added, names) if rows.groups else None
        return Joined(copied or _encoded(rows, added, names), added.refused)

    def read_back(self, part: bytes) -> ParquetBlock:
        """Makes a block of the rows of a part."""
        rows = pq.read_metadata(pa.BufferReader(part)).num_rows
        return ParquetReader().load(io.BytesIO(part), Chunk("", "", 0, rows, 0, 1, ""))

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Merges the rows of several parts into one part, see `transforms.formats.base.Writer`."""
        tables = [pq.read_table(pa.BufferReader(data)) for data, _ in parts]
        order = blocks.merged_order([table.num_rows for table in tables], [numbers for _, numbers in parts])
        whole = pa.concat_tables([table.cast(tables[0].schema) for table in tables]).take(order)
        first = self.read_back(parts[0][0])
        return _write([whole], whole.schema, _codec(first), _metadata(_source(first), whole.schema))

    def encode(self, table: pa.Table) -> Joined:
        """Writes rows that come from another format."""
        schema = pa.schema([field.with_type(_readable(field.type, nulls=field.nullable)) for field in table.schema])
        parts = (table.slice(at, GROUP_ROWS) for at in range(0, table.num_rows, GROUP_ROWS))
        return Joined(_write(parts, schema, COMPRESSION), [])


def _add(block: ParquetBlock, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> _Added:
    numbers = without(len(block.positions), bad)
    found = {
        one.row: one for one in (*not_utf8(predictions, layout, numbers), *without_key(block.names, layout, numbers))
    }
    refused = sorted(found.values())
    numbers, columns = typed_columns(block, bad, refused, predictions, layout)
    made = dict(columns)
    schema = pa.schema([(name, _readable(array.type, nulls=bool(layout.error))) for name, array in made.items()])
    return _Added(numbers, pa.table(made).cast(schema), refused)


def _readable(kind: pa.DataType, *, nulls: bool) -> pa.DataType:
    """Returns a type in which every program can read a column.

    The values of a list are called `element`, as the format demands:
    https://github.com/apache/parquet-format/blob/apache-parquet-format-2.12.0/LogicalTypes.md#lists

    Args:
        kind: The type of the column.
        nulls: Whether values may be null. pyarrow cannot read null lists of a fixed size.
    """
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_readable(field.type, nulls=nulls)) for field in kind])
    if not is_list(kind):
        return kind
    element = pa.field("element", _readable(kind.value_type, nulls=nulls))
    return pa.list_(element, kind.list_size if pa.types.is_fixed_size_list(kind) and not nulls else -1)


def _names(fields: Sequence[str], layout: Layout) -> tuple[str, ...]:
    """Returns the names of the columns of a part, in order.

    Raises:
        RunError: The part would have a name twice.
    """
    own_fields = [name for name in fields if layout.keeps(name)] if layout.row else []
    twice = sorted(set(own_fields) & set(layout.added))
    if twice:
        raise RunError(f"the rows already have a column {twice[0]}; choose another name with --rename")
    return layout.written(fields)


def _copied(block: ParquetBlock, added: _Added, names: Sequence[str]) -> Iterator[Any] | None:
    """Makes a part in which the columns of the source are copied, except those of row groups without some rows.

    Args:
        block: The rows of whole row groups.
        added: The columns to add.
        names: The columns of the part, in order.

    Returns:
        The bytes of the part. None if pyarrow would encode the columns of a row group in other types than the file has.
    """
    source, schema = _source(block), _schema(block, added.table, names)
    bounds = np.searchsorted(added.numbers, np.cumsum([0, *(group.rows for group in block.groups)])).tolist()
    whole = [end - first == group.rows for (first, end), group in _paired(bounds, block.groups)]
    codec = _codec(block)
    again, _ = _column_chunks(schema.empty_table(), codec)
    elements = footers.elements(again.meta) | footers.elements(source.meta)
    if not all(whole) and any(footers.elements(again.meta)[name] != elements[name] for name in names):
        return None

    def join(at: int) -> Encoded:
        first, end = bounds[at : at + 2]
        table, group = added.table.slice(first, end - first), block.groups[at]
        if not whole[at]:
            own_rows = block.rows.take(pa.array(added.numbers[first:end]))
            return _column_chunks(_joined(own_rows, table, schema), codec, dictionaries=True)[1]
        both: dict[str, list[Column]] = {}
        for column in (*group.columns, *_column_chunks(table, codec)[1].columns):
            both.setdefault(column.field, []).append(column)
        return Encoded(group.meta, [column for name in names for column in both[name]])

    groups = list(in_threads(join, [at for at in range(len(whole)) if bounds[at] < bounds[at + 1]]))
    flat = list(itertools.chain.from_iterable(elements[name] for name in names))
    return footers.file_of(source, flat, groups, _metadata(source, schema))


def _paired(bounds: Sequence[int], groups: Sequence[Encoded]) -> Iterator[tuple[tuple[int, int], Encoded]]:
    return zip(itertools.pairwise(bounds), groups, strict=True)


def _joined(own_rows: pa.Table, added: pa.Table, schema: pa.Schema) -> pa.Table:
    there = set(added.column_names)
    return pa.table([(added if name in there else own_rows)[name] for name in schema.names], schema=schema)


def _encoded(block: ParquetBlock, added: _Added, names: Sequence[str]) -> Iterator[Any]:
    """Yields a part in which pyarrow encodes all columns, in the row groups of the source."""
    schema = _schema(block, added.table, names)
    own_names = [name for name in names if name in block.names and name not in added.table.column_names]
    table = _joined(block.decode(own_names).take(pa.array(added.numbers)), added.table, schema)
    metadata = _metadata(_source(block), schema) if block.footer else []
    yield from _write(_by_group(block, added.numbers, table), schema, _codec(block), metadata)


def _by_group(block: ParquetBlock, numbers: Positions, whole: pa.Table) -> Iterator[pa.Table]:
    ends = np.cumsum([group.rows for group in block.groups] or [len(block.positions)])
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
    # The values of lists keep the names that they have in the source.
    names = {"use_compliant_nested_type": False}
    with pq.ParquetWriter(sink, schema.with_metadata(kept), compression=codec, **names) as writer:
        for table in tables:
            writer.write_table(table.cast(writer.schema), row_group_size=max(1, table.num_rows))
    yield sink.getvalue()


def _column_chunks(table: pa.Table, codec: str, *, dictionaries: bool = False) -> tuple[Footer, Encoded]:
    """Encodes columns as one row group. Few predictions and keys are equal, so dictionaries would only cost time."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, table.num_rows),
        compression=codec,
        use_dictionary=dictionaries,
        use_compliant_nested_type=False,
        store_schema=False,
    )
    data = sink.getvalue()
    file = pa.BufferReader(data)
    footer = footers.read_footer(file, data.size, "")
    return footer, footers.read_group(file, footer, footer.groups[0], None)


def _source(block: ParquetBlock) -> Footer:
    assert block.footer is not None  # noqa: S101  the block has row groups
    return block.footer


def _codec(block: ParquetBlock) -> str:
    """Returns pyarrow's name of the codec of the rows' file, if it has one codec and pyarrow writes it."""
    groups = block.footer.groups[:1] if block.footer else []
    codecs = {
        footers.CODECS[chunk.of(footers.META).of(footers.CODEC)]
        for group in groups
        for chunk in group.meta.items_of(footers.COLUMNS)
    }
    return codecs.pop() if len(codecs) == 1 and codecs <= WRITES else COMPRESSION


def _schema(block: ParquetBlock, added: pa.Table, names: Sequence[str]) -> pa.Schema:
    """Returns the schema of a part. Fields keep their metadata, such as their ids."""
    there = block.arrow_schema()
    return pa.schema(
        [there.field(name) if name not in added.column_names else added.schema.field(name) for name in names]
    )


def _metadata(footer: Footer, schema: pa.Schema) -> list[tuple[bytes, bytes]]:
    """Returns the metadata of the source, with the Arrow schema of the part and without other schemas."""
    kept = [pair for pair in footers.key_values(footer) if pair[0] not in (ARROW, *OTHER_SCHEMAS)]
    return [*kept, (ARROW, base64.b64encode(schema.with_metadata(dict(kept)).serialize().to_pybytes()))]
