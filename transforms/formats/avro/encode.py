"""Encodes Arrow columns as Avro, and gives each Arrow type its Avro type.

https://avro.apache.org/docs/1.12.0/specification/#binary_encoding describes the encoding. The encoding of each value is
one piece of a binary array, so that Arrow joins the pieces of many rows at once.
"""

import decimal
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.columns import is_list
from transforms.errors import UsageError
from transforms.records import Mask, Positions

NULL, FIRST, SECOND = b"\x00", b"\x00", b"\x02"  # the longs 0 and 1: the number of a type in a union, a count of 0
_LONGEST = 10
INT64_MAX = np.iinfo(np.int64).max
_UNITS = {"ms": "millis", "us": "micros", "ns": "nanos"}


def type_of(kind: pa.DataType, name: str, *, nullable: bool = True, items: bool = True) -> Any:
    """Returns the Avro type for an Arrow type.

    Args:
        kind: The Arrow type.
        name: The name of a record or a fixed, if the type needs one.
        nullable: Whether values may be null.
        items: Whether items of lists may be null, if their type allows it.

    Raises:
        UsageError: Avro has no such type.
    """
    found = _type_of(kind, name, items=items)
    return ["null", found] if nullable and found != "null" else found


def _type_of(kind: pa.DataType, name: str, *, items: bool) -> Any:
    if pa.types.is_dictionary(kind):
        return _type_of(kind.value_type, name, items=items)
    if is_list(kind):
        nullable = items and kind.value_field.nullable
        return {"type": "array", "items": type_of(kind.value_type, name, nullable=nullable, items=items)}
    if pa.types.is_map(kind):
        return {"type": "map", "values": type_of(kind.item_type, name, nullable=kind.item_field.nullable)}
    if pa.types.is_struct(kind):
        inner = [(m.name, type_of(m.type, f"{name}_{m.name}", nullable=m.nullable)) for m in kind]
        return {"type": "record", "name": name, "fields": [{"name": field, "type": one} for field, one in inner]}
    if pa.types.is_decimal(kind):
        return {"type": "bytes", "logicalType": "decimal", "precision": kind.precision, "scale": kind.scale}
    if pa.types.is_timestamp(kind) and kind.unit in _UNITS:
        return {"type": "long", "logicalType": f"{'' if kind.tz else 'local-'}timestamp-{_UNITS[kind.unit]}"}
    for test, found in _PLAIN:
        if test(kind):
            return found
    raise UsageError(f"Avro has no type for {kind}, the type of {name}; exclude it with --exclude_fields")


_PLAIN: Sequence[tuple[Any, Any]] = (
    (pa.types.is_null, "null"),
    (pa.types.is_boolean, "boolean"),
    (lambda kind: kind in (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32()), "int"),
    (lambda kind: kind in (pa.uint32(), pa.int64(), pa.uint64()), "long"),
    (lambda kind: kind in (pa.float16(), pa.float32()), "float"),
    (pa.types.is_float64, "double"),
    (lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind), "string"),
    (
        lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind),
        "bytes",
    ),
    (pa.types.is_date32, {"type": "int", "logicalType": "date"}),
    (lambda kind: kind == pa.time32("ms"), {"type": "int", "logicalType": "time-millis"}),
    (lambda kind: kind == pa.time64("us"), {"type": "long", "logicalType": "time-micros"}),
)


def pieces(array: pa.Array, *, nullable: bool = True, items: bool = True) -> pa.LargeBinaryArray:
    """Encodes values by the type that `type_of` returns for their type.

    Args:
        array: The values.
        nullable: As in `type_of`. If it is not set, no value may be null.
        items: As in `type_of`.

    Returns:
        The bytes of each value.
    """
    if pa.types.is_null(array.type):
        return _repeated(b"", len(array))
    if not nullable:
        return _pieces(array, items=items)
    there = pc.is_valid(array)
    if array.null_count == 0:
        return columns.join([pa.scalar(SECOND, pa.large_binary()), _pieces(array, items=items)])
    valid = columns.join([pa.scalar(SECOND, pa.large_binary()), _pieces(array.drop_null(), items=items)])
    both = pa.concat_arrays([valid, pa.array([NULL], pa.large_binary())])
    places = np.full(len(array), len(valid), np.int64)
    places[there.to_numpy(zero_copy_only=False)] = np.arange(len(valid))
    return both.take(pa.array(places))


def _repeated(value: bytes, count: int) -> pa.LargeBinaryArray:
    return pa.repeat(pa.scalar(value, pa.large_binary()), count)


