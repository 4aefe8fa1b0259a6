"""Converts columns between Arrow arrays, which formats read and write, and NumPy arrays, which models take and give.

A fixed shape becomes nested fixed-size lists. An input of shape (n, 2, 3) is a column of n records of type
`fixed_size_list<fixed_size_list<float, 3>, 2>`. An input with an open size has lists of variable size instead, because
each row has its own size. The shape (n, None, 3) becomes `list<list<float>>`.
"""

import base64
import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.dtypes import STRING
from transforms.errors import RunError
from transforms.mapping.nested import lists
from transforms.records import Feature, Mask, Positions

B64 = "b64"
NO_SPACE = str.maketrans("", "", " \t\n\v\f\r")
# The Arrow type that a value is read as. The value is then checked and narrowed to the dtype of the model.
READ_AS = {
    "float16": pa.float32(),
    "bfloat16": pa.float32(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int8": pa.int64(),
    "uint8": pa.int64(),
    "int16": pa.int64(),
    "uint16": pa.int64(),
    "int32": pa.int64(),
    "uint32": pa.int64(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "bool": pa.bool_(),
    STRING: pa.string(),
}
BATCH_BYTES = 1 << 21  # fits into a core's cache together with the weights of a small model
MIN_BATCH, MAX_BATCH = 48, 12_288  # multiples of the panels of matrix kernels, see `scoring.bisect.MULTIPLE`
STRING_BYTES = 256  # an estimate: the model's signature has no size for strings
OPEN_SIZE = 256  # an estimate, for a size that neither the signature nor a sampled row has
# The fields of a row of a sparse feature: the row-major positions of its values, ascending; the values; its sizes.
PLACES, VALUES, SIZES = "places", "values", "sizes"
# Byte strings that `join` concatenates record by record. A string that is the same in all records is one scalar.
Fragments = list[pa.Scalar | pa.Array]


def concatenate(batches: Sequence[pa.RecordBatch], features: Sequence[Feature]) -> pa.RecordBatch:
    """Concatenates the model inputs of several runs of rows into one batch."""
    whole = pa.Table.from_batches(batches, empty(features).schema).combine_chunks().to_batches()
    return whole[0] if whole else empty(features)


def empty(features: Sequence[Feature]) -> pa.RecordBatch:
    """Makes a batch of the model's inputs with no rows."""
    kinds = [(f.name, _sparse_kind(f) if f.is_sparse else _kind(READ_AS[f.dtype], f.shape)) for f in features]
    kinds += [(name, pa.bool_()) for name in default_columns(features).values()]
    return pa.RecordBatch.from_pylist([], pa.schema(kinds))


def default_columns(features: Sequence[Feature]) -> dict[str, str]:
    r"""Maps each field that has a default to the column that marks the rows which take the default.

    >>> default_columns([Feature("x", "int64", (), ("a",), inside=(("b",),), missing=("0",))])
    {'a.b': '\x00a.b'}
    """
    with_default = [feature for feature in features if feature.missing]
    return {field: f"\0{field}" for feature in with_default for field in feature.defaults}  # no input has such a name


def _sparse_kind(feature: Feature) -> pa.DataType:
    leaf = pa.binary() if feature.dtype == STRING else READ_AS[feature.dtype]
    return pa.struct([(PLACES, pa.list_(pa.int64())), (VALUES, pa.list_(leaf)), (SIZES, pa.list_(pa.int64()))])


def _kind(leaf: pa.DataType, shape: Sequence[int | None]) -> pa.DataType:
    kind = pa.binary() if leaf == pa.string() else leaf
    for size in reversed(shape):
        kind = pa.list_(kind) if size is None or None in shape else pa.list_(kind, size)
    return kind


def is_list(kind: pa.DataType) -> bool:
    """Returns whether a type is that of lists, of any size and width of offsets."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Returns whether a type is that of strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Returns whether a type is that of bytes."""
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def one(column: pa.ChunkedArray) -> pa.Array:
    """Returns a column as one array."""
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else array.chunk(0)


def not_utf8(values: pa.Array) -> Positions:
    r"""Finds the byte strings that are not UTF-8.

    >>> not_utf8(pa.array([b"a", b"\xff", None])).tolist()
    [1]
    """
    if _is_utf8(values):
        return np.zeros(0, np.int64)
    return np.flatnonzero([not _is_utf8(values.slice(at, 1)) for at in range(len(values))])


def _is_utf8(values: pa.Array) -> bool:
    try:
        values.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def unbase64(text: str) -> bytes:
    r"""Decodes base64 as TensorFlow Serving does: it skips white space and accepts missing padding.

    Raises:
        ValueError: The text is not base64 in the alphabet of RFC 4648, section 4.

    >>> unbase64("aGVs\nbG8")
    b'hello'
    """
    kept = text.translate(NO_SPACE)
    padding = "" if "=" in kept else "=" * (-len(kept) % 4)
    return base64.b64decode(kept + padding, validate=True)


def fits(column: pa.Array | pa.ChunkedArray, dims: Sequence[int | None], dtype: str, *, words: bool = False) -> Mask:
    """Marks the records that hold a value of the given shape and dtype, without nulls.

    Args:
        column: The records.
        dims: The shape of a record; None allows any size.
        dtype: The dtype that has to hold the values.
        words: As in `in_range`.

    Returns:
        bool, (records,).
    """
    array = one(column) if isinstance(column, pa.ChunkedArray) else column
    valid: Mask = np.ones(len(array), np.bool_)
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
    if not dims:
        return valid & in_range(array, dtype, words=words)
    offsets = array.offsets.to_numpy()
    fitting: Mask = valid if dims[0] is None else valid & (np.diff(offsets) == dims[0])
    inner = fits(array.values, dims[1:], dtype, words=words)
    if not inner.all():  # if all fit, the sum over all values is not needed
        fitting &= np.diff(np.concatenate([[0], np.cumsum(~inner)])[offsets]) == 0
    return fitting


def in_range(array: pa.Array, dtype: str, *, words: bool = False) -> Mask:
    """Marks the values that the dtype can hold. A bool can hold the integers 0 and 1.

    Args:
        array: Values.
        dtype: The dtype.
        words: Whether a float may be NaN or infinite. It may where the row spells it as a word, see
            `transforms.mapping.numbers`.

    Returns:
        bool, (values,).
    """
    if dtype == STRING or pa.types.is_boolean(array.type):
        return np.ones(len(array), np.bool_)
    values = (pc.fill_null(array, 0) if array.null_count else array).to_numpy(zero_copy_only=False)
    if dtype.startswith(("float", "bfloat")):
        with np.errstate(over="ignore"):
            finite: Mask = np.isfinite(values.astype(dtype, copy=False))
        return finite | ~np.isfinite(values) if words else finite
    lowest, highest = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    within: Mask = (values >= lowest) & (values <= highest)
    return within


def input_of(fields: Sequence[pa.Array], feature: Feature) -> pa.Array:
    """Makes one column of the input's shape from fields whose values fit (see `fits`)."""
    if feature.is_grouped:
        return fields[0]
    if len(fields) > 1:
        stacked = np.column_stack([_numpy(field) for field in fields]).reshape(-1)
        flat = _arrow(stacked, READ_AS[feature.dtype])
    else:
        flat = fields[0]
        while pa.types.is_list(flat.type):
            flat = flat.flatten()
    shape: Any = feature.shape
    return nested(flat, shape)


def fixed(feature: Feature) -> tuple[int, ...]:
    """Returns the shape of a feature that has no open size."""
    return tuple(size for size in feature.shape if size is not None)


def nested(flat: pa.Array, shape: Sequence[int]) -> pa.Array:
    """Folds flat values into records of a shape.

    Raises:
        RunError: The shape has a size of 0. Arrow cannot fold values into fixed-size lists of size 0.
    """
    if 0 in shape:
        raise RunError(f"a prediction of the shape {list(shape)} has no values; export the model without it")
    for size in reversed(shape):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


def _numpy(array: pa.Array) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def _arrow(values: npt.NDArray[Any], leaf: pa.DataType) -> pa.Array:
    return pa.array(values, pa.binary() if leaf == pa.string() else leaf)


def to_array(column: pa.Array, feature: Feature) -> npt.NDArray[Any]:
    """Converts a column to the array that the model is called with.

    Args:
        column: Nested lists, all of the feature's shape.
        feature: The feature; it has no open size.

    Returns:
        (n, *shape), in the dtype of the model's input; strings are objects.
    """
    shape: Any = (len(column), *feature.shape)
    while pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
        column = column.flatten()
    dtype = object if feature.dtype == STRING else feature.dtype
    return _numpy(column).astype(dtype, copy=False).reshape(shape)


def row_bytes(features: Sequence[Feature]) -> int:
    """Estimates the bytes of a row's inputs; a string counts as `STRING_BYTES`, an open size as `OPEN_SIZE`."""
    return sum(
        (OPEN_SIZE if f.is_sparse else math.prod(OPEN_SIZE if size is None else size for size in f.shape))
        * (STRING_BYTES if f.dtype == STRING else np.dtype(f.dtype).itemsize)
        for f in features
    )


def batch_rows(features: Sequence[Feature]) -> int:
    """Chooses how many rows make a batch of about `BATCH_BYTES`: many small rows, or few images."""
    row, size = row_bytes(features), MAX_BATCH
    while size > MIN_BATCH and size * row > BATCH_BYTES:
        size //= 2
    return size


def from_array(values: npt.NDArray[Any], *, is_open: bool = False) -> pa.Array:
    """Converts a model's output to a column. 16-bit floats become float32, strings become binary.

    Args:
        values: The output, (n, *shape).
        is_open: Whether rows of other calls may have other sizes. The column then has lists of variable size.

    Raises:
        RunError: The shape has a size of 0.
    """
    flat = values.reshape(-1)
    if flat.dtype == object:
        leaf = pa.array(flat, pa.binary())
    elif flat.dtype.name in ("float16", "bfloat16"):
        leaf = pa.array(flat.astype(np.float32))
    else:
        leaf = pa.array(flat)
    return lists(leaf, values.shape) if is_open else nested(leaf, values.shape[1:])


def flat_values(column: pa.Array) -> pa.Array:
    """Returns the values of all records as a flat array, row-major."""
    while pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
        column = column.flatten()
    return column


def value_bounds(column: pa.Array) -> Positions:
    """Returns the bounds of each record's values in `flat_values`. int64, (records + 1,)."""
    bounds: Positions = np.arange(len(column) + 1)
    while True:
        if pa.types.is_fixed_size_list(column.type):
            bounds = bounds * column.type.list_size
        elif pa.types.is_list(column.type):
            offsets = column.offsets.to_numpy().astype(np.int64)
            bounds = (offsets - offsets[0])[bounds]
        else:
            return bounds
        column = column.flatten()


def record_of(bounds: Positions, at: int) -> int:
    """Returns the record that has a value, from the bounds that `value_bounds` returns and the index of the value."""
    return int(np.searchsorted(bounds, at, side="right")) - 1


def gather(data: bytes | pa.Buffer, starts: Positions, ends: Positions) -> pa.LargeBinaryArray:
    """Puts the pieces data[start:end] side by side in one buffer, in order.

    If all pieces touch in `data`, the result is a view. Otherwise the pieces are copied.
    """
    if not len(starts):
        return _binary(np.zeros(1, np.int64), data)
    cuts = np.flatnonzero(starts[1:] != ends[:-1])
    if not len(cuts):
        return _binary(np.append(starts, ends[-1]), data)
    # A run of touching pieces is copied as one. Few rows are bad, so there are few runs.
    bounds = np.column_stack([starts[np.append(0, cuts + 1)], ends[np.append(cuts, -1)]]).reshape(-1)
    runs = _binary(bounds, data).take(pa.array(np.arange(0, len(bounds), 2)))
    return _binary(np.append(0, np.cumsum(ends - starts)), contents(runs))


def pick(pieces: pa.LargeBinaryArray, which: Positions) -> pa.LargeBinaryArray:
    """Selects some of the pieces that `gather` made, by their numbers in ascending order."""
    bounds = _offsets(pieces)
    return gather(pieces.buffers()[2], bounds[which], bounds[which + 1])


def _binary(offsets: Positions, data: bytes | pa.Buffer) -> pa.LargeBinaryArray:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, np.int64)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def contents(pieces: pa.LargeBinaryArray) -> pa.Buffer:
    """Returns the bytes of pieces that lie side by side, as `gather` makes them."""
    bounds = _offsets(pieces)
    return pieces.buffers()[2].slice(int(bounds[0]), int(bounds[-1] - bounds[0]))


def join(parts: Fragments) -> pa.LargeBinaryArray:
    """Concatenates the fragments of each record into one piece. At least one fragment has to be an array."""
    wide = [part if isinstance(part, pa.Scalar) else part.cast(pa.large_binary()) for part in parts]
    return pc.binary_join_element_wise(*wide, pa.scalar(b"", pa.large_binary()))


def sizes(pieces: pa.LargeBinaryArray) -> Positions:
    """Returns the size of each piece in bytes."""
    found: Positions = np.diff(_offsets(pieces))
    return found


def _offsets(pieces: pa.LargeBinaryArray) -> Positions:
    whole = np.frombuffer(pieces.buffers()[1], np.int64)
    return whole[pieces.offset : pieces.offset + len(pieces) + 1]
