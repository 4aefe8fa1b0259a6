"""Finds rows of a chunk that feed the model with equal inputs, so that it scores each of them once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import columns
from transforms.records import BadRow, Feature, Positions

Codes = npt.NDArray[np.int32]


class Distinct(NamedTuple):
    """The different rows of a chunk.

    Attributes:
        first: The number of the first row of each kind, ascending. int64, (kinds,).
        kinds: The kind of each row, an index of `first`. int32, (rows,).
    """

    first: Positions
    kinds: Codes


def find(inputs: pa.RecordBatch, features: Sequence[Feature]) -> Distinct | None:
    """Finds the rows with different inputs. Two rows are equal if all of their values have the same bits.

    Args:
        inputs: The inputs of some rows, see `Features`.
        features: The features that feed the model's inputs.

    Returns:
        The different rows; None if all rows differ, or if rows are nested lists of different lengths or sparse.
    """
    if not inputs.num_rows or any(feature.is_sparse or feature.varied > 1 for feature in features):
        return None
    codes = [_codes(inputs[feature.name]) for feature in features]
    kinds = codes[0] if len(codes) == 1 else _encode(np.ascontiguousarray(np.stack(codes, axis=1)))
    count = int(kinds.max()) + 1
    if count == len(kinds):
        return None
    first = np.zeros(count, np.int64)
    first[kinds[::-1]] = np.arange(len(kinds))[::-1]
    return Distinct(first, kinds)


def fan_out(scored: pa.RecordBatch, bad: Sequence[BadRow], found: Distinct) -> tuple[pa.RecordBatch, list[BadRow]]:
    """Gives the prediction of each kind of row to all rows of that kind.

    Args:
        scored: One record for each kind that has a prediction, in order.
        bad: The kinds without one, in order. Their `row` is an index of `found.first`.
        found: The kinds of the rows.

    Returns:
        One record for each row that has a prediction, in order; and the other rows.
    """
    why = {one.row: one for one in bad}
    is_bad = np.zeros(len(found.first), np.bool_)
    is_bad[list(why)] = True
    rows = is_bad[found.kinds]
    places = np.cumsum(~is_bad) - 1
    refused = [why[int(found.kinds[row])]._replace(row=row) for row in np.flatnonzero(rows).tolist()]
    return scored.take(pa.array(places[found.kinds[~rows]])), refused


def _codes(column: pa.Array) -> Codes:
    """Numbers the different values of a column from 0, in the order of their first rows."""
    flat = columns.flat_values(column)
    if columns.is_bytes(flat.type) or columns.is_text(flat.type):
        flat = flat.dictionary_encode().indices
    values = np.ascontiguousarray(flat.to_numpy(zero_copy_only=False))
    if pa.types.is_fixed_size_list(column.type) or not pa.types.is_nested(column.type):
        return _encode(values.reshape(len(column), -1))
    bounds = columns.value_bounds(column) * values.itemsize
    return _dictionary(columns.gather(values.tobytes(), bounds[:-1], bounds[1:]))


def _encode(values: npt.NDArray[np.generic]) -> Codes:
    """Numbers the different rows of a matrix, which is contiguous, by their bytes."""
    width = values.shape[1] * values.itemsize
    if not width:
        return np.zeros(len(values), np.int32)
    return _dictionary(
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])
    )


def _dictionary(values: pa.Array) -> Codes:
    codes: Codes = values.dictionary_encode().indices.to_numpy()
    return codes
