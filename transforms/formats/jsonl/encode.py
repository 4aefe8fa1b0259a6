"""Encodes columns as JSON text.

Arrow's kernels do the work, so that no Python object is made for each value. A float has the shortest spelling that
reads back as the same float. It always has a decimal point or an exponent, so that readers which infer types infer one
type. Lists are nested as in the shape.
"""

import base64
import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.columns import Fragments


def encode(column: pa.Array) -> pa.Array:
    """Encodes each record of a column as JSON text, in binary. NaN, infinite floats and nulls become `null`.

    >>> encode(pa.array([[1.5, 2.0], [0.1, float("nan")]], pa.list_(pa.float32(), 2))).to_pylist()
    [b'[1.5, 2.0]', b'[0.1, null]']
    >>> encode(pa.array([{"a": 1, "b": None}, None])).to_pylist()
    [b'{"a": 1, "b": null}', b'null']
    """
    if not column.null_count:
        return columns.join(fragments(column)) if len(column) else pa.array([], pa.large_binary())
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    places = pa.array(np.cumsum(valid) - 1, mask=~valid)
    return pc.fill_null(encode(column.drop_null()).take(places), b"null")


def fragments(column: pa.Array) -> Fragments:
    """Encodes like `encode`, but returns fragments. The caller adds its own fragments and joins all of them once.

    Args:
        column: A column without nulls, of a type that `can_encode` accepts. Inside of its records nulls are allowed.
    """
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        return [text("["), *_items(column.flatten(), kind.list_size, len(column)), text("]")]
    if _is_list(kind):
        offsets = column.offsets.cast(pa.int64()).to_numpy()
        entries = column.values.slice(offsets[0], offsets[-1] - offsets[0])
        joined = pc.binary_join(
            pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0]), encode(entries)), text(", ")
        )
        return [text("["), joined, text("]")]
    if pa.types.is_struct(kind):
        return [text("{"), *_members(column), text("}")]
    if pa.types.is_dictionary(kind):
        return [encode(column.dictionary).take(column.indices)]
    if pa.types.is_floating(kind):
        return [_floats(column.cast(pa.float32()) if kind == pa.float16() else column)]
    if _is_binary(kind):
        return [_strings(column.cast(pa.binary()) if kind != pa.binary() else column)]
    if columns.is_text(kind):
        return [_texts(column)]
    if _is_quoted(kind):
        return [text('"'), _iso(column), text('"')]
    return [column.cast(pa.string())]


def can_encode(kind: pa.DataType) -> bool:
    """Whether `encode` has a spelling for a type.

    Decimals are strings, so that no reader rounds them. Dates, times and timestamps are strings as in ISO 8601; a
    timestamp with a time zone is in UTC. A map is a list of objects with a key and a value. There is no spelling for
    durations, intervals and unions.
    """
    if pa.types.is_dictionary(kind):
        return can_encode(kind.value_type)
    if pa.types.is_struct(kind) or _is_list(kind) or pa.types.is_fixed_size_list(kind):
        return all(can_encode(kind.field(at).type) for at in range(kind.num_fields))
    plain = pa.types.is_null(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)
    return plain or pa.types.is_floating(kind) or _is_binary(kind) or columns.is_text(kind) or _is_quoted(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _is_quoted(kind: pa.DataType) -> bool:
    return pa.types.is_decimal(kind) or pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind)


def _iso(column: pa.Array) -> pa.Array:
    """Spells dates, times and timestamps as in ISO 8601, and decimals with all their digits."""
    if pa.types.is_timestamp(column.type):
        zone = None if column.type.tz is None else "UTC"  # Arrow then spells the instant in UTC, with a Z
        column = column.cast(pa.timestamp(column.type.unit, zone))
        return pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
    return column.cast(pa.string())


def _members(column: pa.StructArray) -> Fragments:
    names = [field.name for field in column.type]
    members: Fragments = []
    for name, values in zip(names, column.flatten(), strict=True):
        comma = ", " if members else ""
        members += [text(f"{comma}{json.dumps(name, ensure_ascii=False)}: "), encode(values)]
    return members or [pa.array([b""] * len(column), pa.large_binary())]


def text(value: str) -> pa.Scalar:
    """Makes a fragment that is the same in all records."""
    return pa.scalar(value.encode(), pa.large_binary())


def _items(items: pa.Array, size: int, count: int) -> Fragments:
    if size == 1:
        return [encode(items)] if items.null_count else fragments(items)
    offsets = pa.array(np.arange(count + 1, dtype=np.int64) * size)
    return [pc.binary_join(pa.LargeListArray.from_arrays(offsets, encode(items)), text(", "))]


def _floats(column: pa.Array) -> pa.Array:
    values: npt.NDArray[np.floating] = column.to_numpy(zero_copy_only=False)
    texts = column.cast(pa.string())
    whole = values == np.rint(values)  # also infinity, never NaN
    if whole.any():
        mask = pa.array(whole)
        written = texts.filter(mask)
        pointed = pc.match_substring_regex(written, "[.einf]")
        pointed = pc.if_else(pointed, written, pc.binary_join_element_wise(written, ".0", ""))
        texts = pc.replace_with_mask(texts, mask, pointed)
    finite = np.isfinite(values)
    if not finite.all():
        texts = pc.if_else(pa.array(finite), texts, "null")
    return texts


def _texts(column: pa.Array) -> pa.Array:
    """Puts strings in quotes. Only those with a character that JSON escapes are encoded one by one."""
    column = column.cast(pa.large_string())
    special = pc.match_substring_regex(column, r'["\\\x00-\x1f]')
    quoted = columns.join([text('"'), column, text('"')])
    if not pc.any(special).as_py():
        return quoted
    escaped = [json.dumps(value, ensure_ascii=False).encode() for value in column.filter(special).to_pylist()]
    return pc.replace_with_mask(quoted, special, pa.array(escaped, pa.large_binary()))


def _strings(column: pa.Array) -> pa.Array:
    # Labels repeat, so each distinct label is escaped only once.
    coded = column.dictionary_encode()
    texts = [_string(value) for value in coded.dictionary.to_pylist()]
    return pa.array(texts, pa.binary()).take(coded.indices)


def _string(value: bytes) -> bytes:
    """Encodes bytes as a JSON string, or as {"b64": …} if they are not UTF-8, like TensorFlow Serving's REST API."""
    try:
        return json.dumps(value.decode(), ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return json.dumps({"b64": base64.b64encode(value).decode()}).encode()
