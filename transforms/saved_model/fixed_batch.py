"""Calls a signature whose batch has a fixed number of rows, such as an export for object detection."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import ModelError, UsageError
from transforms.saved_model.model import KEY, filled_up

Sizes = Sequence[int | None] | None


def rows_of(inputs: Mapping[str, Sizes]) -> int | None:
    """Returns the rows that a signature fixes for each call; None if it takes any number.

    If an input has the first size 1, each call has one row, even if other inputs leave their first size open. An input
    with another first size than the batch, or without dimensions, is not per row.

    Args:
        inputs: Input -> all its sizes, None for an open size; None for an unknown rank.

    Raises:
        UsageError: Inputs have different first sizes, or only one dimension, which may not be the batch dimension.

    >>> rows_of({"image": [1, None, None, 3], "anchors": [100, 4]}), rows_of({"x": [None, 3], "weights": [3]})
    (1, None)
    """
    firsts = {sizes[0] if sizes else None for name, sizes in inputs.items() if sizes != [] and name != KEY}
    if 1 in firsts or None in firsts or not firsts:
        return 1 if 1 in firsts else None
    fixed = {name: sizes for name, sizes in inputs.items() if sizes and sizes[0] is not None}
    if len(firsts) > 1 or all(len(sizes) == 1 for sizes in fixed.values()):
        name, sizes = next(iter(fixed.items()))
        raise UsageError(
            f"input {name} of shape {list(sizes)} has no free batch dimension: it is not known whether its first size "
            f"counts rows; export the model with one, as {[None, *sizes]} or {[None, *sizes[1:]]}, or give an input "
            f"that is one value for all rows with --constant {name}=VALUE"
        )
    return firsts.pop()


def is_per_row(sizes: Sizes, rows: int | None) -> bool:
    """Returns whether rows feed an input.

    Args:
        sizes: All sizes of the input, None for an open size; None for an unknown rank.
        rows: The rows that the signature fixes for each call; None for any number.
    """
    return sizes is None or (len(sizes) > 0 and sizes[0] in (None, rows))


class FixedBatch:
    """Calls a signature for any number of rows. Each call has the number of rows that the signature fixes.

    The last call is filled up with copies of its last row, and the predictions of the copies are discarded. Calls of
    one row need no copies.
    """

    def __init__(
        self, call: Callable[..., Sequence[npt.NDArray[Any]]], rows: int, outputs: Sequence[str], whole: Collection[str]
    ) -> None:
        """Takes the function to call, and the sizes of its calls.

        Args:
            call: The function that calls the signature, see `transforms.saved_model.model.Model.call`.
            rows: The rows of each call.
            outputs: The names of all outputs.
            whole: The outputs without a batch dimension. If a call has one row, such an output is the prediction of
                that row.
        """
        self._call, self._rows, self._outputs, self._whole = call, rows, tuple(outputs), frozenset(whole)

    def __call__(self, *arrays: npt.NDArray[Any], outputs: Sequence[str] | None = None) -> Sequence[npt.NDArray[Any]]:
        """Calls the signature for all rows.

        Args:
            arrays: For each input, (rows, …).
            outputs: The outputs to compute; None for all.

        Returns:
            For each output, (rows, …).

        Raises:
            ModelError: The model raises. Or an output does not have one value for each row, or has different shapes
                in different calls.
        """
        names, count = self._outputs if outputs is None else outputs, len(arrays[0])
        calls = [self._call_once(arrays, names, outputs, start) for start in range(0, count, self._rows)]
        if len(calls) == 1:
            return calls[0]
        for name, *found in zip(names, *calls, strict=True):
            shapes = list(dict.fromkeys(array.shape[1:] for array in found))
            if len(shapes) > 1:
                raise ModelError(
                    f"output {name} has the shape {list(shapes[0])} for one row, {list(shapes[1])} for another"
                )
        return [np.concatenate(found) for found in zip(*calls, strict=True)]

    def _call_once(
        self, arrays: Sequence[npt.NDArray[Any]], names: Sequence[str], outputs: Sequence[str] | None, start: int
    ) -> list[npt.NDArray[Any]]:
        count = len(arrays[0][start : start + self._rows])
        some = [filled_up(array[start : start + self._rows], self._rows) for array in arrays]
        made = []
        for name, array in zip(names, self._call(*some, outputs=outputs), strict=True):
            answer = array[None] if name in self._whole else array
            # With one row a call, the model may drop the row. Scoring detects this later, by the key or by the number
            # of predictions.
            if self._rows > 1 and (answer.ndim == 0 or len(answer) != self._rows):
                raise ModelError(f"output {name} has {len(answer) if answer.ndim else 1} values for {self._rows} rows")
            made.append(answer[:count] if self._rows > 1 else answer)
        return made
