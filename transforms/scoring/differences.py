"""Compares the predictions that the same rows get in several calls of a model. All functions are pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from transforms.records import Mask, Positions

ULPS = 512  # tolerance relative to the row's largest value: more than the last digits
OUTPUT_ULPS = 64  # relative to the output's largest value: a value near zero may be a difference of large numbers
SHOWN = 40  # most characters of a value in a message


class Scores(NamedTuple):
    """The predictions of one call.

    Attributes:
        rows: The numbers of the call's rows, int64, (batch,). A row may occur several times.
        scored: Which of these rows got a prediction, bool, (batch,).
        outputs: Output -> values, (batch, …). The values of a row without a prediction have no meaning.
    """

    rows: Positions
    scored: Mask
    outputs: Mapping[str, npt.NDArray[Any]]


class Difference(NamedTuple):
    """A row that got two different predictions.

    Attributes:
        scores: The call in which the row got the second prediction.
        expected: The value in the other call, as text.
        found: The value in this call, as text.
    """

    scores: Scores
    expected: str
    found: str


def by_order(output: str, calls: Iterable[Sequence[Scores]]) -> Difference | None:
    """Finds the first row whose prediction changes when the same rows are sent in another order.

    Args:
        output: The output to compare.
        calls: Groups of calls. The calls of a group have the same rows in several orders. A row that occurs several
            times in a call is compared at each of its places.
    """
    return _first(compare(output, same[0], scores) for same in calls for scores in same)


def by_neighbours(output: str, alone: Sequence[Scores], calls: Iterable[Scores]) -> Difference | None:
    """Finds the first row whose prediction among other rows differs from its prediction alone.

    Args:
        output: The output to compare.
        alone: Calls with copies of one row each.
        calls: Calls with these rows together.
    """
    reference = Scores(
        np.array([scores.rows[0] for scores in alone]),
        np.array([scores.scored[0] for scores in alone]),
        {output: np.stack([scores.outputs[output][0] for scores in alone])},
    )
    return _first(compare(output, reference, scores) for scores in calls)


def exchanged(output: str, calls: Iterable[Sequence[Scores]]) -> Difference | None:
    """Finds the first row whose prediction changes with the order of the rows, while the set of predictions stays.

    In such calls, rows get the predictions of other rows. A model that computes with other rows also changes
    predictions, but it then gives new values.

    Args:
        output: The output to compare.
        calls: Groups of calls. The calls of a group have the same rows in several orders.
    """
    for same in calls:
        for scores in same[1:]:
            one, other = (_ascending(each.outputs[output][each.scored]) for each in (same[0], scores))
            difference = compare(output, same[0], scores)
            if difference and one.shape == other.shape and not differs(one, other, _largest(one)).any():
                return difference
    return None


def _ascending(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sorts the rows of an array by their values, from the first column on."""
    columns = values.reshape(len(values), -1).T[::-1]
    order = sorted(range(len(values)), key=lambda row: tuple(columns[::-1, row]))
    return values[np.lexsort(columns) if values.dtype.kind in "biuf" else np.array(order, np.int64)]


def _first(found: Iterable[Difference | None]) -> Difference | None:
    return next((difference for difference in found if difference is not None), None)


def compare(output: str, one: Scores, other: Scores) -> Difference | None:
    """Finds the first position in `other` whose prediction differs from the row's first prediction in `one`.

    Args:
        output: The output to compare.
        one: A call.
        other: A call whose rows all occur in `one`.
    """
    known, first = np.unique(one.rows, return_index=True)
    at = first[np.searchsorted(known, other.rows)]
    expected, found = one.outputs[output][at], other.outputs[output]
    missing = one.scored[at] != other.scored
    unlike = missing | (one.scored[at] & other.scored & differs(expected, found, _largest(one.outputs[output])))
    if not unlike.any():
        return None
    place = int(unlike.argmax())
    texts = _shown(expected[place], found[place])
    if missing[place]:
        texts = (texts[0], "no prediction") if one.scored[at][place] else ("no prediction", texts[1])
    return Difference(other, *texts)


def differs(one: npt.NDArray[Any], other: npt.NDArray[Any], largest: float = 0.0) -> Mask:
    """Marks the rows whose values differ by more than the last digits. NaN equals NaN.

    Relative to the row's largest value, floats may differ by 512 times the resolution (eps) of their dtype. Relative to
    the output's largest value, they may differ by 64 times the resolution. The larger of the two tolerances counts.
    Neither factor exceeds the square root of the resolution. The factors are thus 6e-5 and 8e-6 for float32, and 0.03
    for float16. Double precision has the tolerance of single precision, because the model may have computed in single.
    Values of all other dtypes must be equal.

    Args:
        one: (rows, …)
        other: (rows, …), of the same shape and dtype.
        largest: The largest absolute value of the output.

    Returns:
        bool, (rows,).

    >>> differs(np.float32([1, 1, np.nan]), np.float32([1.00001, 1.1, np.nan])).tolist()
    [False, True, False]
    """
    axes = tuple(range(1, one.ndim))
    if one.dtype.kind not in "f" and one.dtype.name != "bfloat16":
        unlike: Mask = (one != other).any(axis=axes)
        return unlike
    resolution = max(float(ml_dtypes.finfo(one.dtype).eps), float(np.finfo(np.float32).eps))  # type: ignore[no-untyped-call]
    one, other = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        sizes = np.where(np.isfinite(one) & np.isfinite(other), np.maximum(np.abs(one), np.abs(other)), 0.0)
        of_row = min(ULPS * resolution, resolution**0.5) * sizes.max(axis=axes, keepdims=True, initial=0.0)
        of_output = min(OUTPUT_ULPS * resolution, resolution**0.5) * largest
        close = np.abs(one - other) <= np.maximum(of_row, of_output)
        close |= (one == other) | (np.isnan(one) & np.isnan(other))
    found: Mask = ~close.all(axis=axes)
    return found


def _largest(values: npt.NDArray[Any]) -> float:
    """Returns the largest finite absolute value of an output; 0 if it holds no floats."""
    if values.dtype.kind not in "f" and values.dtype.name != "bfloat16":
        return 0.0
    sizes = np.abs(values.astype(np.float64))
    return float(sizes.max(initial=0.0, where=np.isfinite(sizes)))


def _shown(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> tuple[str, str]:
    """Returns, as texts, the first two values in which two rows differ."""
    one, other = np.asarray(one).reshape(-1), np.asarray(other).reshape(-1)
    unlike = np.flatnonzero([bool(differs(one[at : at + 1], other[at : at + 1])[0]) for at in range(len(one))])
    at = int(unlike[0]) if len(unlike) else 0
    return _text(one[at]), _text(other[at])


def _text(value: Any) -> str:
    text = ascii(bytes(value)) if isinstance(value, bytes) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
