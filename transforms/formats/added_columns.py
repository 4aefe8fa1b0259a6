"""Makes the columns that keyjoin adds to rows, for formats that give each column a type, and for CSV."""

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns, dead_letters
from transforms.formats.base import Block
from transforms.reasons import Reason
from transforms.records import PREDICTION, BadRow, Layout, Positions, without

ERROR = pa.struct([(name, pa.string()) for name in ("stage", "reason", "message", "row", "row_encoding")])


def added_columns(
    predictions: pa.RecordBatch, layout: Layout, keys: pa.Array | None, errors: pa.Array | None, *, texts: bool = True
) -> list[tuple[str, pa.Array]]:
    """Names and types the columns that are added to rows: the predictions, the error, the key, the lineage.

    Numbers and bools keep their dtype. A vector is a fixed-size list, a value of an open size is a list. Strings are
    `pa.string()`. If rows are JSON values and there are several predictions, these are one struct column.

    Args:
        predictions: The outputs of the model, one record for each output row. A record is null where the row has no
            prediction, see `spread`. No string is outside UTF-8, see `not_utf8`.
        layout: The fields of an output row. With `layout.scalars` a value of the shape (rows, 1) is a scalar.
        keys: The key of each output row, see `key_column`; None if `layout.key` is None.
        errors: The error of each output row, see `error_column`; None if `layout.error` is None.
        texts: Whether predicted strings are `pa.string()`. Otherwise they stay bytes, in or outside UTF-8.

    Returns:
        Name and values of each column.
    """
    added = [
        (name, _typed(predictions[output], scalars=layout.scalars, texts=texts)) for output, name in layout.predictions
    ]
    if layout.is_nested:
        names, arrays = zip(*added, strict=True)
        added = [(PREDICTION, pa.StructArray.from_arrays(arrays, names, mask=arrays[0].is_null()))]
    if errors is not None:
        added.append((str(layout.error), errors))
    if keys is not None:
        added.append((str(layout.key), keys))
    same = np.zeros(predictions.num_rows, np.int64)
    added += [(name, pa.array([value]).take(same)) for name, value in layout.lineage]
    return added


def typed_columns(
    block: Block, bad: Sequence[BadRow], refused: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout
) -> tuple[Positions, list[tuple[str, pa.Array]]]:
    """Makes the columns that are added to rows of a typed format.

    In a left join the part has all rows. Their own fields have types, so bad rows keep them, too.

    Args:
        block: The rows of a chunk.
        bad: The rows without a prediction, in order.
        refused: The rows that have a prediction and cannot be written with it, in order.
        predictions: One record for each row that is not in `bad`, in order.
        layout: The fields of an output row.

    Returns:
        The numbers of the rows to write; and name and values of each column, see `added_columns`.
    """
    count, errors = len(block.positions), None
    numbers = without(count, bad)
    numbers, predictions = without_refused(numbers, predictions, refused)
    if layout.error:
        dead = sorted([*bad, *refused])
        predictions, numbers = spread(predictions, numbers, count), np.arange(count)
        errors = error_column(dead, [None] * len(dead), count)
    keys = key_column(block.source, block.positions[numbers]) if layout.key else None
    return numbers, added_columns(predictions, layout, keys, errors)


def spread(predictions: pa.RecordBatch, numbers: Positions, rows: int) -> pa.RecordBatch:
    """Adds a null record for each row without a prediction.

    Args:
        predictions: One record for each row that has a prediction.
        numbers: The numbers of these rows, ascending.
        rows: How many rows there are.

    Returns:
        One record for each row.
    """
    if len(numbers) == rows:
        return predictions
    return predictions.take(_places(numbers, rows))


