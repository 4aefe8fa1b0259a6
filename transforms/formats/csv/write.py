"""Writes delimited text with predictions: each record's own bytes, followed by the cells that keyjoin adds.

Each part is a file with a header. A record of which only some cells are written is put together from its cells, as they
are spelled.
"""

import io
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.errors import RunError, UsageError
from transforms.formats import blocks, slices
from transforms.formats.added_columns import added_columns, error_column, key_column, not_utf8, spread, without_refused
from transforms.formats.base import Block, Joined
from transforms.formats.csv import cells, encode, split
from transforms.formats.csv.diagnose import SHOWN
from transforms.formats.csv.dialect import Dialect
from transforms.formats.csv.read import CsvBlock
from transforms.mapping.name_lists import repeated
from transforms.reasons import Reason
from transforms.records import BadRow, Layout, Mask, Positions, Rows, without
from transforms.threads import in_threads

LINE_END = b"\n"  # of rows that come from another format
UNREADABLE = (Reason.NOT_CSV.value, Reason.WRONG_CELLS.value, Reason.NOT_UTF8.value)  # such cells are not written


class CsvWriter:
    """Writes delimited text, see `transforms.formats.base.Writer`."""

    traits = CsvBlock.traits

    def __init__(self, name: str, dialect: Dialect) -> None:
        """Makes a writer.

        Args:
            name: Name of the format.
            dialect: The dialect of the sources, in which the parts are written. They always have a header.
        """
        self.name, self.dialect = name, dialect._replace(has_header=True)

    def write(self, block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> Joined:
        """Joins predictions to their records, see `transforms.formats.base.Writer`."""
        own = blocks.own(block, CsvBlock)
        numbers = without(len(own.rows.starts), bad)
        refused = _refuse(own, predictions, layout, numbers)
        numbers, predictions = without_refused(numbers, predictions, refused)
        plan = _plan(own, sorted([*bad, *refused]), numbers, predictions, layout)
        step = slices.row_count(len(plan.written), own.nbytes + predictions.nbytes)
        firsts = range(0, len(plan.written), step)
        made = in_threads(lambda first: _write_slice(plan, slice(first, first + step)), firsts)
        return Joined(itertools.chain([_header(plan)], made), refused)

    def read_back(self, part: bytes) -> CsvBlock:
        """Makes a block of the records of a part."""
        return _part(part, self.dialect)

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Merges the records of several parts into one part, see `transforms.formats.base.Writer`.

        All records end like the header of the first part. Rows that come by themselves have lost their line ends.
        """
        first = self.read_back(parts[0][0])
        pieces: list[pa.LargeBinaryArray] = []
        for data, _ in parts:
            part = self.read_back(data)
            rows = part.rows
            if part.header != first.header:
                raise RunError(f"parts of one chunk have the headers {first.header} and {part.header}; run again")
            records = columns.gather(data, rows.starts, split.after(data, rows.ends))
            if len(pieces):
                records = columns.join([columns.gather(data, rows.starts, rows.ends), _scalar(first.line_end)])
            pieces.append(records)
        head = first.header.encode() + first.line_end
        order = blocks.merged_order([len(piece) for piece in pieces], [numbers for _, numbers in parts])
        return [head, columns.contents(pa.concat_arrays(pieces).take(order))]

    def encode(self, table: pa.Table) -> Joined:
        """Writes rows that come from another format, see `transforms.formats.base.Writer`."""
        if bad := _not_text(table):
            table = table.take(pa.array(without(table.num_rows, bad)))
        found = encode.flatten([(name, columns.one(table[name])) for name in table.column_names])
        head = self.dialect.record(name.encode() for name, _ in found) + LINE_END
        made = [encode.encode(array, self.dialect) for _, array in found]
        return Joined([head, columns.contents(encode.records(made, _scalar(LINE_END), self.dialect))], bad)


def _not_text(table: pa.Table) -> list[BadRow]:
    """Finds the records with bytes that are not UTF-8 in a column of bytes."""
    found: dict[int, BadRow] = {}
    for field in table.schema:
        if not columns.is_bytes(field.type):
            continue
        values = columns.one(table[field.name])
        message = f"field {field.name}: its bytes are not UTF-8, so delimited text cannot hold them"
        for at in columns.not_utf8(values).tolist():
            found.setdefault(at, BadRow(at, "write", Reason.SCHEMA.value, message))
    return sorted(found.values())


class _Plan(NamedTuple):
    """What is written for a chunk.

    Attributes:
        block: The rows of the chunk.
        written: The numbers of the rows that are written, ascending. int64.
        predictions: One record for each of them, null for a row without a prediction.
        errors: The error of each of them; None if bad rows are not written.
        stays: Marks those of them whose own cells are written. bool.
        layout: The fields of an output row.
        fields: The names of the output row's fields in their order, each with whether the row itself has it.
        dialect: The dialect of the part.
    """

    block: CsvBlock
    written: Positions
    predictions: pa.RecordBatch
    errors: pa.StructArray | None
    stays: Mask
    layout: Layout
    fields: list[tuple[str, bool]]
    dialect: Dialect


def _refuse(block: CsvBlock, predictions: pa.RecordBatch, layout: Layout, numbers: Positions) -> list[BadRow]:
    """Finds rows with a prediction that cannot be written."""
    key = layout.key_field
    if key and key not in block.names:
        message = f"column {key}: not in the file"
        return [BadRow(row, "write", Reason.MISSING.value, message) for row in numbers.tolist()]
    refused = not_utf8(predictions, layout, numbers)
    numbers, predictions = without_refused(numbers, predictions, refused)
    return sorted([*refused, *_unspelled(predictions, layout, numbers, block.dialect)])


def _unspelled(predictions: pa.RecordBatch, layout: Layout, numbers: Positions, dialect: Dialect) -> list[BadRow]:
    """Finds the rows with a prediction that would need quotes, where no character quotes cells."""
    found: dict[int, BadRow] = {}
    texts = layout._replace(scalars=True, error=None, key=None)
    for name, array in encode.flatten(added_columns(predictions, texts, None, None)) if dialect.quote is None else ():
        for at in np.flatnonzero(encode.encode(array, dialect).is_null()).tolist():
            message = f"prediction {name}: {str(array[at].as_py())[:SHOWN]!r} would need quotes, and there are none"
            found.setdefault(at, BadRow(int(numbers[at]), "write", Reason.SCHEMA.value, message))
    return list(found.values())


def _plan(
    block: CsvBlock, bad: Sequence[BadRow], numbers: Positions, predictions: pa.RecordBatch, layout: Layout
) -> _Plan:
    """Plans a part. `bad` are all rows without a prediction, `numbers` are the others, both in order."""
    count, fields = len(block.rows.starts), _fields(block.names, layout)
    if not layout.error:
        stays = np.ones(len(numbers), np.bool_)
        return _Plan(block, numbers, predictions, None, stays, layout, fields, block.dialect)
    stays = np.ones(count, np.bool_)
    stays[[one.row for one in bad if one.stage == "read" and one.reason in UNREADABLE]] = False
    kept = [None if stays[one.row] or not layout.whole_row else block.raw([one.row])[0].as_py() for one in bad]
    errors, spreaded = error_column(bad, kept, count), spread(predictions, numbers, count)
    return _Plan(block, np.arange(count), spreaded, errors, stays, layout, fields, block.dialect)


def _fields(own: Sequence[str], layout: Layout) -> list[tuple[str, bool]]:
    """Lists the fields of an output row in their order, each with whether it is a field of the row itself."""
    if layout.order:
        return [(name, name not in layout.added) for name in layout.order]
    kept = layout.include or [name for name in own if name not in layout.exclude]
    fields = [(name, True) for name in kept] if layout.row else []
    fields += [(name, False) for name in layout.added]
    return [*fields, (layout.key_field, True)] if layout.key_field else fields


def _added(plan: _Plan, part: slice) -> dict[str, encode.Columns]:
    """Makes the columns that keyjoin adds to a range of the written rows: field -> its columns."""
    block, layout = plan.block, plan.layout
    keys = key_column(block.source, block.positions[plan.written[part]]) if layout.key else None
    errors = None if plan.errors is None else plan.errors[part]
    found = added_columns(plan.predictions[part], layout._replace(scalars=True), keys, errors)
    return {name: encode.flatten([(name, array)]) for name, array in found}


def _header(plan: _Plan) -> bytes:
    """Makes the header of a part. Names that the source has keep their spelling if whole rows are written.

    Raises:
        UsageError: Two columns would have the same name, or the dialect cannot spell errors or keys. The plan writes a
            header, so it is raised before the run.
    """
    _check_spelled(plan)
    added = _added(plan, slice(0, 0))
    own, new, found = list[str](), list[str](), list[str]()
    for name, is_own in plan.fields:
        group = [name] if is_own else [column for column, _ in added[name]]
        (own if is_own else new).extend(group)
        found += group
    twice = repeated(found)
    if twice is not None:
        raise UsageError(f"two columns would be called {twice}; rename the predictions with --prediction_prefix=TEXT")
    spell, block = plan.dialect.record, plan.block
    if not plan.layout.whole_row:
        return spell(name.encode() for name in found) + block.line_end
    kept = [block.header.encode()] if own else []
    made = [*kept, spell(name.encode() for name in new)] if new else kept
    return plan.dialect.delimiter_text.join(made) + block.line_end


def _check_spelled(plan: _Plan) -> None:
    """Refuses errors and keys that would need quotes, where no character quotes cells.

    Raises:
        UsageError: They would.
    """
    dialect, layout, remedy = plan.dialect, plan.layout, "write another format with --output_format=jsonl"
    if layout.error and not dialect.spells_json:
        raise UsageError(
            f"--bad_rows=null writes errors as JSON text, which needs quotes between {chr(dialect.delimiter)!r}, and "
            f"--quote=none leaves none; leave --bad_rows=null out, or {remedy}"
        )
    if layout.key and dialect.spell(plan.block.source.encode()) is None:
        raise UsageError(
            f"the keys of {plan.block.source} would need quotes, and --quote=none leaves none; rename the file, or "
            f"{remedy}"
        )


def _write_slice(plan: _Plan, part: slice) -> pa.Buffer:
    """Makes the records of a range of the written rows."""
    block, dialect, numbers = plan.block, plan.dialect, plan.written[part]
    rows, stays = Rows(block.rows.starts[numbers], block.rows.ends[numbers]), plan.stays[part]
    added = {name: [_cells(array, plan) for _, array in made] for name, made in _added(plan, part).items()}
    if plan.layout.whole_row:
        records = columns.gather(block.data, rows.starts, rows.ends)
        if not stays.all():
            records = pc.if_else(pa.array(stays), records, dialect.delimiter_text * (len(block.names) - 1))
        made = [records, *itertools.chain.from_iterable(added.values())]
    else:
        own = _own_cells(plan, rows, stays)
        made = [cell for name, is_own in plan.fields for cell in ([own[name]] if is_own else added[name])]
    ends = pa.array([block.line_end, b"\n", b"\r\n"], pa.large_binary())
    sizes = split.after(block.data, rows.ends) - rows.ends if block.start is not None else np.zeros_like(rows.ends)
    return columns.contents(encode.records(made, ends.take(pa.array(sizes)), dialect))


def _own_cells(plan: _Plan, rows: Rows, stays: Mask) -> dict[str, pa.Scalar | pa.Array]:
    """Returns the cells that rows themselves have, as spelled: field -> cells. Fields that they lack are empty."""
    names_, empty = plan.block.names, _scalar(b"")
    found = cells.find(plan.block.data, Rows(rows.starts[stays], rows.ends[stays]), len(names_), plan.dialect)
    numbers = {name: at for at, name in enumerate(names_)}
    places = pa.array(np.maximum(np.cumsum(stays) - 1, 0))
    made: dict[str, pa.Scalar | pa.Array] = {}
    for name, own in plan.fields:
        if own and name in numbers and stays.any():
            column = found.column(numbers[name])
            made[name] = column if stays.all() else pc.if_else(pa.array(stays), column.take(places), empty)
        elif own:
            made[name] = empty
    return made


def _cells(array: pa.Array, plan: _Plan) -> pa.LargeBinaryArray:
    """Encodes a column that keyjoin adds.

    Raises:
        RunError: The dialect cannot spell a value.
    """
    made = encode.encode(array, plan.dialect)
    if made.null_count:
        value = array.filter(made.is_null())[0].as_py()
        raise RunError(
            f"the cell {value!r} would need quotes, and --quote=none leaves none; write another format with "
            "--output_format=jsonl"
        )
    return made


def _part(part: bytes, dialect: Dialect) -> CsvBlock:
    found = split.read_header(io.BytesIO(part), len(part), dialect)
    return CsvBlock("", part, dialect, found.text.decode(), 0, line_end=found.line_end)


def _scalar(value: bytes) -> pa.Scalar:
    return pa.scalar(value, pa.large_binary())
