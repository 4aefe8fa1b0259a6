"""Scores the rows of a chunk in batches, and returns aligned predictions and bad rows.

All functions are pure except for the model call.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.dtypes import STRING
from transforms.errors import ModelError, RunError
from transforms.reasons import Reason
from transforms.records import BadRow, Mask, Positions
from transforms.saved_model.model import Arrays, Contract, Model, filled_up, key_array
from transforms.saved_model.output_shapes import check_same_sizes, check_shapes
from transforms.scoring.align import Alignment, align, ordinals, rows_of
from transforms.scoring.bisect import MULTIPLE, Bisection, Refused, Scored
from transforms.scoring.groups import Group
from transforms.threads import in_threads

# Calls are filled up with copies of a row only where copies are cheap.
FILL_BYTES = 1 << 22  # most bytes of a filled call
COPIES_BYTES = 1 << 26  # most bytes of a call with copies of a row that fails alone
FILL_WEIGHTS = 1 << 24  # most bytes of the model's weights


class BatchError(ModelError):
    """The model returned the wrong number of predictions: not one for each row, or for each returned key."""

    def __init__(self, output: str, given: int, rows: int) -> None:
        """Takes the name of the output, the number of its predictions, and the number of rows of the call."""
        super().__init__(f"output {output} has {given} predictions for a batch of {rows}")
        self.reason = Reason.KEY_REPEATED if given > rows else Reason.KEY_MISSING


class EchoError(ModelError):
    """Two outputs return different keys."""

    def __init__(self, one: str, other: str) -> None:
        """Takes the names of the outputs."""
        super().__init__(f"outputs {one} and {other} give back different keys: export the model with one of them")


def score(
    called: Model,
    contract: Contract,
    inputs: Arrays,
    rows: int,
    batch_size: int,
    *,
    keep_non_finite: bool,
    refused: Refused = lambda _: None,
) -> Scored:
    """Scores rows batch by batch, and bisects a failed batch down to the rows that fail alone.

    Args:
        called: The model.
        contract: The inputs and outputs of its signature.
        inputs: Data input -> (rows, …).
        rows: How many rows there are.
        batch_size: Most rows of one model call.
        keep_non_finite: Whether NaN and infinity count as valid predictions.
        refused: Called with each row that fails alone. It may raise an error, which ends scoring.

    Returns:
        The predictions of the scored rows, and the bad rows.

    Raises:
        RunError: An output changes its shape from batch to batch.
    """
    batch_size = min(batch_size, contract.most)

    def score_rows(first: int) -> list[Scored]:
        return bisection.score(first, min(first + batch_size, rows), batch_size)

    bisection = _bisection(called, contract, inputs, batch_size, refused, keep_non_finite=keep_non_finite)
    done = [scored for batch in in_threads(score_rows, range(0, rows, batch_size)) for scored in batch]
    return _concatenate([nothing(contract), *done])


class Piece(NamedTuple):
    """The results of some rows of a group.

    Attributes:
        numbers: The numbers of the scored rows among all rows.
        outputs: Prediction -> (scored rows, …).
        bad: The rows without a prediction, by their numbers among all rows.
    """

    numbers: Positions
    outputs: dict[str, npt.NDArray[Any]]
    bad: list[BadRow]


def score_groups(
    called: Model,
    contract: Contract,
    groups: Iterable[Group],
    batch_size: int,
    *,
    keep_non_finite: bool,
    refused: Refused = lambda _: None,
) -> Iterator[Piece]:
    """Scores rows that are grouped by the shapes of their inputs. Each batch has rows of one group; see `score`.

    Args:
        called: The model.
        contract: The inputs and outputs of its signature.
        groups: The groups of rows.
        batch_size: Most rows of one model call.
        keep_non_finite: Whether NaN and infinity count as valid predictions.
        refused: Called with each row that fails alone. It may raise an error, which ends scoring.

    Yields:
        The results of each batch.

    Raises:
        WidthError: An output has another size than for other rows with inputs of the same shapes.
        RunError: An output changes its shape within a batch.
    """
    most, known = min(batch_size, contract.most), called.limits.sizes

    def batches() -> Iterator[tuple[Group, int, int]]:
        return ((group, first, end) for group in groups for first, end in group.batches(most))

    def score_batch(batch: tuple[Group, int, int]) -> Piece:
        group, first, end = batch

        def numbered(bad: BadRow) -> BadRow:
            return bad._replace(row=int(group.numbers[bad.row]))

        def refuse(bad: BadRow) -> None:
            refused(numbered(bad))

        bisection = _bisection(called, contract, group.arrays, most, refuse, keep_non_finite=keep_non_finite)
        scored = _concatenate([nothing(contract), *bisection.score(first, end, most)])
        good = np.delete(group.numbers[first:end], [bad.row - first for bad in scored.bad])
        if len(good):
            check_same_sizes(known.setdefault(group.shapes, {}), scored.outputs)
        return Piece(good, scored.outputs, [numbered(bad) for bad in scored.bad])

    return in_threads(score_batch, batches())


def _bisection(
    called: Model, contract: Contract, inputs: Arrays, most: int, refused: Refused, *, keep_non_finite: bool
) -> Bisection:
    """Makes the bisection that scores batches of at most `most` rows, see `score`."""

    def score_batch(first: int, end: int, sent: int, alone: bool) -> Scored:
        scored = _score_batch(called, contract, inputs, first, end, sent, alone=alone)
        return scored if keep_non_finite else _finite(scored, first, end)

    multiple = filled_up_to(contract, inputs, most, called.weights)
    return Bisection(score_batch, called.limits, refused, multiple, functools.partial(most_copies, inputs))


def most_copies(inputs: Arrays, row: int) -> int:
    """Returns how many copies of a row fit into `COPIES_BYTES`, but at least two.

    Args:
        inputs: Data input -> (rows, …).
        row: The row's number.
    """
    found = [array[row : row + 1] for array in inputs.values()]
    size = sum(sum(map(len, array.flat)) if array.dtype == object else array.nbytes for array in found)
    return max(2, COPIES_BYTES // max(size, 1))


def filled_up_to(contract: Contract, inputs: Arrays, most: int, weights: int) -> int:
    """Returns the number to a multiple of which calls are filled up with copies: 1 where copies of a row cost much.

    Args:
        contract: The inputs and outputs of the model's signature.
        inputs: Data input -> (rows, …).
        most: Most rows of one call. If the contract has constant rows, every call has this number of rows.
        weights: Bytes of the model's variables that take part in each row.
    """
    if contract.constant_rows:
        return most
    size = 0
    for array in inputs.values():
        if array.dtype.hasobject:
            return 1
        size += array.nbytes
    rows = len(next(iter(inputs.values()), ()))
    return MULTIPLE if size // max(rows, 1) * MULTIPLE <= FILL_BYTES and weights <= FILL_WEIGHTS else 1


def nothing(contract: Contract) -> Scored:
    """Makes the result for no rows, with the right dtypes and shapes (an open size becomes 1).

    It is the result of a chunk without good rows.
    """
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
        ModelError: The model raises an error.
        BatchError: An output does not have one prediction for each row, or for each returned key.
        EchoError: Two outputs return different keys.
    """
    count = end - first
    arrays = {t.name: filled_up(inputs[t.name][first:end], sent) for t in contract.inputs}
    if contract.key is not None:
        arrays[contract.key.name] = key_array(ordinals(sent), contract.key)
    answer = called(arrays, alone=alone)
    check_shapes(contract, answer)
    if contract.echoes:
        return _align(contract, answer, sent, first, count)
    predictions = {tensor.name: answer[tensor.name] for tensor in contract.outputs}
    for name, array in predictions.items():
        if array.ndim == 0 or len(array) != sent:
            raise BatchError(name, array.shape[0] if array.ndim else 0, sent)
    return Scored({name: array[:count] for name, array in predictions.items()}, [])


