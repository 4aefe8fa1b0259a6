"""Makes the model's inputs of typed columns, for formats whose fields have types: Parquet and Avro.

The rules are those of JSON Lines, see `transforms.mapping.numbers`: an integer may feed a float, a float may feed an
integer if it is whole, and text may feed a number if it holds one. Dates, times and timestamps feed nothing.
"""

import base64
import datetime
import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.columns import B64, READ_AS, is_bytes, is_list, is_text
from transforms.dtypes import STRING
from transforms.formats.jsonl import diagnose
from transforms.formats.slices import Why
from transforms.mapping import defaults, numbers, sparse
from transforms.mapping.nested import row_shapes
from transforms.reasons import Reason
from transforms.records import Feature, Mask


def to_inputs(table: pa.Table, features: Sequence[Feature]) -> tuple[pa.RecordBatch, dict[int, Why]]:
    """Converts columns to the model's inputs. The result for a row depends on that row alone.

    Args:
        table: The rows. A field without a column counts as missing.
        features: The model's inputs, and the fields that feed them.

    Returns:
        The inputs of the rows that fit, as `columns.empty` types them; and for each other row, in order, its number ->
        reason code and message.
    """
    fitting = np.ones(table.num_rows, np.bool_)
    found = [[_values(table, feature, at, fitting) for at in range(len(feature.fields))] for feature in features]
    bad = np.flatnonzero(~fitting).tolist()
    if bad:
        mask = pa.array(fitting)
        found = [[values.filter(mask) for values in some] for some in found]
    filled = [
        [_filled(values, feature, at) for at, values in enumerate(some)]
        for some, feature in zip(found, features, strict=True)
    ]
    arrays = [columns.input_of(some, feature) for some, feature in zip(filled, features, strict=True)]
    arrays += defaults.which(features, functools.partial(_nulls, found))
    empty = columns.empty(features)
    batch = pa.RecordBatch.from_arrays(
        [array.cast(field.type) for array, field in zip(arrays, empty.schema, strict=True)], schema=empty.schema
    )
    return batch, _explain(table, features, bad)


def _values(table: pa.Table, feature: Feature, at: int, fitting: Mask) -> pa.Array:
    """Returns the values of a field of a feature, and clears the mark of each row that does not fit in `fitting`."""
    raw = _column(table, feature.paths[at])
    has_default = feature.has_default(at)
    if feature.is_sparse:
        values, fits = sparse.column(_sparse(raw, feature), feature)
        fitting &= fits
        return values
    values = _converted(raw, feature)
    dims = feature.shape if len(feature.fields) == 1 else ()
    depth = _depth(values.type)
    if dims == (1,) and depth == 0:
        dims = ()
    if len(dims) != depth:
        fitting &= raw.is_null().to_numpy(zero_copy_only=False) if has_default else False
        return pa.nulls(len(raw), _listed(READ_AS[feature.dtype], len(dims)))
    fits = columns.fits(values, dims, feature.dtype, words=True)
    if None in dims:
        fits &= row_shapes(values, feature.shape, feature.varied).regular
    if has_default:
        fits |= raw.is_null().to_numpy(zero_copy_only=False)
    fitting &= fits
    return values


def _column(table: pa.Table, path: Sequence[str]) -> pa.Array:
    """Returns the values at a path. A value inside an object that is null is null."""
    if path[0] not in table.column_names:
        return pa.nulls(table.num_rows)
    raw = columns.one(table[path[0]])
    for name in path[1:]:
        if not pa.types.is_struct(raw.type) or raw.type.get_field_index(name) < 0:
            return pa.nulls(table.num_rows)
        raw = pc.struct_field(raw, name)
    return raw


def _nulls(found: Sequence[Sequence[pa.Array]], feature: int, field: int) -> Mask:
    mask: Mask = found[feature][field].is_null().to_numpy(zero_copy_only=False)
    return mask


def _filled(values: pa.Array, feature: Feature, at: int) -> pa.Array:
    text = feature.missing[at] if feature.missing else None
    return values if text is None else defaults.fill(values, text, feature)


def _listed(kind: pa.DataType, depth: int) -> pa.DataType:
    kind = pa.binary() if kind == pa.string() else kind
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


def _depth(kind: pa.DataType) -> int:
    return 1 + _depth(kind.value_type) if pa.types.is_list(kind) else 0


def _converted(array: pa.Array, feature: Feature) -> pa.Array:
    """Converts values to the type in which an input of a dtype is read; a value that has none becomes null."""
    if is_list(array.type):
        lists = array.cast(pa.list_(array.type.value_type))
        # `flatten` drops the values of null lists, which have no place in the offsets either.
        offsets = np.append(0, np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)))
        mask = lists.is_null() if lists.null_count else None
        inner = _converted(lists.flatten(), feature)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, mask=mask)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    kind, given = READ_AS[feature.dtype], array.type
    if feature.dtype == STRING:
        return array.cast(pa.binary()) if is_text(given) or is_bytes(given) else pa.nulls(len(array), pa.binary())
    if feature.dtype == "bool":
        return array if pa.types.is_boolean(given) else pa.nulls(len(array), kind)
    if is_text(given) and not feature.strict:
        return numbers.from_text(array.cast(pa.string()), kind)
    if not (pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given)):
        return pa.nulls(len(array), kind)
    if "float" in feature.dtype:
        return _floats(array, kind, feature.dtype)
    if not pa.types.is_integer(given) and feature.strict:
        return pa.nulls(len(array), kind)
    return _whole(array, kind)


