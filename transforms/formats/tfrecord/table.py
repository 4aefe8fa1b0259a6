"""Converts tf.Examples to columns and columns to tf.Examples, for sources or parts of another format.

A feature that has one value in each sampled record is a scalar, any other feature is a list. A bytes list holds strings
if all sampled ones are UTF-8, else bytes.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from transforms import columns
from transforms.errors import UsageError
from transforms.formats import schemas
from transforms.formats.slices import Why
from transforms.formats.tfrecord import sequence
from transforms.formats.tfrecord.decode import DECODE_ROWS
from transforms.formats.tfrecord.encode import encode
from transforms.formats.tfrecord.parse import BYTES, FLOATS, Values, parse
from transforms.reasons import Reason
from transforms.records import Mask

INT64_MAX = np.iinfo(np.int64).max
Refused = dict[int, Why]  # number of a record -> reason code and message


def schema(records: Iterable[bytes]) -> pa.Schema:
    """Returns the features of some records, by name, with types that hold all of these records."""
    found: dict[str, list[Values]] = {}
    for record in records:
        for name, values in (parse(record) or {}).items():
            found.setdefault(name, []).extend([] if values is None else [values])
    return pa.schema([pa.field(name, _type_of(found[name])) for name in sorted(found)])


def _type_of(lists: Sequence[Values]) -> pa.DataType:
    leaf = pa.null()
    for values in lists:
        leaf = schemas.merge_types(leaf, _leaf_of(values))
    return leaf if all(len(values) == 1 for values in lists) else pa.list_(leaf)


def _leaf_of(values: Values) -> pa.DataType:
    if values.dtype.kind == BYTES:
        return pa.string() if all(map(_is_utf8, values)) else pa.binary()
    return pa.float32() if values.dtype.kind == FLOATS else pa.int64()


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def to_columns(records: Sequence[bytes], schema: pa.Schema) -> tuple[pa.Table, Refused]:
    """Converts records that fit a schema to columns.

    Args:
        records: Serialized Examples. Some may be damaged.
        schema: The columns.

    Returns:
        One record for each Example that fits, in order; and why each other one does not fit.
    """
    tables, refused = [schema.empty_table()], dict[int, Why]()
    todo = [(first, records[first : first + DECODE_ROWS]) for first in range(0, len(records), DECODE_ROWS)][::-1]
    while todo:
        first, some = todo.pop()
        try:
            batch = ExamplesToRecordBatchDecoder().DecodeBatch(some)
        except RuntimeError:  # one is no Example, or two have a list of the same name and different kinds
            if len(some) == 1:
                message = f"its {len(some[0])} bytes do not parse as a tf.train.Example"
                refused[first] = (Reason.NOT_EXAMPLE.value, message)
            else:
                middle = len(some) // 2
                todo += [(first + middle, some[middle:]), (first, some[:middle])]
            continue
        found, unfit = _fitted(batch, schema, _unheld(some, schema))
        tables.append(found)
        refused.update((first + at, why) for at, why in unfit.items())
    return pa.concat_tables(tables), refused


def _unheld(records: Sequence[bytes], schema: pa.Schema) -> Refused:
    """Finds records with feature lists, which no column holds. Lists that are excluded do not count."""
    ignored, refused = schemas.ignores(schema), dict[int, Why]()
    for at, record in enumerate(records):
        try:
            held = [name for name in sequence.lists_of(record) if not (ignored and ignored(name))]
        except ValueError as error:
            refused[at] = (Reason.NOT_EXAMPLE.value, str(error))
            continue
        if held:
            message = f"field {held[0]}: a feature list of a SequenceExample, which parts of another format do not hold"
            refused[at] = (Reason.SCHEMA.value, message)
    return refused


def _fitted(batch: pa.RecordBatch, schema: pa.Schema, refused: Refused) -> tuple[pa.Table, Refused]:
    """Converts decoded records to the types of a schema. Returns those that fit, and why each other one does not.

    Args:
        batch: The records.
        schema: The columns.
        refused: The records that are known not to fit.
    """
    ignored = schemas.ignores(schema)
    for name in sorted(set(batch.schema.names) - set(schema.names)):
        if not (ignored and ignored(name)):
            message = f"field {name}: no sampled row has it, so the parts have no such field"
            _refuse(refused, batch[name].is_valid(), message)
    made = [_column(batch, field, refused) for field in schema]
    kept = np.delete(np.arange(batch.num_rows), list(refused))
    return pa.Table.from_arrays(made, schema=schema).take(kept), refused


def _refuse(refused: Refused, mask: pa.Array, message: str) -> None:
    for at in np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist():
        refused.setdefault(at, (Reason.SCHEMA.value, message))


def _column(batch: pa.RecordBatch, field: pa.Field, refused: Refused) -> pa.Array:
    """Converts one feature to the type of its column, and adds the records in which it does not fit to `refused`."""
    at = batch.schema.get_field_index(field.name)
    if at < 0 or pa.types.is_null(batch.schema.types[at]):
        return pa.nulls(batch.num_rows, field.type)
    lists, wanted = batch.column(at), field.type.value_type if pa.types.is_list(field.type) else field.type
    kind = lists.type.value_type
    if kind not in (wanted, pa.large_binary()) or (kind == pa.large_binary()) != (wanted in (pa.string(), pa.binary())):
        described = f"field {field.name}: a list of {kind}, but the parts have {wanted} there, as the sampled rows do"
        _refuse(refused, lists.is_valid(), described)
        return pa.nulls(batch.num_rows, field.type)
    if wanted == pa.string():
        misfits = _holding_bytes(lists)
        message = (
            f"field {field.name}: bytes that are not UTF-8, but the parts have strings there, as the sampled rows do"
        )
        _refuse(refused, misfits, message)
        lists = pc.if_else(misfits, pa.scalar(None, lists.type), lists)
    if pa.types.is_list(field.type):
        return lists.cast(field.type)
    sizes = pc.list_value_length(lists)
    others = pc.fill_null(pc.not_equal(sizes, 1), False)
    _refuse(refused, others, f"field {field.name}: not one value, as in the sampled rows")
    return pc.list_element(pc.if_else(others, pa.scalar(None, lists.type), lists), 0).cast(field.type)


def _holding_bytes(lists: pa.Array) -> pa.BooleanArray:
    """Marks the lists with a value that is not UTF-8."""
    try:
        lists.flatten().cast(pa.large_string())
    except pa.ArrowInvalid:
        return pa.array([not all(map(_is_utf8, values or ())) for values in lists.to_pylist()])
    return pa.array(np.zeros(len(lists), np.bool_))


def from_columns(table: pa.Table) -> tuple[list[pa.LargeBinaryArray], Refused]:
    """Converts columns to serialized Examples that have one feature each. A null is no feature.

    A feature holds 64-bit integers, 32-bit floats or byte strings. Bools become 0 and 1.

    Returns:
        For each column, an Example for each record that can be written; and why each other record cannot be written.

    Raises:
        UsageError: No feature can hold a column's type.
    """
    refused: Refused = {}
    flat = {name: _flat(name, columns.one(column)) for name, column in zip(table.column_names, table, strict=True)}
    for name, (lists, kind) in flat.items():
        bad = _unwritable(lists)
        rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False)).tolist()
        refused.update((row, (Reason.SCHEMA.value, f"field {name}: {_why(lists, row, kind)}")) for row in rows)
    kept = pa.array(np.delete(np.arange(table.num_rows), list(refused)))
    return [_features(name, lists.take(kept)) for name, (lists, _) in flat.items()], refused


def _flat(name: str, column: pa.Array) -> tuple[pa.Array, pa.DataType]:
    """Returns the values of each record as a list of int64, uint64, floats or bytes; and the type that they had.

    Raises:
        UsageError: No feature can hold the column's type.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not columns.is_list(kind):
        sizes = column.is_valid().to_numpy(zero_copy_only=False)
        bounds = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        column = pa.LargeListArray.from_arrays(bounds, column.drop_null(), mask=pa.array(~sizes))
    else:
        kind = kind.value_type
    leaf = _LEAVES.get(kind) or (pa.large_binary() if pa.types.is_fixed_size_binary(kind) else None)
    if leaf is None:
        raise UsageError(
            f"field {name}: a tf.Example holds integers, floats, strings, bytes and flat lists of them, no {kind}; "
            f"leave the field out with --exclude_fields={name}"
        )
    return column.cast(pa.large_list(leaf)), kind


