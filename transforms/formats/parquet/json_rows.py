"""Writes rows of typed columns as JSON for dead letters, and reads them back.

| type | JSON |
|---|---|
| bool, integer, string | as JSON has them |
| float | a number; `"NaN"`, `"Infinity"`, `"-Infinity"` |
| decimal | its digits as a string |
| binary | `{"b64": …}` |
| date, timestamp | ISO 8601, such as `"2026-01-31"` and `"2026-01-31 23:59:59.000001Z"` |
| time of day, duration | a whole number of the unit of the type |
| list, struct | an array, an object |
| map | an array of pairs |
"""

import base64
import decimal
import json
import math
from typing import Any

import pyarrow as pa

from transforms.columns import B64
from transforms.errors import RunError

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_raw(row: dict[str, pa.Scalar]) -> bytes:
    """Returns the JSON of a row: name of a field -> value."""
    return json.dumps({name: to_json(value) for name, value in row.items()}, ensure_ascii=False).encode()


def from_raw(raws: list[bytes], schema: pa.Schema) -> pa.Table:
    """Makes columns of rows in JSON. A field that a row lacks is null.

    Raises:
        RunError: A row is not one object with values of the schema.
    """
    rows = []
    for raw in raws:
        try:
            row = json.loads(raw)
            if not isinstance(row, dict) or not row.keys() <= set(schema.names):
                raise ValueError(f"a row is an object with the fields {schema.names}")
            rows.append({field.name: from_json(row.get(field.name), field.type) for field in schema})
        except (ValueError, TypeError, KeyError, RecursionError, decimal.InvalidOperation, pa.ArrowException) as error:
            raise RunError(f"not exactly one row of parquet: {error}") from error
    try:
        return pa.table({field.name: _array([row[field.name] for row in rows], field.type) for field in schema})
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"not rows of this schema: {error}") from error


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _array(values, kind.storage_type))
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def to_json(value: pa.Scalar) -> Any:
    """Returns a value as JSON has it."""
    kind = value.type
    if not value.is_valid:
        return None
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        return to_json(value.value)
    if pa.types.is_struct(kind):
        return {name: to_json(member) for name, member in value.items()}
    if pa.types.is_map(kind):
        return [[to_json(pair["key"]), to_json(pair["value"])] for pair in value.values]
    if pa.types.is_nested(kind):
        return [to_json(item) for item in value.values]
    return _leaf_to_json(value)


def _leaf_to_json(value: pa.Scalar) -> Any:
    kind = value.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return value.cast(pa.string()).as_py()
    if pa.types.is_temporal(kind):
        return value.value
    found = value.as_py()
    if isinstance(found, bytes):
        return {B64: base64.b64encode(found).decode()}
    if isinstance(found, decimal.Decimal):
        return str(found)
    if isinstance(found, float) and not math.isfinite(found):
        return next(word for word, number in _WORDS.items() if str(number) == str(found))
    return found


def from_json(value: Any, kind: pa.DataType) -> Any:
    """Returns the value from which Arrow makes one of a type.

    Raises:
        ValueError: The value is not one of the type.
        TypeError: Likewise.
    """
    if value is None:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        return from_json(value, kind.storage_type)
    if pa.types.is_dictionary(kind):
        return from_json(value, kind.value_type)
    if pa.types.is_struct(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} is not an object")
        return {field.name: from_json(value.get(field.name), field.type) for field in kind}
    if pa.types.is_map(kind):
        return [(from_json(key, kind.key_type), from_json(item, kind.item_type)) for key, item in value]
    if pa.types.is_nested(kind):
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list")
        return [from_json(item, kind.value_type) for item in value]
    return _leaf_from_json(value, kind)


def _leaf_from_json(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return pa.scalar(str(value)).cast(kind).value
    if isinstance(value, bool) is not pa.types.is_boolean(kind):
        raise ValueError(f"{value!r} is not of the type {kind}")
    if pa.types.is_integer(kind) and not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    if pa.types.is_floating(kind) and isinstance(value, str):
        return _WORDS[value]
    if pa.types.is_decimal(kind):
        return decimal.Decimal(value)
    if isinstance(value, dict):
        return base64.b64decode(value[B64], validate=True)
    return value