def _floats(array: pa.Array, kind: pa.DataType, dtype: str) -> pa.Array:
    """Converts numbers to floats; a finite one beyond the dtype becomes null. NaN and infinity stay what they are."""
    found = array.cast(pa.float32() if array.type == pa.float16() else kind, safe=False).cast(kind)
    fits = columns.in_range(found, dtype)
    if fits.all():
        return found
    if pa.types.is_floating(array.type):
        fits |= ~np.isfinite(pc.fill_null(array, 0).to_numpy(zero_copy_only=False))
    return pc.if_else(pa.array(fits), found, pa.scalar(None, kind))


def _whole(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Converts numbers to integers; one with a fraction, or one that the type does not hold, becomes null."""
    if pa.types.is_decimal(array.type):
        texts = [
            None if value is None else str(int(value)) if value == int(value) else "" for value in array.to_pylist()
        ]
        return numbers.from_text(pa.array(texts, pa.string()), kind)
    if pa.types.is_integer(array.type):
        if array.type == kind or (pa.types.is_signed_integer(array.type) and kind == pa.int64()):
            return array.cast(kind)
        return numbers.from_decimals(array.cast(pa.decimal128(20)).cast(numbers.WHOLE), kind)
    limits = np.iinfo(str(kind))
    values = array.cast(pa.float64())
    # 2^63 and 2^64 are floats, and the largest integers below them are not.
    within = pc.and_(pc.greater_equal(values, float(limits.min)), pc.less(values, float(int(limits.max) + 1)))
    exact = pc.and_(within, pc.equal(pc.floor(values), values))
    return pc.if_else(exact, values, pa.scalar(None, pa.float64())).cast(kind)


def _sparse(raw: pa.Array, feature: Feature) -> pa.Array:
    """Converts a column of objects to the type in which a sparse input is read."""
    kind = sparse.read_as(feature)
    try:
        inner = [
            pc.struct_field(raw, member.name).cast(member.type)
            if raw.type.get_field_index(member.name) >= 0
            else pa.nulls(len(raw), member.type)
            for member in kind
        ]
    except (pa.ArrowException, AttributeError, TypeError):
        return pa.nulls(len(raw), kind)
    return pa.StructArray.from_arrays(inner, fields=list(kind), mask=raw.is_null())


def _explain(table: pa.Table, features: Sequence[Feature], bad: Sequence[int]) -> dict[int, Why]:
    """Returns the reason code and the message of each bad row."""
    if not bad:
        return {}
    names = {field for feature in features for field in feature.fields} & set(table.column_names)
    rows = rows_of(table.select(sorted(names)).take(pa.array(bad))) if names else [{}] * len(bad)
    found = {}
    for number, row in zip(bad, rows, strict=True):
        line = json.dumps(_spelled(row)).encode()
        found[number] = _refused_type(table, features) or diagnose.find(line, features) or _other(features)
    return found


def _refused_type(table: pa.Table, features: Sequence[Feature]) -> Why | None:
    """Returns the reason if a column has a type that cannot feed its input."""
    for feature in features:
        for path in () if feature.is_sparse else feature.paths:
            kind = _column(table, path).type
            while is_list(kind) or pa.types.is_dictionary(kind):
                kind = kind.value_type
            if pa.types.is_temporal(kind) or pa.types.is_map(kind) or pa.types.is_struct(kind):
                message = f"field {'.'.join(path)}: the type {kind} does not feed a {feature.dtype} input"
                return Reason.WRONG_TYPE.value, message
    return None


def _other(features: Sequence[Feature]) -> Why:
    fields = [".".join(path) for feature in features for path in feature.paths]
    return Reason.WRONG_TYPE.value, f"a value of the fields {fields} does not fit its input"


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Converts rows of typed columns to objects as JSON has them, for the mapping and for messages.

    Bytes become base64, decimals become text, and dates and times become ISO 8601. NaN and infinity stay floats. A time
    that Python cannot hold becomes a text with its number and its type.
    """
    found = [[_value(value) for value in _python(column)] for column in table.columns]
    return [dict(zip(table.column_names, values, strict=True)) for values in zip(*found, strict=True)]


def _python(column: pa.ChunkedArray) -> list[Any]:
    try:
        found: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):  # a year after 9999, or nanoseconds
        found = [_scalar(value) for value in column]
    return found


def _scalar(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return f"{getattr(value, 'value', 'a value')} ({value.type})"


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    if isinstance(value, bytes):
        return {B64: base64.b64encode(value).decode()}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _spelled(value: Any) -> Any:
    """Replaces NaN and infinity by their words, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _spelled(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return numbers.word(value)
    return value
