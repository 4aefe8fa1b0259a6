"""Writes rows of typed columns as JSON objects for dead letters, and reads them back into columns of the same types.

Numbers, bools, strings, lists and objects are those of JSON. The words NaN, Infinity and -Infinity are strings,
decimals are strings, and maps are lists of [key, value]. Bytes are `{"b64": …}`, and so are strings that are not UTF-8.
Dates and timestamps are ISO 8601. A time of day, a duration, and a date that ISO 8601 cannot spell are the integer in
the file.
"""

import base64
import binascii
import decimal
import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.columns import B64, is_bytes, is_list, is_text
from transforms.errors import RunError
from transforms.mapping import numbers

_CONTEXT = decimal.Context(prec=100)


def to_raws(table: pa.Table) -> list[bytes]:
    """Returns each row as JSON."""
    values = [_values(columns.one(column)) for column in table.columns]
    rows = zip(*values, strict=True) if values else ((),) * table.num_rows
    names = table.column_names
    return [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False).encode() for row in rows]


def from_raws(raws: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    """Returns the rows that `to_raws` wrote. A field that a row lacks is null.

    Args:
        raws: The rows.
        schema: Their names and types.

    Raises:
        RunError: An item of `raws` is not exactly one row of this schema.
    """
    try:
        rows = [json.loads(raw) for raw in raws]
        whole = _arrays(rows, pa.struct(list(schema)))
        if whole.null_count:
            raise ValueError("null is no object")
    except (ValueError, TypeError, ArithmeticError, RecursionError, pa.ArrowException) as error:
        raise RunError(f"not exactly one row of parquet: {error}") from error
    return pa.Table.from_arrays(whole.flatten(), schema=schema)


def _values(array: pa.Array) -> list[Any]:
    """Converts an array to JSON values."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _values(array.storage)
    if pa.types.is_dictionary(kind):
        return _values(array.cast(kind.value_type))
    if pa.types.is_struct(kind):
        inner = [_values(column) for column in array.flatten()]
        names = [field.name for field in kind]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*inner, strict=True)] or [{}] * len(array)
        return [row if valid else None for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)]
    if is_list(kind) or pa.types.is_map(kind):
        found = [_values(scalar.values) if scalar.is_valid else None for scalar in array]
        if pa.types.is_map(kind):
            return [None if row is None else [list(entry.values()) for entry in row] for row in found]
        return found
    if pa.types.is_temporal(kind):
        return _times(array)
    if is_text(kind):
        return [_text(value) for value in array.cast(pa.large_binary()).to_pylist()]
    return [_leaf(value) for value in array.to_pylist()]


def _leaf(value: Any) -> Any:
    if isinstance(value, bytes):
        return {B64: base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return numbers.word(value)
    if isinstance(value, decimal.Decimal):
        return str(value)
    return value


def _text(value: bytes | None) -> Any:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return _leaf(value)


def _integers(kind: pa.DataType) -> pa.DataType:
    """Returns the type of the integers that are stored for a type of dates and times."""
    return pa.int32() if kind.bit_width == 32 else pa.int64()


def _times(array: pa.Array) -> list[Any]:
    kind, stored = array.type, array.view(_integers(array.type)).to_pylist()
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return stored
    # Without its zone, a timestamp is written as UTC, and no spelling depends on the rules of a zone.
    plain = pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind
    found = []
    for number in stored:
        one = pa.array([number], _integers(kind)).view(plain)
        try:
            text = one.cast(pa.string())
            found.append(text[0].as_py() if text.cast(plain).equals(one) else number)
        except pa.ArrowException:
            found.append(number)
    return found


def _arrays(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Converts JSON values to an array.

    Raises:
        ValueError: A value is not one of the type.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _arrays(values, kind.storage_type))
    if pa.types.is_dictionary(kind):
        coded = _arrays(values, kind.value_type).dictionary_encode()
        return pa.DictionaryArray.from_arrays(
            coded.indices.cast(kind.index_type), coded.dictionary, ordered=kind.ordered
        )
    if pa.types.is_struct(kind):
        return _structs(values, kind)
    if is_list(kind) or pa.types.is_map(kind):
        return _lists(values, kind)
    if pa.types.is_temporal(kind):
        return _from_times(values, kind)
    check = next((made for matches, made in _LEAVES if matches(kind)), None)
    if check is None:
        raise ValueError(f"no JSON value is of the type {kind}")
    found = [None if value is None else check(value) for value in values]
    if is_text(kind):
        raw = pa.array(found, pa.large_binary() if not pa.types.is_string(kind) else pa.binary())
        return raw.view(pa.string()) if pa.types.is_string(kind) else raw.view(pa.large_string()).cast(kind)
    return pa.array(found, kind)


def _structs(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    names = [field.name for field in kind]
    for value in values:
        if value is not None and not (isinstance(value, dict) and value.keys() <= set(names)):
            raise ValueError(f"{_shown(value)} is no object with the fields {names}")
    inner = [_arrays([value and value.get(field.name) for value in values], field.type) for field in kind]
    mask = pa.array([value is None for value in values], pa.bool_())
    if not inner:
        return pa.array(values, kind)
    for field, found in zip(kind, inner, strict=True):
        lacking = pc.and_(found.is_null(), pc.invert(mask))
        if not field.nullable and pc.any(lacking).as_py():
            raise ValueError(f"field {field.name} is null, and its type does not allow that")
    return pa.StructArray.from_arrays(inner, fields=list(kind), mask=mask)


def _lists(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    for value in values:
        if value is not None and not isinstance(value, list):
            raise ValueError(f"{_shown(value)} is no list")
    mask = pa.array([value is None for value in values], pa.bool_())
    if pa.types.is_fixed_size_list(kind):
        if any(value is not None and len(value) != kind.list_size for value in values):
            raise ValueError(f"a list has not {kind.list_size} values")
        filled = [item for value in values for item in ([None] * kind.list_size if value is None else value)]
        return pa.FixedSizeListArray.from_arrays(_arrays(filled, kind.value_type), type=kind, mask=mask)
    offsets = np.append(0, np.cumsum([len(value or ()) for value in values], dtype=np.int64))
    flat: list[Any] = list(itertools.chain.from_iterable(value or () for value in values))
    if pa.types.is_map(kind):
        if any(not isinstance(item, list) or len(item) != len(("key", "value")) or item[0] is None for item in flat):
            raise ValueError("an entry of a map is no list of a key and a value")
        keys, items = (_arrays([item[at] for item in flat], t) for at, t in enumerate((kind.key_type, kind.item_type)))
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items, type=kind, mask=mask)
    inner = _arrays(flat, kind.value_type)
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), inner, type=kind, mask=mask)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, type=kind, mask=mask)


def _from_times(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    plain = pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind
    stored = [
        pa.array([value]).cast(plain).view(_integers(kind))[0].as_py() if isinstance(value, str) else value
        for value in values
    ]
    return pa.array([None if value is None else _integer(value) for value in stored], _integers(kind)).view(kind)


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is no integer")
    return value


def _float(value: Any) -> float:
    if isinstance(value, str) and value in numbers.WORDS:
        return float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is no number")
    return float(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is no bool")
    return value


def _decimal(value: Any) -> decimal.Decimal:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is no decimal in quotes")
    return _CONTEXT.create_decimal(value)


def _bytes(value: Any) -> bytes:
    if not (isinstance(value, dict) and value.keys() == {B64} and isinstance(value[B64], str)):
        raise ValueError(f'{_shown(value)} is no object {{"{B64}": …}}')
    try:
        return base64.b64decode(value[B64], validate=True)
    except binascii.Error as error:
        raise ValueError(f"{_shown(value)} is not base64") from error


def _string(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else _bytes(value)


def _null(value: Any) -> None:
    raise ValueError(f"{_shown(value)} is not null")


_LEAVES: list[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]]] = [
    (pa.types.is_integer, _integer),
    (pa.types.is_floating, _float),
    (pa.types.is_boolean, _bool),
    (pa.types.is_decimal, _decimal),
    (is_text, _string),
    (is_bytes, _bytes),
    (pa.types.is_null, _null),
]


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
