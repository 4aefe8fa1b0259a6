"""Writes rows with a writer of another format: their own fields as columns, and the columns that keyjoin adds.

The result for a row depends on that row and on the planned schema alone. A row that does not fit the schema is bad, and
so is a row that the other format cannot hold.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from transforms import columns, dead_letters
from transforms.formats.added_columns import added_columns, error_column, key_column, not_utf8, spread
from transforms.formats.base import Block, Format, Joined, Writer
from transforms.reasons import Reason
from transforms.records import BadRow, Layout, Positions, without

INT64_MAX = np.iinfo(np.int64).max


def write(block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout, fmt: Format) -> Joined:
    """Joins predictions to rows of another format, see `transforms.formats.base.Writer.write`.

    Args:
        block: The rows of a chunk.
        bad: The rows without a prediction, in order.
        predictions: One record for each other row, in order.
        layout: The fields of an output row.
        fmt: The reader of the rows, the writer of the part, and its schema.
    """
    count = len(block.positions)
    numbers = without(count, bad)
    predictions, refused = _fitting(predictions, layout, fmt.writer, numbers)
    tried = np.arange(count) if layout.error else numbers
    own, misfits = own_fields(block, tried, schema_of(fmt), layout)
    rows = _Rows(block, own, spread(predictions, numbers, count), layout, fmt.writer)
    dead = {one.row: one for one in (*refused, *misfits, *bad)}
    lost = {one.row for one in misfits}
    joined = rows.encoded(dead, lost)
    misfits = [one._replace(row=int(rows.written(dead)[one.row])) for one in joined.bad]
    dead = {**{one.row: one for one in misfits}, **dead}
    if misfits and layout.error:  # the same rows again, without their own fields
        joined = rows.encoded(dead, lost | {one.row for one in misfits})
    new = dead.keys() - {one.row for one in bad}
    return Joined(joined.blocks, [dead[row] for row in sorted(new)])


def schema_of(fmt: Format) -> pa.Schema:
    """Returns the planned types of a row's own fields in the parts.

    Raises:
        ValueError: Parts have the format of their sources, so that there is no schema.
    """
    if fmt.schema is None:
        raise ValueError(f"{fmt.reader.name} to {fmt.writer.name}: no schema was planned")
    return fmt.schema


def own_fields(
    block: Block, numbers: Positions, schema: pa.Schema, layout: Layout
) -> tuple[dict[str, pa.Array], list[BadRow]]:
    """Converts the own fields of some rows.

    Args:
        block: The rows of a chunk.
        numbers: The numbers of the rows to convert, ascending.
        schema: The columns.
        layout: The fields of an output row.

    Returns:
        Name -> a value for each row of the chunk, null for rows that were not converted; and the rows that do not fit.
    """
    if not (layout.row or layout.key_field):
        return {}, []
    table, bad = instances(block, layout).table(numbers.tolist(), schema)
    fitting = numbers[~np.isin(numbers, [one.row for one in bad])]
    places = np.full(len(block.positions), -1)
    places[fitting] = np.arange(len(fitting))
    spread_out = table.take(pa.array(places, mask=places < 0))
    own = {name: columns.one(column) for name, column in zip(schema.names, spread_out.itercolumns(), strict=True)}
    if layout.key_field:
        missing = f"field {layout.key_field}: not in the row, or null"
        lacking = fitting[table[layout.key_field].is_null().to_numpy()]
        bad = sorted([*bad, *(BadRow(int(row), "write", Reason.MISSING.value, missing) for row in lacking)])
    return own, bad


def instances(block: Block, layout: Layout) -> Block:
    """Returns the rows as objects with the field `instance`, if they are JSON values."""
    if not layout.instance:
        return block
    from transforms.formats.blocks import own
    from transforms.formats.jsonl.read import LinesBlock  # the only format with such rows

    return own(block, LinesBlock).wrapped()


class _Rows(NamedTuple):
    """The rows of a chunk, ready to be encoded.

    Attributes:
        block: The rows.
        own: Name -> a value for each row.
        predictions: One record for each row, null where it has no prediction.
        layout: The fields of an output row.
        writer: The writer of the part.
    """

    block: Block
    own: Mapping[str, pa.Array]
    predictions: pa.RecordBatch
    layout: Layout
    writer: Writer

    def written(self, dead: Collection[int]) -> Positions:
        """Returns the numbers of the rows in the part: with a left join all rows, otherwise those not in `dead`."""
        every = np.arange(len(self.block.positions))
        return every if self.layout.error else np.delete(every, list(dead))

    def encoded(self, dead: Mapping[int, BadRow], lost: Collection[int]) -> Joined:
        """Encodes the part.

        Args:
            dead: Number of a bad row -> why it is bad.
            lost: The bad rows whose own fields are not written.
        """
        numbers = self.written(dead)
        places = np.arange(len(self.block.positions))
        own = _nulls_at(places, lost)
        scored = self.predictions.take(_nulls_at(places, dead).take(pa.array(numbers)))
        fields = {name: column.take(own).take(pa.array(numbers)) for name, column in self.own.items()}
        keys = key_column(self.block.source, self.block.positions[numbers]) if self.layout.key else None
        errors = self._errors(dead, lost) if self.layout.error else None
        key = {name: fields.pop(name) for name in (self.layout.key_field,) if name}
        texts = self.writer.traits.typed or self.writer.traits.text_cells
        fields |= dict(added_columns(scored, self.layout, keys, errors, texts=texts)) | key
        # A prediction is null only in a left join. So all parts of a run have the same types.
        sure = () if self.layout.error else self.layout.predicted
        schema = pa.schema(
            [pa.field(name, fields[name].type, nullable=name not in sure) for name in self.layout.order or fields]
        )
        return self.writer.encode(pa.Table.from_arrays([fields[name] for name in schema.names], schema=schema))

    def _errors(self, dead: Mapping[int, BadRow], lost: Collection[int]) -> pa.Array:
        """Makes the error of each row: a struct, or its JSON text where a field cannot be a struct."""
        rows = sorted(dead)
        raws = self.block.raw(rows).to_pylist()
        hidden = [raw if self.layout.whole_row and row in lost else None for row, raw in zip(rows, raws, strict=True)]
        bad = [dead[row] for row in rows]
        if not (self.writer.traits.flat_lists or self.writer.traits.text_cells):
            return error_column(bad, hidden, len(self.block.positions))
        texts: list[str | None] = [None] * len(self.block.positions)
        for one, raw in zip(bad, hidden, strict=True):
            texts[one.row] = dead_letters.error(one, raw).decode()
        return pa.array(texts, pa.string())


def _nulls_at(places: Positions, rows: Collection[int]) -> pa.Int64Array:
    return pa.array(places, mask=np.isin(places, list(rows)))


def _fitting(
    predictions: pa.RecordBatch, layout: Layout, writer: Writer, numbers: Positions
) -> tuple[pa.RecordBatch, list[BadRow]]:
    """Converts predictions to the values that a writer's fields can hold.

    In a flat list, shapes are flattened, row-major, and float64 predictions are rounded to float32.

    Args:
        predictions: One record for each row that has a prediction.
        layout: The fields of an output row.
        writer: The writer of the part.
        numbers: The numbers of these rows.

    Returns:
        The predictions of all these rows; and the rows whose prediction no field can hold.
    """
    if writer.traits.typed or writer.traits.text_cells:
        return predictions, not_utf8(predictions, layout, numbers)
    if not writer.traits.flat_lists:
        return predictions, []
    flat, refused = {}, dict[int, BadRow]()
    for output, name in layout.predictions:
        values, bounds = columns.flat_values(predictions[output]), columns.value_bounds(predictions[output])
        held, beyond = _narrowed(values)
        for at in np.flatnonzero(beyond).tolist():
            row = int(numbers[columns.record_of(bounds, at)])
            message = f"prediction {name}: {values[at]} does not fit {held.type}"
            refused.setdefault(row, BadRow(row, "write", Reason.OUT_OF_RANGE.value, message))
        flat[output] = pa.LargeListArray.from_arrays(pa.array(bounds), held)
    return pa.record_batch(flat), sorted(refused.values())


def _narrowed(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Casts float64 to float32, and uint64 to int64. Returns the values, and which of them do not fit."""
    none = np.zeros(len(values), np.bool_)
    if values.type == pa.float64():
        wide = values.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        return pa.array(narrow), np.isfinite(wide) & ~np.isfinite(narrow)
    if values.type == pa.uint64():
        whole = values.to_numpy(zero_copy_only=False)
        return pa.array(whole.astype(np.int64)), whole > INT64_MAX
    return values, none
