"""Nested lists of variable size: the shape of each record, lengths inside of it, and values folded into records."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from transforms.records import Mask, Positions


class RowShapes(NamedTuple):
    """The shape of each record of nested lists.

    Attributes:
        shapes: int64, (records, dimensions).
        regular: Which records are regular: all of their lists of one level have one length, where they have to.
    """

    shapes: Positions
    regular: Mask


def row_shapes(array: pa.Array, dims: Sequence[int | None], varied: int = 1) -> RowShapes:
    """The shapes of records that are as many lists deep as there are dimensions.

    Args:
        array: Nested lists of variable size.
        dims: What the sizes are where a record has no list to tell it; None is 0 then.
        varied: Levels whose lists may have different lengths; their shape is that of the first list.
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
    """The lengths of the lists inside of each record, for each level below the first: int64, side by side as bytes.

    Args:
        array: Nested lists of variable size.
        varied: How many levels have lists of different lengths, the first among them.

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
    """Folds values into lists of variable size, here all alike.

    Args:
        flat: The values.
        shape: How many records there are, and the shape of each.

    >>> lists(pa.array([1, 2, 3, 4]), (2, 1, 2)).to_pylist()
    [[[1, 2]], [[3, 4]]]
    """
    for level in range(len(shape) - 1, 0, -1):
        offsets = np.arange(math.prod(shape[:level]) + 1, dtype=np.int32) * np.int32(shape[level])
        flat = pa.ListArray.from_arrays(pa.array(offsets), flat)
    return flat
