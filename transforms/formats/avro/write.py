"""Writes Avro files: records with their predictions.

A record is its fields, one after another, so predictions are bytes that follow the bytes of a record. A record of which
only some fields are written is put together from the bytes of these fields.
"""

import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.errors import UsageError
from transforms.formats import blocks, slices
from transforms.formats.added_columns import not_utf8, typed_columns, without_key
from transforms.formats.avro import decode, encode
from transforms.formats.avro.container import (
    SCHEMA,
    Header,
    new_header,
    places,
    read_block,
    read_header,
    write_block,
    write_header,
)
from transforms.formats.avro.decode import Piece
from transforms.formats.avro.read import AvroBlock
from transforms.formats.avro.schema import Schema, extended, sections
from transforms.formats.base import Block, Joined
from transforms.reasons import Reason
from transforms.records import BadRow, Layout, Positions, without
from transforms.threads import in_threads

BLOCK_BYTES, BLOCK_ROWS = 1 << 20, 16_384  # a block ends with the record that makes it as large as one of these
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CONVERTED = "deflate"  # the codec of parts whose sources have another format: every reader has it
ROW = '{"type":"record","name":"row","fields":[]}'


class AvroWriter:
    """Writes Avro files, see `transforms.formats.base.Writer`."""

    name = "avro"
    traits = AvroBlock.traits

    def write(self, block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> Joined:
        """Joins predictions to their records, see `transforms.formats.base.Writer`."""
        own = blocks.own(block, AvroBlock)
        numbers, added, refused = _added(own, bad, predictions, layout)
        names = _names(own.schema_of_file, layout)
        types = {
            name: encode.type_of(
                column.type,
                _unused(name, own.schema_of_file),
                nullable=bool(layout.error) and name not in (layout.key, *dict(layout.lineage)),
                items=False,
            )
            for name, column in added
        }
        schema = extended(own.header, names, types)
        header = own.file._replace(meta={**own.file.meta, SCHEMA: schema.encode()})
        step = slices.row_count(len(numbers), own.nbytes + predictions.nbytes)

        def encode_rows(first: int) -> pa.LargeBinaryArray:
            part = slice(first, first + step)
            found = {
                name: encode.pieces(column[part], nullable=isinstance(types[name], list), items=False)
                for name, column in added
            }
            return _rows(own, numbers[part], found, names)

        return Joined(_file(header, in_threads(encode_rows, range(0, len(numbers), step))), refused)

    def read_back(self, part: bytes) -> AvroBlock:
        """Makes a block of the records of a part."""
        return _read(part)

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Merges the records of several parts into one part, see `transforms.formats.base.Writer`."""
        found = [_read(data) for data, _ in parts]
        order = blocks.merged_order([len(block.positions) for block in found], [numbers for _, numbers in parts])
        records = [columns.gather(block.data, block.rows.starts, block.rows.ends) for block in found]
        return _file(found[0].file, [pa.concat_arrays(records).take(order)])

    def encode(self, table: pa.Table) -> Joined:
        """Writes rows that come from another format, see `transforms.formats.base.Writer`."""
        for name in table.column_names:
            check_name(name)
        types = {field.name: encode.type_of(field.type, field.name, nullable=field.nullable) for field in table.schema}
        header = new_header(extended(ROW, None, types), CONVERTED)
        whole = table.combine_chunks()
        wide = np.zeros(whole.num_rows, np.bool_)
        for column in whole.columns:
            wide |= encode.beyond(columns.one(column))
        if wide.any():
            made = self.encode(whole.filter(pa.array(~wide)))
            message = "an integer in it does not fit a long"
            rows = np.flatnonzero(wide).tolist()
            return made._replace(bad=[BadRow(row, "write", Reason.OUT_OF_RANGE.value, message) for row in rows])
        step = slices.row_count(whole.num_rows, whole.nbytes)

        def encode_rows(first: int) -> pa.LargeBinaryArray:
            part = whole.slice(first, step)
            found = [
                encode.pieces(columns.one(part[f.name]), nullable=isinstance(types[f.name], list)) for f in part.schema
            ]
            return columns.join(found)

        return Joined(_file(header, in_threads(encode_rows, range(0, whole.num_rows, step))), [])


def check_name(name: str) -> None:
    """Checks that a field may have a name, https://avro.apache.org/docs/1.12.0/specification/#names.

    Raises:
        UsageError: It may not.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"Avro has no field names like {name!r}; use letters, digits and _, see --rename")


