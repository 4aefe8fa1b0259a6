"""Groups the rows of a chunk by the shapes of their inputs, so that one call of the model has rows of one shape."""

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.columns import MIN_BATCH
from transforms.halves import MULTIPLE
from transforms.model import Arrays
from transforms.nested import row_shapes
from transforms.records import Feature, Positions

CALL_BYTES = 32 << 20  # that the inputs of one call take at most, where rows have sizes of their own


class Group(NamedTuple):
    """Rows with inputs of the same shapes.

    Attributes:
        numbers: Their numbers among the rows, ascending.
        arrays: Data input -> (rows of the group, …).
        most: Rows of a call at most, whatever the batch size is.
        shapes: The sizes that the features leave open.
    """

    numbers: Positions
    arrays: Arrays
    most: int = sys.maxsize
    shapes: tuple[int, ...] = ()


def by_shape(inputs: pa.RecordBatch, features: Sequence[Feature]) -> Iterator[Group]:
    """The rows of a chunk, group by group; one group if no feature leaves a size open.

    A group's arrays are made when it is asked for.

    Args:
        inputs: A column a feature.
        features: What the model's inputs are fed with.
    """
    open_ = [feature for feature in features if feature.is_open]
    if not open_:
        whole = {f.name: columns.to_array(inputs[f.name], f) for f in features}
        yield Group(np.arange(inputs.num_rows), whole)
        return
    shapes = np.concatenate([row_shapes(inputs[f.name], f.shape).shapes for f in open_], axis=1)
    _, firsts, group_of = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(group_of.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(group_of.reshape(-1), minlength=len(firsts)))
    for first, end, count in zip(firsts, ends, np.diff(np.append(0, ends)), strict=True):
        numbers = order[end - count : end]
        yield _group(inputs if len(firsts) == 1 else inputs.take(pa.array(numbers)), numbers, features, shapes[first])


def largest(inputs: pa.RecordBatch, features: Sequence[Feature]) -> Group | None:
    """The largest group of rows; None if there are no rows."""
    return max(by_shape(inputs, features), key=lambda group: len(group.numbers), default=None)


def _group(rows: pa.RecordBatch, numbers: Positions, features: Sequence[Feature], sizes: Positions) -> Group:
    """The group of some rows.

    Args:
        rows: The inputs of these rows alone.
        numbers: Their numbers.
        features: What the model's inputs are fed with.
        sizes: The shapes of the open ones among them, one behind the other.
    """
    shaped, left = [], sizes.tolist()
    for feature in features:
        rank = len(feature.shape) if feature.is_open else 0
        shaped.append(feature._replace(shape=tuple(left[:rank])) if rank else feature)
        left = left[rank:]
    arrays = {f.name: columns.to_array(rows[f.name], f) for f in shaped}
    most = CALL_BYTES // max(1, columns.row_bytes(shaped)) // MULTIPLE * MULTIPLE or MIN_BATCH
    return Group(numbers, arrays, most, tuple(sizes.tolist()))