def not_utf8(predictions: pa.RecordBatch, layout: Layout, numbers: Positions) -> list[BadRow]:
    """Finds the rows with a predicted string that is not UTF-8. A string column cannot hold it.

    Args:
        predictions: The outputs of the model, one record for each row that has a prediction, without nulls.
        layout: The fields of an output row.
        numbers: The numbers of these rows, ascending.

    Returns:
        The bad rows, in order, with the stage `write`.
    """
    found: dict[int, BadRow] = {}
    for output, name in layout.predictions:
        flat = columns.flat_values(predictions[output])
        if not pa.types.is_binary(flat.type):
            continue
        bounds = columns.value_bounds(predictions[output])
        message = f"prediction {name}: its bytes are not UTF-8, so a string column cannot hold them"
        for at in columns.not_utf8(flat).tolist():
            row = int(numbers[columns.record_of(bounds, at)])
            found.setdefault(row, BadRow(row, "write", Reason.NOT_UTF8.value, message))
    return sorted(found.values())


def without_refused(
    numbers: Positions, predictions: pa.RecordBatch, refused: Sequence[BadRow]
) -> tuple[Positions, pa.RecordBatch]:
    """Drops the rows that have a prediction and cannot be written with it.

    Args:
        numbers: The numbers of the rows with a prediction, ascending.
        predictions: One record for each of them.
        refused: The rows to drop.
    """
    if not refused:
        return numbers, predictions
    kept = ~np.isin(numbers, [one.row for one in refused])
    return numbers[kept], predictions.filter(pa.array(kept))


def without_key(fields: Collection[str], layout: Layout, numbers: Positions) -> list[BadRow]:
    """Finds the rows that lack the field to write as their key: none, or all rows of a file that does not have it.

    Args:
        fields: The fields of the file.
        layout: The fields of an output row.
        numbers: The numbers of the rows that have a prediction, ascending.
    """
    if not layout.key_field or layout.key_field in fields:
        return []
    message = f"field {layout.key_field}: not in the row"
    return [BadRow(row, "write", Reason.MISSING.value, message) for row in numbers.tolist()]


def key_column(source: str, positions: Positions) -> pa.StringArray:
    """Makes the key of each row, such as `data/a.csv#1024`.

    Args:
        source: Path of the source.
        positions: Position of each row in it.
    """
    return pc.binary_join_element_wise(pa.scalar(f"{source}#"), pa.array(positions).cast(pa.string()), "")


def error_column(bad: Sequence[BadRow], raws: Sequence[bytes | None], rows: int) -> pa.StructArray:
    """Makes the error of each row: a struct with the members of `dead_letters.error`, null for rows with predictions.

    Args:
        bad: The rows without a prediction, by their numbers.
        raws: For each of them its bytes, if the output row does not hold the row's own fields; else None.
        rows: How many rows there are.
    """
    values = [dead_letters.error_members(one, raw) for one, raw in zip(bad, raws, strict=True)]
    return pa.array(values, ERROR).take(_places(np.array([one.row for one in bad], np.int64), rows))


def _places(numbers: Positions, rows: int) -> pa.Int64Array:
    """Returns for each row its index in `numbers`, null if it is not there."""
    places = np.full(rows, -1)
    places[numbers] = np.arange(len(numbers))
    return pa.array(places, mask=places < 0)


def _typed(column: pa.Array, *, scalars: bool, texts: bool) -> pa.Array:
    column = scalar(column) if scalars else column
    return column.cast(_text(column.type)) if texts else column


def scalar(column: pa.Array) -> pa.Array:
    """Returns scalars in place of lists, if each record is a list of exactly one value that is no list itself."""
    return pc.list_element(column, 0) if _is_single(column.type) else column


def _is_single(kind: pa.DataType) -> bool:
    """Whether each record is a list of exactly one value, which is no list itself."""
    return pa.types.is_fixed_size_list(kind) and kind.list_size == 1 and not pa.types.is_nested(kind.value_type)


def _text(kind: pa.DataType) -> pa.DataType:
    """Returns a type with strings in place of bytes."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_text(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_text(kind.value_type))
    return pa.string() if pa.types.is_binary(kind) else kind
