"""Detects outputs of a model that have the same prediction for all rows."""

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.records import Mask

FEWEST_ROWS = 100  # equal predictions of fewer rows say nothing


class Constants:
    """Compares the inputs and predictions of rows with those of the first row."""

    def __init__(self) -> None:
        """Starts without rows."""
        self._rows, self._inputs_vary = 0, False
        self._inputs: dict[str, pa.Array] = {}
        self._outputs: dict[str, pa.Array] = {}

    def add(self, inputs: pa.RecordBatch, predictions: pa.RecordBatch) -> None:
        """Compares more rows.

        Args:
            inputs: One column for each input of the model, and one record for each row that went into it.
            predictions: One column for each output, and one record for each row that was scored.
        """
        if not predictions.num_rows:
            return
        if not self._rows:
            self._inputs, self._outputs = _firsts(inputs), _firsts(predictions)
        self._rows += predictions.num_rows
        self._inputs = _equal(self._inputs, inputs)
        self._inputs_vary |= len(self._inputs) < inputs.num_columns
        self._outputs = _equal(self._outputs, predictions)

    def found(self) -> dict[str, pa.Array]:
        """Returns the outputs whose predictions are all equal, each with one of them.

        There are none for few rows, or if all rows have the same inputs.
        """
        return self._outputs if self._rows >= FEWEST_ROWS and self._inputs_vary else {}


def _firsts(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return {name: batch[name].slice(0, 1) for name in batch.schema.names}


def _equal(firsts: dict[str, pa.Array], batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Returns the columns whose records all equal the first record so far."""
    return {name: first for name, first in firsts.items() if same(pa.concat_arrays([first, batch[name]])).all()}


def same(column: pa.Array) -> Mask:
    """Returns for each record of a column whether it equals the first. NaN equals NaN.

    Args:
        column: Numbers, texts, lists of these, or objects of indices and values.

    >>> same(pa.array([[1.0, float("nan")], [1.0, float("nan")], [1.0], [1.0, 2.0]])).tolist()
    [True, True, False, False]
    """
    found: Mask
    if pa.types.is_struct(column.type):
        found = np.all([same(field) for field in column.flatten()], axis=0)
        return found
    bounds, values = columns.value_bounds(column), columns.flat_values(column).to_numpy(zero_copy_only=False)
    sizes = np.diff(bounds)
    found = sizes == sizes[0]
    some = np.flatnonzero(found)
    rows = values[bounds[some][:, None] + np.arange(sizes[0])]
    with np.errstate(invalid="ignore"):
        equal = (rows == rows[0]) | ((rows != rows) & (rows[0] != rows[0]))  # NaN differs from itself
    found[some] = equal.all(axis=1)
    return found
