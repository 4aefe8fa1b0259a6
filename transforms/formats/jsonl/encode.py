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
    """Encodes each record of a column as JSON text, in binary. NaN and infinite floats become `null`.

    >>> encode(pa.array([[1.5, 2.0], [0.1, float("nan")]], pa.list_(pa.float32(), 2))).to_pylist()
    [b'[1.5, 2.0]', b'[0.1, null]']
    """
    return columns.join(fragments(column))


def fragments(column: pa.Array) -> Fragments:
    """Encodes like `encode`, but returns fragments. The caller adds its own fragments and joins all of them once."""
    if pa.types.is_fixed_size_list(column.type):
        return [text("["), *_items(column.flatten(), column.type.list_size, len(column)), text("]")]
    if pa.types.is_list(column.type):
        offsets = column.offsets.cast(pa.int64()).to_numpy()
        items = encode(column.flatten())
        joined = pc.binary_join(pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0]), items), text(", "))
        return [text("["), joined, text("]")]
    if pa.types.is_floating(column.type):
        return [_floats(column)]
    if pa.types.is_binary(column.type):
        return [_strings(column)]
    return [column.cast(pa.string())]


def text(value: str) -> pa.Scalar:
    """Makes a fragment that is the same in all records."""
    return pa.scalar(value.encode(), pa.large_binary())


def _items(items: pa.Array, size: int, count: int) -> Fragments:
    if size == 1:
        return fragments(items)
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
