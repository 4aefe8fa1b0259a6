"""Converts typed columns to the schema of parts of another format."""

import pyarrow as pa

from transforms import columns
from transforms.formats.slices import Why
from transforms.reasons import Reason


def conform(table: pa.Table, schema: pa.Schema) -> tuple[pa.Table, dict[int, Why]]:
    """Converts columns to the types of a schema, without losing anything.

    Args:
        table: The rows.
        schema: Names and types of the columns, in order. A column that the table lacks is null. Other columns of the
            table are not converted.

    Returns:
        The columns; and for each row that does not fit, its number -> reason code and message. Its values are null.
    """
    bad = dict[int, Why]()
    found = [
        _cast(columns.one(table[field.name]), field, bad)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(found, schema=schema), bad


def _cast(array: pa.Array, field: pa.Field, bad: dict[int, Why]) -> pa.Array:
    try:
        return array if array.type == field.type else array.cast(field.type)
    except pa.ArrowException:
        each = []
        for row in range(len(array)):
            try:
                each.append(array[row : row + 1].cast(field.type))
            except pa.ArrowException as error:
                message = f"field {field.name}: {str(error).splitlines()[0][:200]}"
                bad.setdefault(row, (Reason.WRONG_TYPE.value, message))
                each.append(pa.nulls(1, field.type))
        return pa.concat_arrays(each)
