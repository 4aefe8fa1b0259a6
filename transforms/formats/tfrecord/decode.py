"""Decodes tf.Examples to the model's inputs.

The result for a record is what tfx_bsl reads from that record by itself. Two faster ways decode many records at once,
with the same result: `same_layout` for records with the same layout, and `_decode_many` for records whose lists have
the same kinds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from transforms import columns
from transforms.dtypes import STRING
from transforms.formats.tfrecord import same_layout
from transforms.formats.tfrecord.parse import BYTES, FLOATS, INTS, LIST_NAMES, Values, parse
from transforms.mapping import defaults
from transforms.reasons import Reason
from transforms.records import Feature, Mask, Positions

DECODE_ROWS = 8_192  # in larger batches, the decoder takes twice as long for each row
LIST_TYPES = {FLOATS: schema_pb2.FLOAT, INTS: schema_pb2.INT, BYTES: schema_pb2.BYTES}


def decode(
    records: pa.LargeBinaryArray, features: Sequence[Feature]
) -> tuple[pa.RecordBatch, dict[int, tuple[str, str]]]:
    """Decodes the records that fit to the model's inputs.

    A float input may be fed from a list of integers. If a record gives a name twice, the last one counts, as everywhere
    in protobuf.

    Args:
        records: Serialized Examples, side by side, as `columns.gather` makes them. Some may be damaged.
        features: The model's inputs, and the fields that feed them.

    Returns:
        The inputs, one column for each feature; and for each record that does not fit, its number -> reason code and
        message.
    """
    block = _decode(records, _fields(features))
    fitting = _fitting(block.lists, len(block.read), features)
    good, lists = block.read[fitting], block.lists
    if not fitting.all():
        lists = {field: column.filter(pa.array(fitting)) for field, column in lists.items()}
    whole = records.take(pa.array(good)).to_pylist() if any(not f.fields for f in features) else []
    arrays = [_input(feature, _filled(feature, lists), whole) for feature in features]
    arrays += defaults.which(features, lambda at, number: _empty(lists[features[at].fields[number]]))
    refused = np.ones(len(records), np.bool_)
    refused[good] = False
    unfit = np.flatnonzero(refused).tolist()
    names = [*(feature.name for feature in features), *columns.default_columns(features).values()]
    return pa.RecordBatch.from_arrays(arrays, names), {at: _explain(records[at].as_py(), features) for at in unfit}


def _fields(features: Sequence[Feature]) -> dict[str, str]:
    """Returns the fields to decode, each with the dtype of the input that it feeds."""
    return {field: feature.dtype for feature in features for field in feature.fields}


def _kinds(dtype: str) -> str:
    """Returns the kinds of lists that may feed an input of a dtype, the likeliest first."""
    if dtype == STRING:
        return BYTES
    return FLOATS + INTS if "float" in dtype else INTS


def _leaf(dtype: str) -> pa.DataType:
    """Returns the Arrow type to which the values for an input of a dtype are decoded."""
    if dtype == STRING:
        return pa.large_binary()
    return columns.READ_AS[dtype] if "float" in dtype else pa.int64()


class _Block(NamedTuple):
    """Decoded records.

    Attributes:
        read: The numbers of the records that are Examples and have no field of a wrong kind. int64, (records,).
        lists: Field -> a list of values for each of these records. It is null if the record lacks the field.
    """

    read: Positions
    lists: dict[str, pa.Array]


def _decode(records: pa.LargeBinaryArray, fields: dict[str, str]) -> _Block:
    kinds = {field: _kinds(dtype) for field, dtype in fields.items()}
    blocks = [
        _Block(numbers, {field: _cast(found, fields[field]) for field, found in lists.items()})
        for numbers, lists in same_layout.groups(records, kinds)
    ]
    left = np.delete(np.arange(len(records)), np.concatenate([np.zeros(0, np.int64), *(b.read for b in blocks)]))
    for at in range(0, len(left), DECODE_ROWS):
        some = left[at : at + DECODE_ROWS]
        block = _decode_many(records.take(pa.array(some)).to_pylist(), fields)
        blocks.append(block._replace(read=some[block.read]))
    return _in_order(blocks or [_decode_each([], fields)])


def _in_order(blocks: Sequence[_Block]) -> _Block:
    if len(blocks) == 1:
        return blocks[0]
    read = np.concatenate([block.read for block in blocks])
    order = np.argsort(read)
    joined = {field: pa.concat_arrays([block.lists[field] for block in blocks]) for field in blocks[0].lists}
    return _Block(read[order], {field: lists.take(pa.array(order)) for field, lists in joined.items()})


def _cast(lists: pa.Array, dtype: str) -> pa.Array:
    return pc.cast(lists, pa.large_list(_leaf(dtype)), safe=False)


def _decode_many(records: Sequence[bytes], fields: dict[str, str]) -> _Block:
    """Decodes records in one call if all their lists have the same kinds as those of the first, else one by one."""
    schema = schema_pb2.Schema()
    first = parse(records[0]) or {}
    for field, dtype in fields.items():
        kinds, values = _kinds(dtype), first.get(field)
        kind = kinds[0] if values is None or values.dtype.kind not in kinds else values.dtype.kind
        schema.feature.add(name=field, type=LIST_TYPES[kind])
    try:
        # Each call makes a decoder, because one that raised stays broken, and threads cannot share one.
        batch = ExamplesToRecordBatchDecoder(schema.SerializeToString()).DecodeBatch(records)
    except RuntimeError:
        return _decode_each(records, fields)
    return _Block(np.arange(len(records)), {field: _cast(batch.column(field), d) for field, d in fields.items()})


def _decode_each(records: Sequence[bytes], fields: dict[str, str]) -> _Block:
    """Decodes records one by one, to the same lists as `_decode_many`.

    Here a field that feeds a float input may have integers in one record and floats in another.
    """
    kinds = [_kinds(dtype) for dtype in fields.values()]
    found, read = [], []
    for number, record in enumerate(records):
        example = parse(record)
        values = [] if example is None else [example.get(field) for field in fields]
        if example is not None and all(v is None or v.dtype.kind in k for v, k in zip(values, kinds, strict=True)):
            found.append(values)
            read.append(number)
    by_field = zip(*found, strict=True) if found else [()] * len(fields)
    lists = {f: _listed(values, _leaf(d)) for (f, d), values in zip(fields.items(), by_field, strict=True)}
    return _Block(np.array(read, np.int64), lists)


def _listed(found: Sequence[Values | None], leaf: pa.DataType) -> pa.Array:
    """Makes an array with a list of values for each record, null where `found` is None."""
    empty = np.zeros(0, _numpy(leaf))
    given = [empty if values is None else values for values in found]
    flat = np.concatenate([empty, *given], dtype=empty.dtype, casting="unsafe")
    offsets = np.cumsum([0, *map(len, given)], dtype=np.int64)
    missing = pa.array([values is None for values in found], pa.bool_())
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat, leaf), mask=missing)


def value_count(feature: Feature) -> int:
    """Returns how many values an input takes from each field; with an open size, it takes a multiple of that number."""
    return math.prod(columns.fixed(feature)) if len(feature.fields) == 1 else 1


def _fitting(lists: dict[str, pa.Array], count: int, features: Sequence[Feature]) -> Mask:
    fitting = np.ones(count, np.bool_)
    for feature in features:
        for field in feature.fields:
            dims = None if feature.is_open else value_count(feature)
            fits = columns.fits(lists[field], (dims,), feature.dtype)
            if feature.is_open:
                fits &= np.diff(lists[field].offsets.to_numpy()) % value_count(feature) == 0
            if _default_of(feature, field) is not None:
                fits |= _empty(lists[field])
            fitting &= fits
    return fitting


def _default_of(feature: Feature, field: str) -> str | None:
    """Returns the default of a field, as text; None if it has no default."""
    return feature.missing[feature.fields.index(field)] if feature.missing else None


def _empty(lists: pa.Array) -> Mask:
    """Marks the records without values: the feature is missing, has no list, or has an empty list."""
    mask: Mask = (np.diff(lists.offsets.to_numpy()) == 0) | lists.is_null().to_numpy(zero_copy_only=False)
    return mask


def _filled(feature: Feature, lists: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """Replaces empty lists by the defaults of a feature's fields."""
    made = {}
    for field, text in zip(feature.fields, feature.missing, strict=True) if feature.missing else ():
        if text is None or not (empty := _empty(lists[field])).any():
            continue
        shape = feature.shape if len(feature.fields) == 1 else ()
        flat = np.array(defaults.value(text, feature.dtype, shape), object).reshape(-1).tolist()
        default = pa.scalar(flat, lists[field].type)
        made[field] = pc.if_else(pa.array(empty), default, lists[field])
    return {**lists, **made} if made else lists


