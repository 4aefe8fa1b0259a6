"""Scoring a chunk: batches in, aligned predictions and bad rows out. Pure but for the model that is called."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.align import Alignment, align
from transforms.dtypes import STRING
from transforms.errors import ModelError, RunError
from transforms.halves import Scored, score_halves
from transforms.model import Arrays, Contract, Model, key_array
from transforms.reasons import Reason
from transforms.records import BadRow, Mask, Positions
from transforms.shapes import check_shapes
from transforms.threads import in_threads


class BatchError(ModelError):
    """A model without a key gave another number of predictions than it got rows."""

    def __init__(self, output: str, given: int, rows: int) -> None:
        """Takes what to say."""
        super().__init__(f"output {output} has {given} predictions for a batch of {rows}")
        self.reason = Reason.KEY_REPEATED if given > rows else Reason.KEY_MISSING


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

    def score_batch(first: int, end: int, sent: int, alone: bool) -> Scored:
        scored = _score_batch(called, contract, inputs, first, end, sent, alone=alone)
        return scored if keep_non_finite else _finite(scored, first, end)

    def score_rows(first: int) -> list[Scored]:
        return score_halves(score_batch, called.room, first, min(first + batch_size, rows), batch_size)

    done = [scored for batch in in_threads(score_rows, range(0, rows, batch_size)) for scored in batch]
    return _concatenate([_nothing(contract), *done])


def _nothing(contract: Contract) -> Scored:
    """No rows, in the right dtypes and shapes (an open size is 1 then): what a chunk without a good row gives."""
    empty = {}
    for output in contract.predictions:
        dtype = object if output.dtype == STRING else output.dtype
        empty[output.name] = np.empty((0, *(1 if size is None else size for size in output.shape or ())), dtype)
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


def _score_batch(
    called: Model, contract: Contract, inputs: Arrays, first: int, end: int, sent: int, *, alone: bool
) -> Scored:
    """Scores rows [first, end) in one call of `sent` rows.

    Raises:
        ModelError: The model raises.
        BatchError: Without a key, the number of predictions is not that of the rows.
    """
    count = end - first
    arrays = {t.name: _padded(inputs[t.name][first:end], sent) for t in contract.inputs}
    if contract.key is not None:
        arrays[contract.key.name] = key_array(np.arange(sent), contract.key)
    answer = called(arrays, alone=alone)
    check_shapes(contract, answer)
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