def _pieces(array: pa.Array, *, items: bool = True) -> pa.LargeBinaryArray:
    """Encodes values of which none is null."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _pieces(array.cast(kind.value_type), items=items)
    if pa.types.is_struct(kind):
        found = [pieces(array.field(at), nullable=m.nullable) for at, m in enumerate(kind)]
        return columns.join(found) if found else _repeated(b"", len(array))
    if is_list(kind) or pa.types.is_map(kind):
        return _listed(array, items=items)
    if pa.types.is_decimal(kind):
        return _sized(pa.array([_unscaled(value) for value in array.to_pylist()], pa.large_binary()))
    if pa.types.is_boolean(kind):
        return _fixed(array.to_numpy(zero_copy_only=False).astype(np.uint8), 1)
    if pa.types.is_floating(kind):
        size = 8 if kind == pa.float64() else 4
        return _fixed(array.to_numpy(zero_copy_only=False).astype(f"<f{size}", copy=False), size)
    if pa.types.is_temporal(kind):
        return longs(array.view(pa.int32() if kind.bit_width == 32 else pa.int64()).to_numpy(zero_copy_only=False))
    if pa.types.is_integer(kind):
        return longs(array.to_numpy(zero_copy_only=False).astype(np.int64, copy=False))
    return _sized(array.cast(pa.large_binary()))


def longs(values: npt.NDArray[Any]) -> pa.LargeBinaryArray:
    """Encodes integers, see `container.read_long`."""
    wide = values.astype(np.int64)
    left = ((wide << 1) ^ (wide >> 63)).view(np.uint64)
    octets = np.empty((len(wide), _LONGEST), np.uint8)
    sizes = np.ones(len(wide), np.int64)
    for at in range(_LONGEST):
        octets[:, at] = left & np.uint64(0x7F)
        left = left >> np.uint64(7)
        more = left > 0
        octets[:, at] |= more.astype(np.uint8) << 7
        sizes += more
        if not more.any():
            break
    kept = octets[np.arange(_LONGEST) < sizes[:, None]]
    return _cut(kept, np.concatenate([[0], np.cumsum(sizes)]))


def _fixed(values: npt.NDArray[Any], size: int) -> pa.LargeBinaryArray:
    return _cut(np.ascontiguousarray(values), np.arange(len(values) + 1, dtype=np.int64) * size)


def _cut(data: npt.NDArray[Any], offsets: Positions) -> pa.LargeBinaryArray:
    """Makes an array of the pieces of a buffer that lie between offsets."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, np.int64)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _sized(values: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    return columns.join([longs(columns.sizes(values)), values])


def _listed(array: pa.Array, *, items: bool) -> pa.LargeBinaryArray:
    """Encodes lists and maps: the number of items, the items, and a 0. An empty one is only the 0."""
    inner, offsets = _items(array, items=items)
    whole = columns.contents(inner) if len(inner) else pa.py_buffer(b"")
    bounds = np.concatenate([[0], np.cumsum(columns.sizes(inner))]).astype(np.int64)[offsets]
    bodies = pa.Array.from_buffers(pa.large_binary(), len(array), [None, pa.py_buffer(bounds), whole])
    counts, is_empty = longs(np.diff(offsets)), np.diff(offsets) == 0
    if is_empty.any():
        counts = pc.if_else(pa.array(is_empty), pa.scalar(b"", pa.large_binary()), counts)
    return columns.join([counts, bodies, pa.scalar(NULL, pa.large_binary())])


def _items(array: pa.Array, *, items: bool) -> tuple[pa.LargeBinaryArray, Positions]:
    """Returns the pieces of the items of lists, and the offset of each list in them."""
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        offsets = np.arange(len(array) + 1, dtype=np.int64) * kind.list_size
        nullable = items and kind.value_field.nullable
        return pieces(array.flatten(), nullable=nullable, items=items), offsets
    raw = array.offsets.to_numpy().astype(np.int64)
    first, end = int(raw[0]), int(raw[-1])
    if pa.types.is_map(kind):
        values = pieces(array.items[first:end], nullable=kind.item_field.nullable)
        found = columns.join([_pieces(array.keys[first:end]), values])
    else:
        nullable = items and kind.value_field.nullable
        found = pieces(array.values[first:end], nullable=nullable, items=items)
    return found, raw - first


def beyond(array: pa.Array) -> Mask:
    """Marks the values with an integer that a long cannot hold. bool, (values,)."""
    kind = array.type
    found: Mask = np.zeros(len(array), np.bool_)
    if kind == pa.uint64():
        found |= pc.fill_null(array, 0).to_numpy(zero_copy_only=False) > INT64_MAX
    elif pa.types.is_struct(kind):
        for inner in array.flatten():
            found |= beyond(inner)
    elif pa.types.is_fixed_size_list(kind):
        there = array.is_valid().to_numpy(zero_copy_only=False)
        found[np.repeat(np.flatnonzero(there), kind.list_size)[beyond(array.flatten())]] = True
    elif is_list(kind) or pa.types.is_map(kind):
        offsets = array.offsets.to_numpy()
        items = (array.items if pa.types.is_map(kind) else array.values)[int(offsets[0]) : int(offsets[-1])]
        found[np.repeat(np.arange(len(array)), np.diff(offsets))[beyond(items)]] = True
    return found


def _unscaled(value: decimal.Decimal) -> bytes:
    sign, digits, _ = value.as_tuple()
    whole = int("".join(map(str, digits))) * (-1 if sign else 1)
    return whole.to_bytes(whole.bit_length() // 8 + 1, "big", signed=True)