def _input(feature: Feature, lists: dict[str, pa.Array], whole: Sequence[bytes]) -> pa.Array:
    """Makes the column of one input.

    Args:
        feature: The input.
        lists: Field -> the lists of the records that fit.
        whole: The records themselves, which feed an input without fields.
    """
    if not feature.fields:
        return columns.from_array(np.array(whole, object).reshape(-1, *columns.fixed(feature)))
    if feature.is_open:
        return _open_input(feature, lists[feature.fields[0]])
    flat = [lists[field].flatten() for field in feature.fields]
    if len(flat) == 1 and feature.dtype == STRING:
        return columns.nested(flat[0].cast(pa.binary()), columns.fixed(feature))
    kind = _numpy(columns.READ_AS[feature.dtype])
    parts = [values.to_numpy(zero_copy_only=False).astype(kind, copy=False) for values in flat]
    stacked = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
    return columns.from_array(stacked.reshape(-1, *columns.fixed(feature)))


def _open_input(feature: Feature, lists: pa.Array) -> pa.Array:
    """Nests flat lists as in the shape of an input. The length of each list determines the open size."""
    counts = np.diff(lists.offsets.to_numpy()) // value_count(feature)
    kind = columns.READ_AS[feature.dtype]
    nested = lists.flatten().cast(pa.binary() if feature.dtype == STRING else kind)
    sizes = list(feature.shape)
    for level in range(len(sizes) - 1, -1, -1):
        each = np.array([math.prod(size for size in sizes[:level] if size is not None)] * len(counts), np.int64)
        each *= counts if None in sizes[:level] else 1
        lengths = np.repeat(counts, each) if sizes[level] is None else np.full(each.sum(), sizes[level])
        nested = pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32)), nested)
    return nested