def _take_keys(contract: Contract, answer: Arrays, sent: int) -> tuple[list[Positions], dict[str, int], Arrays]:
    """Separates the keys and the predictions in a model's answer.

    A prediction whose last column is the key is aligned by that column. All others are aligned by the keys that are
    separate outputs, or by the last columns if there is no such output.

    Returns:
        The keys as rows, a list of arrays; prediction -> index of its keys in that list; prediction -> its values.

    Raises:
        EchoError: A prediction has several candidate keys, and they differ.
    """
    keys, of, predictions = [], {}, {tensor.name: answer[tensor.name] for tensor in contract.outputs}
    for name, last_column in contract.echoes:
        values = predictions.pop(name)
        keys.append(rows_of(values[:, -1] if last_column else values.reshape(-1), sent))
        if last_column:
            predictions[name], of[name] = values[:, :-1], len(keys) - 1
    beside = [at for at, echo in enumerate(contract.echoes) if not echo.last_column]
    if len(of) < len(predictions):
        beside = beside or list(of.values())
        of |= dict.fromkeys(predictions.keys() - of.keys(), beside[0])
    for at in beside[1:]:
        if not np.array_equal(keys[beside[0]], keys[at]):
            raise EchoError(contract.echoes[beside[0]].output, contract.echoes[at].output)
    return keys, of, predictions


def _align(contract: Contract, answer: Arrays, sent: int, first: int, count: int) -> Scored:
    keys, of, predictions = _take_keys(contract, answer, sent)
    for name, array in predictions.items():
        if array.ndim == 0 or len(array) != len(keys[of[name]]):
            raise BatchError(f"{name} (beside {len(keys[of[name]])} keys)", array.shape[0] if array.ndim else 0, sent)
    aligned = {at: align(keys[at], sent) for at in set(of.values())}
    whole = np.ones(count, np.bool_)
    for one in aligned.values():
        whole[one.missing[one.missing < count]] = whole[one.repeated[one.repeated < count]] = False
    rows = np.flatnonzero(whole)
    bad = {lost.row: lost for one in aligned.values() for lost in _lost(one, first, count)}
    outputs = {name: array[aligned[of[name]].places[rows]] for name, array in predictions.items()}
    return Scored(outputs, sorted(bad.values()))


def _lost(aligned: Alignment, first: int, count: int) -> Iterator[BadRow]:
    beside = f"; {aligned.unknown} predictions of the batch have a key that was never sent" * bool(aligned.unknown)
    for row in aligned.missing[aligned.missing < count]:
        yield BadRow(first + int(row), "predict", Reason.KEY_MISSING.value, f"its key did not come back{beside}")
    for row in aligned.repeated[aligned.repeated < count]:
        yield BadRow(first + int(row), "predict", Reason.KEY_REPEATED.value, f"its key came back repeatedly{beside}")


def _finite(scored: Scored, first: int, end: int) -> Scored:
    """Moves rows with NaN or infinity in a prediction to the bad rows."""
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
