"""Calls a signature whose batch has a fixed number of rows, as exports for object detection have it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import ModelError, UsageError
from transforms.saved_model.model import KEY, filled_up

Sizes = Sequence[int | None] | None


def rows_of(inputs: Mapping[str, Sizes]) -> int | None:
    """The rows that a signature fixes for each call; None if it takes any number.

    A first size of 1 makes calls of one row, also where other inputs leave theirs open. Inputs with another first
    size than the batch has, or without one, are not per row.

    Args:
        inputs: Input -> all sizes, None for an open one; None for an unknown rank.

    Raises:
        UsageError: Inputs have different first sizes, or values without a batch dimension.

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
    """Whether rows feed an input of such sizes, in calls of so many rows."""
    return sizes is None or (len(sizes) > 0 and sizes[0] in (None, rows))


class FixedBatch:
    """Calls a signature for any number of rows, in calls of the number that it fixes.

    The last call is filled up with copies of its last row, whose predictions are dropped; calls of one row need none.
    """

    def __init__(
        self, call: Callable[..., Sequence[npt.NDArray[Any]]], rows: int, outputs: Sequence[str], whole: Collection[str]
    ) -> None:
        """Takes what is called.

        Args:
            call: Calls the signature, see `transforms.saved_model.model.Model.call`.
            rows: Rows of each call.
            outputs: Names of all outputs.
            whole: Those without a batch dimension: with one row a call, each is the prediction of that row.
        """
        self._call, self._rows, self._outputs, self._whole = call, rows, tuple(outputs), frozenset(whole)

    def __call__(self, *arrays: npt.NDArray[Any], outputs: Sequence[str] | None = None) -> Sequence[npt.NDArray[Any]]:
        """The outputs for any number of rows, one after the other.

        Raises:
            ModelError: The model raises, an output is not one value a row, or has another shape for another row.
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
            # A model of one row may drop it, which is noticed later: by its key, or by the number of predictions.
            if self._rows > 1 and (answer.ndim == 0 or len(answer) != self._rows):
                raise ModelError(f"output {name} has {len(answer) if answer.ndim else 1} values for {self._rows} rows")
            made.append(answer[:count] if self._rows > 1 else answer)
        return made
