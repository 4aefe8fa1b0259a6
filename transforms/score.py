"""Scoring a chunk: batches in, aligned predictions and bad rows out. Pure but for the model that is called."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.align import Alignment, align
from transforms.dtypes import STRING
from transforms.errors import RunError
from transforms.model import Arrays, Contract, Model, ModelError, key_array
from transforms.reasons import Reason
from transforms.records import BadRow, Mask, Positions
from transforms.threads import in_threads

# Matrix kernels work on panels of 24 or 48 rows and treat what remains differently, in the last digit. In
# whole multiples of two panels a row's prediction did not depend on its neighbours (docs/performance.md).
MULTIPLE = 96


class Scored(NamedTuple):
    """Rows after the model.

    Attributes:
        outputs: Prediction -> (scored rows, …), in input order.
        bad: The rows without a prediction, in input order.
    """

    outputs: dict[str, npt.NDArray[Any]]
    bad: list[BadRow]


class BatchError(ValueError):
    """A model without a key gave another number of predictions than it got rows."""

    def __init__(self, output: str, given: int, rows: int) -> None:
        """Keeps whether too many were given."""
        super().__init__(f"output {output} has {given} predictions for a batch of {rows}")
        self.too_many = given > rows


def score(
    called: Model, contract: Contract, inputs: Arrays, rows: int, batch_size: int, *, keep_non_finite: bool
) -> Scored:
    """Scores rows batch by batch, halving a batch that fails down to the guilty row.

    Args:
        called: The model.
        contract: What its signature takes and gives.
        inputs: Data input -> (rows, …).
        rows: How many there are.
        batch_size: Rows that a model call sees at most.
        keep_non_finite: Whether NaN and infinity are predictions like others.
    """
    starts = range(0, rows, batch_size)

    def score_rows(first: int) -> list[Scored]:
        end = min(first + batch_size, rows)
        return list(_score_rows(called, contract, inputs, slice(first, end), batch_size, keep_non_finite))

    done = [scored for batch in in_threads(score_rows, starts) for scored in batch]
    return _concatenate([_nothing(contract), *done])


def _score_rows(
    called: Model, contract: Contract, inputs: Arrays, rows: slice, batch_size: int, keep_non_finite: bool
) -> Iterator[Scored]:
    todo = [(rows.start, rows.stop)]
    while todo:
        first, end = todo.pop()
        try:
            scored = _score_batch(called, contract, inputs, first, end, batch_size)
        except (ModelError, BatchError) as error:
            if end - first > 1:
                half = (first + end) // 2
                todo += [(half, end), (first, half)]
            else:
                yield Scored({}, [BadRow(first, "predict", *_why(error))])
        else:
            yield scored if keep_non_finite else _finite(scored, first, end)


def _nothing(contract: Contract) -> Scored:
    """No rows, in the right dtypes and shapes: what a chunk without a good row gives."""
    empty = {}
    for output in contract.predictions:
        dtype = object if output.dtype == STRING else output.dtype
        empty[output.name] = np.empty((0, *(size or 0 for size in output.shape or ())), dtype)
    return Scored(empty, [])


def _concatenate(parts: Sequence[Scored]) -> Scored:
    outputs = {}
    for name, empty in parts[0].outputs.items():
        found = [part.outputs[name] for part in parts[1:] if name in part.outputs]
        shapes = {array.shape[1:] for array in found}
        if len(shapes) > 1:
            raise RunError(
                f"output {name} changes its shape from batch to batch: {sorted(shapes)}; "
                "export the model with a fixed shape"
            )
        outputs[name] = np.concatenate(found) if found else empty
    return Scored(outputs, [bad for part in parts for bad in part.bad])


def _score_batch(called: Model, contract: Contract, inputs: Arrays, first: int, end: int, batch_size: int) -> Scored:
    """Scores rows [first, end) in one call.

    Raises:
        ModelError: The model raises.
        BatchError: Without a key, the number of predictions is not that of the rows.
    """
    count = end - first
    sent = min(batch_size, -(-count // MULTIPLE) * MULTIPLE)
    arrays = {t.name: _padded(inputs[t.name][first:end], sent) for t in contract.inputs}
    if contract.key is not None:
        arrays[contract.key.name] = key_array(np.arange(sent), contract.key)
    answer = called(arrays)
    keys, predictions = _take_key(contract, answer)
    if keys is None:
        for name, array in predictions.items():
            if array.ndim == 0 or len(array) != sent:
                raise BatchError(name, array.shape[0] if array.ndim else 0, sent)
        return Scored({name: array[:count] for name, array in predictions.items()}, [])
    return _align(keys, predictions, sent, first, count)


def _padded(array: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Rows filled up with copies of the last one: its values are valid for the model, zeros may not be."""
    if len(array) == count:
        return array
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])


def _take_key(contract: Contract, answer: Arrays) -> tuple[npt.NDArray[Any] | None, Arrays]:
    """The keys in a model's answer, and its predictions."""
    if contract.echo is None:
        return None, answer
    name = contract.echo.output
    others = {output: array for output, array in answer.items() if output != name}
    if contract.echo.last_column:
        return answer[name][:, -1], {**others, name: answer[name][:, :-1]}
    return answer[name].reshape(-1), others


def _align(keys: npt.NDArray[Any], predictions: Arrays, sent: int, first: int, count: int) -> Scored:
    for name, array in predictions.items():
        if array.ndim == 0 or len(array) != len(keys):
            raise BatchError(f"{name} (beside {len(keys)} keys)", array.shape[0] if array.ndim else 0, sent)
    aligned = align(keys, sent)
    own = aligned.rows < count
    taken = aligned.taken[own]
    bad = list(_lost(aligned, first, count))
    return Scored({name: array[taken] for name, array in predictions.items()}, bad)


def _lost(aligned: Alignment, first: int, count: int) -> list[BadRow]:
    beside = f"; {aligned.unknown} predictions of the batch have a key that was never sent" * bool(aligned.unknown)
    missing = [
        BadRow(first + int(row), "predict", Reason.KEY_MISSING.value, f"its key did not come back{beside}")
        for row in aligned.missing[aligned.missing < count]
    ]
    repeated = [
        BadRow(first + int(row), "predict", Reason.KEY_REPEATED.value, f"its key came back repeatedly{beside}")
        for row in aligned.repeated[aligned.repeated < count]
    ]
    return sorted(missing + repeated)


def _finite(scored: Scored, first: int, end: int) -> Scored:
    """Moves rows with NaN or infinity in a prediction to the bad ones."""
    rows: Positions = np.delete(np.arange(first, end), [bad.row - first for bad in scored.bad])
    finite = np.ones(len(rows), np.bool_)
    bad = list(scored.bad)
    for name, array in scored.outputs.items():
        if array.dtype == object or (not np.issubdtype(array.dtype, np.inexact) and array.dtype.name != "bfloat16"):
            continue
        found: Mask = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        for row in np.flatnonzero(finite & ~found):
            value = array[row].reshape(-1)[~np.isfinite(array[row].reshape(-1))][0]
            bad.append(BadRow(int(rows[row]), "predict", Reason.NON_FINITE.value, f"prediction {name}: {value}"))
        finite &= found
    return scored if finite.all() else Scored({n: a[finite] for n, a in scored.outputs.items()}, sorted(bad))


def _why(error: Exception) -> tuple[str, str]:
    if isinstance(error, BatchError):
        reason = Reason.KEY_REPEATED if error.too_many else Reason.KEY_MISSING
        return reason.value, str(error)
    return Reason.MODEL_ERROR.value, str(error)
