"""The batch size, picked by measuring: how many rows a second the model scores, called with more and more of them."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from transforms.errors import ModelError
from transforms.halves import Scored
from transforms.model import Arrays, Contract, Model
from transforms.score import score

SIZES = (96, 384, 1536, 6144, 12_288)  # multiples of `halves.MULTIPLE`
BATCHES = 4  # of each size: enough for all threads, and as many rows as are in one of the next size
MOST_ROWS = BATCHES * SIZES[-1]
BUDGET_SECONDS = 0.4
GAIN = 1.1  # a larger batch has to be worth its memory
SMALL_INPUT = 32 << 20  # bytes of input for which measuring would not pay


class Sweep(NamedTuple):
    """What was measured.

    Attributes:
        batch_size: The size that was picked.
        rates: Batch size -> rows a second; empty where nothing was measured.
    """

    batch_size: int
    rates: Mapping[int, int]


class _FailedError(Exception):
    """The model raised. It is no `ModelError`: for a measurement no batch is halved."""


def sweep(model: Model, contract: Contract, rows: Arrays, usual: Sweep) -> Sweep:
    """Picks a batch size.

    A size counts only if its predictions are, bit for bit, those of the one before: that the choice depends
    on a measurement must not show in the output. A size for which the model raises ends the measurement.

    Args:
        model: The model.
        contract: What its signature takes and gives.
        rows: Data input -> (rows, …), some real rows, at least one; they are repeated as often as needed.
        usual: What is picked where nothing can be measured.
    """

    def call(*arrays: Any) -> Any:
        try:
            return model.call(*arrays)
        except ModelError as error:
            raise _FailedError from error

    asked = Model(model.inputs, model.outputs, call)
    rates: dict[int, int] = {}
    with contextlib.suppress(_FailedError):
        _score(asked, contract, rows, SIZES[0])  # the first call is slower than all others
        for size, rate in _measure(asked, contract, rows):
            rates[size] = rate
    return Sweep(_best(rates), rates) if rates else usual


def _measure(model: Model, contract: Contract, rows: Arrays) -> Iterator[tuple[int, int]]:
    """Sizes and rows a second."""
    before, ends = None, time.monotonic() + BUDGET_SECONDS
    for size in SIZES:
        started = time.monotonic()
        scored = _score(model, contract, rows, size)
        seconds = time.monotonic() - started
        if before is not None and not _begins_with(scored, before):
            break
        yield size, round(BATCHES * size / seconds)
        if time.monotonic() + BATCHES * seconds > ends:
            break
        before = scored


def _best(rates: Mapping[int, int]) -> int:
    """The smallest size that no larger one beats by enough."""
    best = SIZES[0]
    for size, rate in rates.items():
        best = size if rate > GAIN * rates[best] else best
    return best


def _score(model: Model, contract: Contract, rows: Arrays, size: int) -> Scored:
    count = BATCHES * size
    arrays = {name: np.resize(array, (count, *array.shape[1:])) for name, array in rows.items()}
    return score(model, contract, arrays, count, size, keep_non_finite=True)


def _begins_with(scored: Scored, before: Scored) -> bool:
    """Whether predictions begin with the same bits."""
    return all(
        array.dtype == object or array[: len(first)].tobytes() == first.tobytes()
        for array, first in zip(scored.outputs.values(), before.outputs.values(), strict=True)
    )