def _numpy(kind: pa.DataType) -> npt.DTypeLike:
    """Returns the NumPy dtype for values of an Arrow type. For text and byte strings, it is object."""
    # `to_pandas_dtype` would import pandas, which takes 0.4 s.
    dtype: npt.DTypeLike = pa.nulls(0, kind).to_numpy(zero_copy_only=False).dtype
    return dtype


def _explain(record: bytes, features: Sequence[Feature]) -> tuple[str, str]:
    """Returns the reason code and the message for a record that could not be read."""
    example = parse(record)
    if example is None:
        return Reason.NOT_EXAMPLE.value, f"its {len(record)} bytes do not parse as a tf.train.Example"
    for feature in features:
        for field in feature.fields:
            values = example.get(field)
            if _default_of(feature, field) is not None and (values is None or not len(values)):
                continue
            if field not in example:
                return Reason.MISSING.value, f"field {field}: not in the row"
            found = _explain_values(example[field], feature)
            if found:
                return found[0].value, f"field {field}: {found[1]}"
    return Reason.NOT_EXAMPLE.value, "tfx_bsl's ExamplesToRecordBatchDecoder does not read it"


def _explain_values(values: Values | None, feature: Feature) -> tuple[Reason, str] | None:
    count, dtype = value_count(feature), feature.dtype
    if values is None:
        return Reason.NULL, "a feature of no kind, which holds no values"
    kinds, kind = _kinds(dtype), values.dtype.kind
    if kind not in kinds:
        wanted = " or ".join(LIST_NAMES[k] for k in kinds)
        return Reason.WRONG_TYPE, f"{LIST_NAMES[kind]} where {wanted} is expected"
    if feature.is_open and len(values) % count:
        return Reason.WRONG_SHAPE, f"{len(values)} values where a multiple of {count} is expected"
    if not feature.is_open and len(values) != count:
        expected = "1 is" if count == 1 else f"{count} are"
        return Reason.WRONG_SHAPE, f"{len(values)} values where {expected} expected"
    beyond = np.flatnonzero(~columns.in_range(pa.array(values), dtype))
    return (Reason.OUT_OF_RANGE, f"{values[beyond[0]]} does not fit {dtype}") if len(beyond) else None
