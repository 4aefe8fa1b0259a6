"""Measures nested lists of variable size, and folds flat values into such lists."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from transforms.records import Mask, Positions


class RowShapes(NamedTuple):
    """The shape of each record of nested lists.

    Attributes:
        shapes: The shape of each record. int64, (records, dimensions).
        regular: Marks the records whose lists have equal lengths at every level that requires it. bool, (records,).
    """

    shapes: Positions
    regular: Mask


def row_shapes(array: pa.Array, dims: Sequence[int | None], varied: int = 1) -> RowShapes:
    """Measures the shape of each record.

    Args:
        array: Nested lists of variable size, one level for each dimension.
        dims: The size to use for a level where a record has no lists, for each level. None counts as 0.
        varied: How many levels may have lists of different lengths. The size of such a level is that of its first
            list.
    """
    bounds = np.arange(len(array) + 1)
    shapes: Positions = np.zeros((len(array), len(dims)), np.int64)
    regular: Mask = np.ones(len(array), np.bool_)
    for level, size in enumerate(dims):
        offsets = array.offsets.to_numpy()
        lengths, counts = np.diff(offsets), np.diff(bounds)
        shapes[:, level] = np.where(counts > 0, np.append(lengths, 0)[bounds[:-1]], size or 0)
        if level >= varied:
            differ = lengths[bounds[0] : bounds[-1]] != np.repeat(shapes[:, level], counts)
            regular &= np.diff(np.append(0, np.cumsum(differ))[bounds - bounds[0]]) == 0
        bounds, array = offsets[bounds], array.values
    return RowShapes(shapes, regular)


def inner_lengths(array: pa.Array, varied: int) -> list[pa.LargeBinaryArray]:
    """Returns the lengths of the lists inside each record, for each level below the first.

    Args:
        array: Nested lists of variable size.
        varied: How many levels have lists of different lengths, including the first level.

    Returns:
        One array for each level below the first. Each record is the bytes of its int64 lengths.

    >>> (found,) = inner_lengths(pa.array([[[1], [2, 3]], []]), 2)
    >>> [np.frombuffer(record.as_py(), np.int64).tolist() for record in found]
    [[1, 2], []]
    """
    found, bounds = [], np.arange(len(array) + 1)
    for level in range(varied):
        offsets = array.offsets.to_numpy()
        if level:
            places, lengths = pa.py_buffer(8 * bounds.astype(np.int64)), pa.py_buffer(np.diff(offsets.astype(np.int64)))
            found.append(pa.Array.from_buffers(pa.large_binary(), len(bounds) - 1, [None, places, lengths]))
        bounds, array = offsets[bounds], array.values
    return found


def lists(flat: pa.Array, shape: Sequence[int]) -> pa.Array:
    """Folds flat values into nested lists. The type has lists of variable size, but all lists of a level are equal.

    Args:
        flat: The values.
        shape: The number of records, then the shape of each record.

    >>> lists(pa.array([1, 2, 3, 4]), (2, 1, 2)).to_pylist()
    [[[1, 2]], [[3, 4]]]
    """
    for level in range(len(shape) - 1, 0, -1):
        offsets = np.arange(math.prod(shape[:level]) + 1, dtype=np.int32) * np.int32(shape[level])
        flat = pa.ListArray.from_arrays(pa.array(offsets), flat)
    return flat
