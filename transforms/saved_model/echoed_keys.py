"""Reads the keys that a model returns in its outputs, and finds the prediction of each row by its key.

All functions are pure.
"""

from typing import Any

import numpy.typing as npt

from transforms.saved_model.model import Arrays, Echo


def column(array: npt.NDArray[Any], echo: Echo) -> npt.NDArray[Any] | None:
    """Returns the values of an output that may be keys, (batch,).

    Args:
        array: The output.
        echo: The echo, which says whether the keys are the whole output or its last column.

    Returns:
        None if the shape of the array does not fit the echo.
    """
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return None if echo.last_column else array.reshape(-1)
    return array[:, -1] if array.ndim == 2 and array.shape[1] and echo.last_column else None


def strange_keys(answer: Arrays, echo: Echo, keys: npt.NDArray[Any]) -> list[Any]:
    """Returns the values of an echo that are not keys of the call.

    Args:
        answer: Output -> array, as the model returned them.
        echo: The output that returns the key.
        keys: The keys of the call, (batch,).
    """
    values = column(answer[echo.output], echo)
    known = set() if values is None else set(_sent(keys, values))
    return [] if values is None else [value for value in _plain(values) if value not in known]


def _plain(values: npt.NDArray[Any]) -> list[Any]:
    """Returns the values of an array of any shape as a flat list."""
    found: list[Any] = values.reshape(-1).tolist()
    return found


def _sent(keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> list[Any]:
    """Returns keys in the type of the echo's values: if these are strings, numbers become decimal digits."""
    numbers = keys.tolist()
    return [key if isinstance(key, bytes) else b"%d" % key for key in numbers] if values.dtype == object else numbers


def rows_at(answer: Arrays, echo: Echo, keys: npt.NDArray[Any]) -> dict[int, int]:
    """Maps each row of a call to the place of its prediction in the output, by key.

    Rows are absent if their key does not come back exactly once.

    Args:
        answer: Output -> array, as the model returned them.
        echo: The output that returns the key.
        keys: The keys of the call, (batch,).
    """
    values = column(answer[echo.output], echo)
    if values is None:
        return {}
    given = _plain(values)
    return {row: given.index(key) for row, key in enumerate(_sent(keys, values)) if given.count(key) == 1}