def _added(
    block: AvroBlock, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout
) -> tuple[Positions, list[tuple[str, pa.Array]], list[BadRow]]:
    """Makes the columns that are added to the rows of a part.

    Returns:
        The numbers of the rows to write; the columns, with one record for each of them; and the rows that have a
        prediction but cannot be written with it.
    """
    numbers = without(len(block.positions), bad)
    held = (*not_utf8(predictions, layout, numbers), *_beyond(predictions, layout, numbers))
    found = {one.row: one for one in (*held, *without_key(block.schema_of_file.fields, layout, numbers))}
    refused = sorted(found.values())
    return *typed_columns(block, bad, refused, predictions, layout), refused


def _beyond(predictions: pa.RecordBatch, layout: Layout, numbers: Positions) -> Iterator[BadRow]:
    """Finds predictions that are too large for a long, the widest integer of Avro."""
    for output, name in layout.predictions:
        message = f"prediction {name}: an integer in it does not fit a long"
        for row in numbers[encode.beyond(predictions[output])].tolist():
            yield BadRow(row, "write", Reason.OUT_OF_RANGE.value, message)


def _names(schema: Schema, layout: Layout) -> tuple[str, ...] | None:
    """Returns the names of the fields of an output row, in order; None for the whole row and then the added fields.

    Raises:
        UsageError: A name is not one that Avro has, or an output row would have it twice.
    """
    for name in layout.added:
        check_name(name)
    own = [name for name in schema.fields if layout.keeps(name)] if layout.row else []
    if twice := sorted(set(own) & set(layout.added)):
        raise UsageError(f"the rows already have a field {twice[0]}; choose another name with --rename")
    if layout.whole_row:
        return None
    return layout.written(schema.fields)


def _unused(name: str, schema: Schema) -> str:
    """Returns a name for a type that no type of a schema has."""
    taken = {full.rpartition(".")[2] for full in schema.names}
    return next(made for made in (f"{name}_type{'_' * count}" for count in itertools.count()) if made not in taken)


def _rows(
    block: AvroBlock, numbers: Positions, added: dict[str, pa.LargeBinaryArray], names: tuple[str, ...] | None
) -> pa.LargeBinaryArray:
    """Makes output rows.

    Args:
        block: The rows of a chunk.
        numbers: The numbers of the rows to write.
        added: The encoded values of each added field.
        names: The fields of an output row, see `_names`.
    """
    starts, ends = block.rows.starts[numbers], block.rows.ends[numbers]
    if names is None:
        return columns.join([columns.gather(block.data, starts, ends), *added.values()])
    taken = sections(block.header, names)
    bounds = decode.borders(block.data, starts, taken.decode)
    found = {name: columns.gather(block.data, bounds[:, at], bounds[:, at + 1]) for name, at in taken.places.items()}
    return columns.join([(found | added)[name] for name in names if name in found or name in added])


def _file(header: Header, rows: Iterable[pa.LargeBinaryArray]) -> Iterator[bytes]:
    """Makes a file of output rows. The blocks depend on the rows alone, not on how these are divided among `rows`."""
    yield write_header(header)
    yield from in_threads(lambda part: write_block(header, len(part), columns.contents(part)), _blocks(rows))


def _blocks(rows: Iterable[pa.LargeBinaryArray]) -> Iterator[pa.LargeBinaryArray]:
    rest: list[pa.LargeBinaryArray] = []
    for some in rows:
        left = pa.concat_arrays([*rest, some])
        ends = np.cumsum(columns.sizes(left))
        start = 0
        while True:
            before = ends[start - 1] if start else 0
            end = min(int(np.searchsorted(ends, before + BLOCK_BYTES)) + 1, start + BLOCK_ROWS)
            if end > len(left):
                break
            yield left[start:end]
            start = end
        rest = [left[start:]]
    if rest and len(rest[0]):
        yield rest[0]


def _read(part: bytes) -> AvroBlock:
    file = io.BytesIO(part)
    header = read_header(file)
    pieces = [Piece(read_block(file, header, place), place.rows, place.start) for place in places(file, header)]
    return AvroBlock("", header, pieces, np.arange(sum(piece.rows for piece in pieces)))
