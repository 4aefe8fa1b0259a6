"""Rows of lists of different lengths as arrays: each row is a record of its values and the lengths of its lists.

Rows whose lists have the same lengths go into one array, a record a row. So they are cut, repeated and sent to other
processes as all other rows are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import columns
from transforms.columns import VALUES
from transforms.dtypes import STRING
from transforms.records import Feature, Positions


def records(column: pa.Array, feature: Feature, lengths: Sequence[Positions]) -> tuple[Feature, npt.NDArray[Any]]:
    """Rows of lists of different lengths, which are the same ones in each row.

    Args:
        column: Nested lists, at least one row.
        feature: What they feed; its shape has the sizes of each level's first list.
        lengths: The lengths of the lists of a row, for each level below the first.

    Returns:
        The feature with the shape of a row's values, and a record a row.

    >>> feature = Feature("x", "float32", (2, 2), ("x",), ragged_rank=2)
    >>> flat, made = records(pa.array([[[1.0, 2.0], [3.0]]]), feature, [np.array([2, 1])])
    >>> flat.shape, made.tolist()
    ((3,), [(array([2, 1]), array([1., 2., 3.], dtype=float32))])
    """
    flat = feature._replace(shape=(int(lengths[-1].sum()), *feature.shape[len(lengths) + 1 :]))
    values = columns.to_array(column, flat)
    fields = [(level_name(level), "int64", len(one)) for level, one in enumerate(lengths, 1)]
    dtype = object if feature.dtype == STRING else feature.dtype
    made = np.empty(len(column), np.dtype([*fields, (VALUES, dtype, flat.shape)]))
    for level, one in enumerate(lengths, 1):
        made[level_name(level)] = one
    made[VALUES] = values
    return flat, made


def row_shape(rows: npt.NDArray[Any]) -> tuple[int, ...]:
    """The shape of the values of a row, in an array of rows or of their records."""
    values: tuple[int, ...] = rows.shape[1:] if rows.dtype.names is None else rows.dtype[VALUES].shape
    return values


def with_values(rows: npt.NDArray[Any], change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The same rows or records with other values.

    Args:
        rows: The rows.
        change: Makes the values, (rows, …), of those that are there.
    """
    if rows.dtype.names is None:
        return change(rows)
    made = rows.copy()
    made[VALUES] = change(rows[VALUES])
    return made


def level_name(level: int) -> str:
    """The field of a record that holds the lengths of a level's lists; level 0 is the row's own list."""
    return f"lengths_{level}"


def splits(rows: npt.NDArray[Any], levels: int) -> list[Positions]:
    """Where each list begins and ends in the lists of the next level or the values, of all rows together.

    TensorFlow's row splits, https://www.tensorflow.org/guide/ragged_tensor.

    Args:
        rows: Records as of `records`, or an array whose lists of one level have one length: (rows, …).
        levels: How many.
    """
    if rows.dtype.names is None:
        sizes = [np.full(int(np.prod(rows.shape[: level + 1])), rows.shape[level + 1]) for level in range(levels)]
    else:
        inner = [rows[level_name(level)] for level in range(1, levels)]
        sizes = [np.full(len(rows), inner[0].shape[1]), *(one.reshape(-1) for one in inner)]
    return [np.append(0, np.cumsum(one)).astype(np.int64) for one in sizes]


def flat_values(rows: npt.NDArray[Any], levels: int) -> npt.NDArray[Any]:
    """The values of all rows together: (values, …); see `splits`."""
    if rows.dtype.names is None:
        return rows.reshape(int(np.prod(rows.shape[: levels + 1])), *rows.shape[levels + 1 :])
    values = rows[VALUES]
    flat: npt.NDArray[Any] = values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])
    return flat
