"""Aligns predictions with rows by the keys that the model returns. All functions are pure."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.records import Mask, Positions

NO_ROW = -1
# Not 0: models fill gaps with 0, which must not look like the key of a row.
FIRST = 1


class Alignment(NamedTuple):
    """Maps each row to its prediction. Row i was sent with the ordinal `FIRST` + i.

    Attributes:
        places: For each row that was sent, the position of its prediction, if it got exactly one. int64, (rows,).
        missing: The rows that got no prediction.
        repeated: The rows that got several predictions.
        unknown: How many predictions have a key that was never sent.
    """

    places: Positions
    missing: Positions
    repeated: Positions
    unknown: int


def align(keys: Positions, count: int) -> Alignment:
    """Aligns the predictions of a batch by the keys that the model returned with them.

    Args:
        keys: The row of each prediction, int64, (predictions,), see `rows_of`.
        count: How many rows were sent.

    >>> a = align(rows_of(np.array([3, 1, 0, 2, 2]), 4), 4)
    >>> a.places[[0, 2]].tolist(), a.missing.tolist(), a.repeated.tolist(), a.unknown
    ([1, 0], [3], [1], 1)
    """
    known = np.flatnonzero(keys != NO_ROW)
    times = np.bincount(keys[known], minlength=count)
    places = np.zeros(count, np.int64)
    places[keys[known]] = known
    return Alignment(places, np.flatnonzero(times == 0), np.flatnonzero(times > 1), len(keys) - len(known))


def ordinals(count: int) -> Positions:
    """Makes the keys of a batch: whole numbers from `FIRST`.

    Args:
        count: How many rows are sent.

    Returns:
        int64, (count,).
    """
    return np.arange(FIRST, FIRST + count)


def rows_of(keys: npt.NDArray[Any], count: int) -> Positions:
    """Converts returned keys to rows: the number of the row that was sent with the key, or `NO_ROW` for other keys.

    Args:
        keys: The keys that came back, (predictions,), of any number type or bytes objects.
        count: How many rows were sent.

    Returns:
        int64, (predictions,).
    """
    if keys.dtype == object:
        sent = pa.array([b"%d" % ordinal for ordinal in range(FIRST, FIRST + count)], pa.binary())
        found = pc.index_in(pa.array(keys, pa.binary()), value_set=sent)
        numbers: Positions = pc.fill_null(found, NO_ROW).to_numpy(zero_copy_only=False).astype(np.int64)
        return numbers
    if keys.dtype.kind not in "iu":
        keys = keys.astype(np.float64)  # NumPy's own rules do not apply to bfloat16
    ordinal: Mask = (keys >= FIRST) & (keys <= FIRST - 1 + count)  # never true for NaN
    whole = ordinal & (np.floor(keys) == keys) if keys.dtype.kind == "f" else ordinal
    return np.where(whole, keys, FIRST + NO_ROW).astype(np.int64) - FIRST
