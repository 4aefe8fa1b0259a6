"""Makes the types by which pyarrow reads JSON lines, and converts the tables that it reads to the model's inputs."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.columns import B64, READ_AS, unbase64
from transforms.mapping import defaults, numbers, sparse
from transforms.mapping.name_lists import Path
from transforms.mapping.nested import row_shapes
from transforms.records import Feature, Mask, Positions

LISTED, TEXT, WHOLE = "listed", "text", "whole"
# How the values of fields are spelled, where JSON has several spellings. Each item is the path of a field, and one of
# B64, LISTED, TEXT or WHOLE. B64 is bytes as base64. LISTED is a single value in a list. TEXT is a number in a string.
# WHOLE is a whole number with a decimal point or an exponent.
Spelling = frozenset[tuple[Path, str]]


def schema(features: Sequence[Feature], spelling: Spelling) -> pa.Schema:
    """Makes the schema by which pyarrow reads rows.

    Args:
        features: The model's inputs, and the fields that feed them.
        spelling: How the rows spell their values.
    """
    types: dict[str, pa.DataType] = {}
    for feature in features:
        for path in feature.paths:
            kind = sparse.read_as(feature) if feature.is_sparse else READ_AS[feature.dtype]
            if spelling and not feature.is_sparse:
                kind = _leaf(feature, path, spelling)
            for _ in range(_depth(feature, path, spelling)):
                kind = pa.list_(kind)
            types[path[0]] = _inside(types.get(path[0]), path[1:], kind)
    return pa.schema(list(types.items()))


def _inside(outer: pa.DataType | None, path: Path, kind: pa.DataType) -> pa.DataType:
    """Adds a value to the type of an object.

    Args:
        outer: The type of the object so far; None if there is none yet.
        path: The names that lead from the object to the value; empty if the value takes the object's place.
        kind: The type of the value.
    """
    if not path:
        return kind
    members = {member.name: member.type for member in outer or ()}
    members[path[0]] = _inside(members.get(path[0]), path[1:], kind)
    return pa.struct(list(members.items()))


def _leaf(feature: Feature, slot: Path, spelling: Spelling) -> pa.DataType:
    if (slot, B64) in spelling:
        return pa.struct([(B64, pa.string())])
    if (slot, TEXT) in spelling:
        return pa.string()
    return numbers.WHOLE if (slot, WHOLE) in spelling else READ_AS[feature.dtype]


def _depth(feature: Feature, slot: Path, spelling: Spelling) -> int:
    if len(feature.fields) > 1 or feature.is_base64 or feature.is_sparse:
        return 0
    if feature.shape == (1,):  # a single value may be spelled 3 or [3]
        return int((slot, LISTED) in spelling)
    return len(feature.shape)


def as_floats(kind: pa.DataType) -> pa.DataType:
    """Returns a type with float64 in place of each decimal, also inside lists and objects."""
    if pa.types.is_list(kind):
        return pa.list_(as_floats(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([member.with_type(as_floats(member.type)) for member in kind])
    return pa.float64() if kind == numbers.WHOLE else kind


def to_inputs(tables: Iterable[pa.Table], features: Sequence[Feature]) -> tuple[pa.RecordBatch, Positions]:
    """Checks the values that pyarrow read, and converts them to the model's inputs.

    Args:
        tables: The rows in order, as tables with a schema that `schema` made.
        features: The model's inputs, and the fields that feed them.

    Returns:
        The inputs of the rows that fit, and the numbers of the rows that do not. int64, (rows,). A row does not fit if
        it has a null without a default, a list of another length, or a number beyond the dtype.
    """
    batches = [columns.empty(features)]
    unfit, first = [], 0
    for table in tables:
        table = table.combine_chunks()
        fitting = np.ones(table.num_rows, np.bool_)
        found = [_values(table, feature, fitting) for feature in features]
        if not fitting.all():
            unfit.append(first + np.flatnonzero(~fitting))
            mask = pa.array(fitting)
            found = [[values.filter(mask) for values in some] for some in found]
        first += len(fitting)
        filled = [_filled(some, f) if f.missing else some for some, f in zip(found, features, strict=True)]
        arrays = [columns.input_of(some, f) for some, f in zip(filled, features, strict=True)]
        arrays += defaults.which(features, functools.partial(_nulls, found))
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=batches[0].schema))
    refused: Positions = np.concatenate([np.zeros(0, np.int64), *unfit])
    return columns.concatenate(batches, features), refused


def _values(table: pa.Table, feature: Feature, fitting: Mask) -> list[pa.Array]:
    """Returns the values of each field of a feature.

    Args:
        table: The rows.
        feature: The model input.
        fitting: Marks the rows that fit. bool, (rows,). The function clears the mark of each row that does not.
    """
    found = []
    for at, (field, *inside) in enumerate(feature.paths):
        raw = columns.one(table[field])
        for name in inside:
            raw = pc.struct_field(raw, name)
        if feature.is_sparse:
            values, fits = sparse.column(raw, feature)
            fitting &= fits
            found.append(values)
            continue
        values, as_read = _plain(raw, feature)
        dims = feature.shape if pa.types.is_list(values.type) else ()
        fits = columns.fits(values, dims, feature.dtype, words=not as_read)
        if None in feature.shape:
            fits &= row_shapes(values, feature.shape, feature.varied).regular
        if feature.has_default(at):
            fits |= raw.is_null().to_numpy(zero_copy_only=False)
        fitting &= fits
        found.append(values)
    return found


def _nulls(found: Sequence[Sequence[pa.Array]], feature: int, field: int) -> Mask:
    mask: Mask = found[feature][field].is_null().to_numpy(zero_copy_only=False)
    return mask


def _filled(found: Sequence[pa.Array], feature: Feature) -> list[pa.Array]:
    """Replaces nulls by the defaults of their fields."""
    return [
        values if text is None else defaults.fill(values, text, feature)
        for values, text in zip(found, feature.missing, strict=True)
    ]


def _plain(raw: pa.Array, feature: Feature) -> tuple[pa.Array, bool]:
    """Converts strings to bytes, and numbers from any spelling to numbers. A wrong spelling becomes null.

    Returns:
        The values, and whether pyarrow read them as the type of the input, so that nothing had to be converted.
    """
    kind, leaf = READ_AS[feature.dtype], raw.type
    while pa.types.is_list(leaf):
        leaf = leaf.value_type
    if leaf == kind != pa.string():
        return raw, True
    return _from_base64(raw) if feature.is_base64 else _decoded(raw, kind), False


def _decoded(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(array.type):
        inner = _decoded(array.values, kind)
        return (
            pa.ListArray.from_arrays(array.offsets, inner, mask=array.is_null())
            if len(array)
            else (pa.array([], pa.list_(inner.type)))
        )
    if pa.types.is_struct(array.type):
        return _from_base64(array.field(B64))
    if kind == pa.string():
        return array.cast(pa.binary())
    return numbers.from_decimals(array, kind) if array.type == numbers.WHOLE else numbers.from_text(array, kind)


def _from_base64(array: pa.Array) -> pa.Array:
    return pa.array(map(_bytes_or_none, array.to_pylist()), pa.binary())


def _bytes_or_none(text: str | None) -> bytes | None:
    try:
        return None if text is None else unbase64(text)
    except ValueError:
        return None
