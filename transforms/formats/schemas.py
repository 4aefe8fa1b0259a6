"""Merges and selects the types that a row's own fields have in parts of another format."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from transforms.records import Layout

IGNORED = b"ignored"  # in the metadata of a schema: the fields that a row may have, and that are not converted
ALL = "*"
WIDER = {  # pairs of types, each with the type that holds the values of both
    (pa.int64(), pa.float64()): pa.float64(),
    (pa.int64(), pa.uint64()): pa.uint64(),
    (pa.uint64(), pa.float64()): pa.float64(),
    (pa.string(), pa.binary()): pa.binary(),
}


def merge(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Returns the fields of several schemas, in the order of their first appearance, with types that hold all values.

    >>> merge([pa.schema({"a": pa.int64()}), pa.schema({"a": pa.float64(), "b": pa.null()})])
    a: double
    b: null
    """
    merged: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            merged[field.name] = merge_types(merged.get(field.name, pa.null()), field.type)
    return pa.schema(merged)


def merge_types(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Returns a type that holds the values of two types. Types that no common type holds become a union."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if (one, other) in WIDER or (other, one) in WIDER:
        return WIDER.get((one, other)) or WIDER[other, one]
    promoted = _promoted(one, other)
    if promoted is not None:
        return promoted
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(merge_types(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return pa.struct(list(merge([pa.schema(list(one)), pa.schema(list(other))])))
    kinds = {kind: None for both in (one, other) for kind in _members(both)}
    return pa.dense_union([pa.field(str(at), kind) for at, kind in enumerate(kinds)])


def _promoted(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Returns Arrow's common type of two numbers, texts or times that the headers of files name; None if there is none.

    A value that does not fit this type is an error of the conversion, never another value.

    >>> _promoted(pa.int32(), pa.int64()), _promoted(pa.timestamp("ms"), pa.timestamp("us"))
    (DataType(int64), TimestampType(timestamp[us]))
    >>> _promoted(pa.decimal128(9, 2), pa.float64()), _promoted(pa.int64(), pa.string())
    (None, None)
    """
    signed = any(map(pa.types.is_signed_integer, (one, other)))
    if signed and pa.uint64() in (one, other):  # Arrow's common type is int64
        return None
    if any(map(pa.types.is_decimal, (one, other))) and any(map(pa.types.is_floating, (one, other))):
        return None  # the conversion would round
    if pa.types.is_nested(one) or pa.types.is_nested(other):
        return None
    try:
        pair = [pa.schema({"": kind}) for kind in (one, other)]
        return pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        return None


def _members(kind: pa.DataType) -> Iterator[pa.DataType]:
    if pa.types.is_union(kind):
        yield from (kind.field(at).type for at in range(kind.num_fields))
    else:
        yield kind


def select(schema: pa.Schema, layout: Layout) -> pa.Schema:
    """Returns the fields of a row that are written, and keeps in the metadata which others a row may have.

    A field with a name that keyjoin adds is in neither, so that a row which has it is bad.

    Args:
        schema: The types of all fields.
        layout: The fields of an output row.
    """
    if not layout.row:
        wanted, ignored = [layout.key_field], [ALL]
    elif layout.include:
        wanted, ignored = [*layout.include, layout.key_field], [ALL]
    else:
        wanted, ignored = [name for name in schema.names if name not in layout.exclude], list(layout.exclude)
    fields = [field for field in schema if field.name in wanted and field.name not in layout.added]
    return pa.schema(fields, {IGNORED: json.dumps(ignored)})


def ignores(schema: pa.Schema) -> Callable[[str], bool] | None:
    """Returns whether a row may have a field that is not converted, by its name; None if it may have no such field."""
    ignored = json.loads((schema.metadata or {}).get(IGNORED, b"[]"))
    if not ignored:
        return None
    return lambda name: name not in schema.names if ALL in ignored else name in ignored


def mixed(field: pa.Field) -> list[str] | None:
    """Returns the names of the types that a field has at one place; None if it has one type at each place.

    >>> mixed(pa.field("a", pa.list_(merge_types(pa.int64(), pa.string()))))
    ['int64', 'string']
    """
    if pa.types.is_union(field.type):
        return [str(kind) for kind in _members(field.type)]
    inner = [field.type.field(at) for at in range(field.type.num_fields)]
    return next((found for found in map(mixed, inner) if found), None)


def is_empty(kind: pa.DataType) -> bool:
    """Whether a type is, or holds, an object without fields.

    >>> is_empty(pa.list_(pa.struct([]))), is_empty(pa.struct([("a", pa.int64())]))
    (True, False)
    """
    inner = [kind.field(at).type for at in range(kind.num_fields)]
    return (pa.types.is_struct(kind) and not inner) or any(map(is_empty, inner))


def to_text(schema: pa.Schema) -> str:
    """Writes a schema as base64 of an Arrow schema message."""
    return base64.b64encode(schema.serialize()).decode()


def from_text(text: str) -> pa.Schema:
    """Reads the schema that `to_text` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