_TEXTS = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())
_SMALL = (pa.bool_(), *map(pa.from_numpy_dtype, ("i1", "i2", "i4", "i8", "u1", "u2", "u4")))
_LEAVES = {
    **dict.fromkeys(_SMALL, pa.int64()),
    **dict.fromkeys(_TEXTS, pa.large_binary()),
    pa.uint64(): pa.uint64(),
    pa.float16(): pa.float32(),
    pa.float32(): pa.float32(),
    pa.float64(): pa.float64(),
    pa.null(): pa.int64(),  # no record has a value
}


def _unwritable(lists: pa.Array) -> pa.BooleanArray:
    """Marks the lists that no feature can hold: with a null, an integer above int64, or a float that float32 rounds."""
    flat = lists.flatten()
    beyond = flat.is_null().to_numpy(zero_copy_only=False)
    values = pc.fill_null(flat, 0).to_numpy(zero_copy_only=False) if pa.types.is_primitive(flat.type) else None
    if values is not None and flat.type == pa.uint64():
        beyond = beyond | (values > INT64_MAX)
    if values is not None and flat.type == pa.float64():
        with np.errstate(over="ignore"):
            beyond = beyond | ((values.astype(np.float32) != values) & ~np.isnan(values))
    return pa.array(_any_in(lists, beyond))


def _any_in(lists: pa.Array, marked: Mask) -> Mask:
    """Marks the lists with a marked value."""
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    sums = np.concatenate([[0], np.cumsum(marked)])[np.concatenate([[0], np.cumsum(sizes)])]
    found: Mask = np.diff(sums) > 0
    return found


def _why(lists: pa.Array, row: int, kind: pa.DataType) -> str:
    values = lists[row].as_py()
    if None in values:
        return "a list of a tf.Example holds no null"
    if kind == pa.uint64():
        return f"{max(values)} does not fit an int64_list"
    rounded = next(value for value in values if float(np.float32(value)) != value)
    return f"a float_list holds 32-bit floats, and {rounded} would be rounded"


def _features(name: str, lists: pa.Array) -> pa.LargeBinaryArray:
    valid = lists.is_valid().to_numpy(zero_copy_only=False)
    places = pa.array(np.cumsum(valid) - 1, mask=~valid)
    leaf = {pa.float64(): pa.float32(), pa.large_binary(): pa.binary()}.get(
        lists.type.value_type, lists.type.value_type
    )
    given = lists.drop_null().cast(pa.list_(leaf))
    made = encode(name, given) if len(given) else pa.array([], pa.large_binary())
    return pc.fill_null(made.take(places), b"")
