"""Nested lists of variable size: the shape of each record, and values folded into records."""

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
        regular: Which records are regular: all of their lists of one level have one length.
    """

    shapes: Positions
    regular: Mask


def row_shapes(array: pa.Array, dims: Sequence[int | None]) -> RowShapes:
    """The shapes of records that are as many lists deep as there are dimensions.

    Args:
        array: Nested lists of variable size.
        dims: What the sizes are where a record has no list to tell it; None is 0 then.
    """
    bounds = np.arange(len(array) + 1)
    shapes: Positions = np.zeros((len(array), len(dims)), np.int64)
    regular: Mask = np.ones(len(array), np.bool_)
    for level, size in enumerate(dims):
        offsets = array.offsets.to_numpy()
        lengths, counts = np.diff(offsets), np.diff(bounds)
        shapes[:, level] = np.where(counts > 0, np.append(lengths, 0)[bounds[:-1]], size or 0)
        if level:
            differ = lengths[bounds[0] : bounds[-1]] != np.repeat(shapes[:, level], counts)
            regular &= np.diff(np.append(0, np.cumsum(differ))[bounds - bounds[0]]) == 0
        bounds, array = offsets[bounds], array.values
    return RowShapes(shapes, regular)


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
