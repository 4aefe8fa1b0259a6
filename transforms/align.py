"""Alignment: from the keys that a model returns to the rows that they belong to. Pure functions."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.records import Mask, Positions

NO_ROW = -1


class Alignment(NamedTuple):
    """Which prediction belongs to which row; row i is the one that was sent with ordinal i.

    Attributes:
        rows: Ordinals of the rows that got exactly one prediction, ascending. int64.
        taken: For each of these rows, the position of its prediction. int64.
        missing: Ordinals of the rows that got none.
        repeated: Ordinals of the rows that got several.
        unknown: How many predictions came with a key that was never sent.
    """

    rows: Positions
    taken: Positions
    missing: Positions
    repeated: Positions
    unknown: int


def align(keys: npt.NDArray[Any], count: int) -> Alignment:
    """Aligns the predictions of a batch by the ordinals that came back beside them.

    Args:
        keys: What came back: (predictions,) of any number type, or bytes objects.
        count: Rows that were sent, with ordinals 0 … count - 1.

    >>> a = align(np.array([2, 0, 7, 1, 1]), 4)
    >>> a.rows.tolist(), a.taken.tolist(), a.missing.tolist(), a.repeated.tolist(), a.unknown
    ([0, 2], [1, 0], [3], [1], 1)
    """
    ordinals = _ordinals(keys, count)
    known = np.flatnonzero(ordinals != NO_ROW)
    times = np.bincount(ordinals[known], minlength=count)
    rows = np.flatnonzero(times == 1)
    position = np.zeros(count, np.int64)
    position[ordinals[known]] = known
    return Alignment(
        rows,
        position[rows],
        np.flatnonzero(times == 0),
        np.flatnonzero(times > 1),
        len(ordinals) - len(known),
    )


def _ordinals(keys: npt.NDArray[Any], count: int) -> Positions:
    """Keys as numbers of rows, NO_ROW where they are none."""
    if keys.dtype == object:
        sent = pa.array([b"%d" % ordinal for ordinal in range(count)], pa.binary())
        found = pc.index_in(pa.array(keys, pa.binary()), value_set=sent)
        numbers: Positions = pc.fill_null(found, NO_ROW).to_numpy(zero_copy_only=False).astype(np.int64)
        return numbers
    ordinal: Mask = (keys >= 0) & (keys < count)  # never true for NaN
    whole = ordinal & (np.floor(keys) == keys) if keys.dtype.kind == "f" else ordinal
    return np.where(whole, keys, NO_ROW).astype(np.int64)
