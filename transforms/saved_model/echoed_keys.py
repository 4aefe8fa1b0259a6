"""Reads keys out of a model's answer: where a key comes back, and which row's prediction it names. Pure functions."""

from typing import Any

import numpy.typing as npt

from transforms.saved_model.model import Arrays, Echo


def column(array: npt.NDArray[Any], echo: Echo) -> npt.NDArray[Any] | None:
    """The values that may be keys; None if the array has another shape."""
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return None if echo.last_column else array.reshape(-1)
    return array[:, -1] if array.ndim == 2 and array.shape[1] and echo.last_column else None


def strange_keys(answer: Arrays, echo: Echo, keys: npt.NDArray[Any]) -> list[Any]:
    """What an echo gives back that was never sent.

    Args:
        answer: The model's answer.
        echo: Where the key comes back.
        keys: What was sent, (batch,).
    """
    values = column(answer[echo.output], echo)
    known = set() if values is None else set(_sent(keys, values))
    return [] if values is None else [value for value in _plain(values) if value not in known]


def _plain(values: npt.NDArray[Any]) -> list[Any]:
    """The values of an array of any shape, one after the other."""
    found: list[Any] = values.reshape(-1).tolist()
    return found


def _sent(keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> list[Any]:
    """Keys as they would stand among values: whole numbers in strings are spelled out."""
    numbers = keys.tolist()
    return [key if isinstance(key, bytes) else b"%d" % key for key in numbers] if values.dtype == object else numbers


def rows_at(answer: Arrays, echo: Echo, keys: npt.NDArray[Any]) -> dict[int, int]:
    """Row that was sent -> where its prediction is, for each key that came back once."""
    values = column(answer[echo.output], echo)
    if values is None:
        return {}
    given = _plain(values)
    return {row: given.index(key) for row, key in enumerate(_sent(keys, values)) if given.count(key) == 1}
