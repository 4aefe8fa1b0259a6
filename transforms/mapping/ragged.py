"""Holds ragged rows as NumPy arrays: each row is a record of its flat values and the lengths of its lists.

Rows whose lists have the same lengths go into one array, with one record for each row. Thus other code can slice,
repeat and send ragged rows to other processes in the same way as all other rows.
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
    """Makes records of ragged rows. Lists inside a row may differ in length, but all rows have the same lengths.

    Args:
        column: Nested lists, at least one row.
        feature: The feature that they feed. Its shape has the size of each level's first list.
        lengths: The lengths of the lists of a row, for each level below the first. int64, (lists,) each.

    Returns:
        The feature with the shape of a row's flat values, and the records, (rows,).

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
    """Returns the shape of a row's values, for an array of rows or of records."""
    values: tuple[int, ...] = rows.shape[1:] if rows.dtype.names is None else rows.dtype[VALUES].shape
    return values


def with_values(rows: npt.NDArray[Any], change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Returns a copy of rows or records with other values.

    Args:
        rows: The rows or records.
        change: Makes the new values, (rows, …), from the present values.
    """
    if rows.dtype.names is None:
        return change(rows)
    made = rows.copy()
    made[VALUES] = change(rows[VALUES])
    return made


def level_name(level: int) -> str:
    """Returns the name of the record field that holds the lengths of a level's lists. Level 0 is the row itself."""
    return f"lengths_{level}"


def splits(rows: npt.NDArray[Any], levels: int) -> list[Positions]:
    """Computes TensorFlow's row splits over all rows, https://www.tensorflow.org/guide/ragged_tensor.

    The splits of a level say where each list begins and ends, in the lists of the next level or in the values.

    Args:
        rows: Records of `records`, or an array (rows, …), whose lists of one level all have one length.
        levels: The number of ragged levels.

    Returns:
        The splits of each level, the outermost first. int64, (lists + 1,) each.
    """
    if rows.dtype.names is None:
        sizes = [np.full(int(np.prod(rows.shape[: level + 1])), rows.shape[level + 1]) for level in range(levels)]
    else:
        inner = [rows[level_name(level)] for level in range(1, levels)]
        sizes = [np.full(len(rows), inner[0].shape[1]), *(one.reshape(-1) for one in inner)]
    return [np.append(0, np.cumsum(one)).astype(np.int64) for one in sizes]


def flat_values(rows: npt.NDArray[Any], levels: int) -> npt.NDArray[Any]:
    """Returns the values of all rows in one array, (values, …), to which the last `splits` refer."""
    if rows.dtype.names is None:
        return rows.reshape(int(np.prod(rows.shape[: levels + 1])), *rows.shape[levels + 1 :])
    values = rows[VALUES]
    flat: npt.NDArray[Any] = values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])
    return flat
