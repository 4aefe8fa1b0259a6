"""The batch size, picked by measuring: how many rows a second the model scores, called with more or fewer of them."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.plan.probe import ProbeError, probe
from transforms.columns import MAX_BATCH
from transforms.errors import ModelError, RunError, SharedError, StoppedError
from transforms.records import BadRow
from transforms.saved_model.model import Arrays, Contract, Model
from transforms.scoring.bisect import MULTIPLE, Scored
from transforms.scoring.score import most_copies, score
from transforms.threads import THREADS

BATCHES = max(2, THREADS)  # of each size
MOST_ROWS = BATCHES * MAX_BATCH
STEP = 4  # between sizes
FEW_ROWS = 2 * MULTIPLE  # of a batch that tells whether to go on
BUDGET_SECONDS = 0.5
ROWS_ALONE = 4  # that are tried alone, and in copies
GAIN = 1.1  # less is noise
SMALL_INPUT = 32 << 20  # bytes of input for which measuring would not pay


class Sweep(NamedTuple):
    """What was measured.

    Attributes:
        batch_size: The size that was picked.
        rates: Batch size -> rows a second; empty where nothing was measured, and only that of few rows where the model
            is slow.
    """

    batch_size: int
    rates: Mapping[int, int]


def sweep(model: Model, contract: Contract, rows: Arrays, usual: int, most: int) -> Sweep:
    """Picks a batch size: the usual one, or a smaller or larger one that is clearly faster.

    Another size counts only if its predictions are, bit for bit, those of the usual one: that the choice depends
    on a measurement must not show in the output. A model that raises, or is too slow, is not measured further.

    Args:
        model: The model.
        contract: What its signature takes and gives.
        rows: Data input -> (rows, …), some real rows, at least one; they are repeated as often as needed.
        usual: The size that is likely best.
        most: No size is larger.
    """
    rates: dict[int, int] = {}
    with contextlib.suppress(ProbeError):
        for size, rate in _measure(probe(model, ModelError), contract, rows, usual, most):
            rates[size] = rate
    best = max(rates, key=rates.__getitem__, default=usual)
    return Sweep(best if best != usual and rates[best] > GAIN * rates.get(usual, math.inf) else usual, rates)


def fit(model: Model, contract: Contract, rows: Arrays, swept: Sweep) -> Sweep:
    """The batch size that was picked, or a smaller one where the model raises for copies of a row that it scores alone.

    So a model that takes few rows a call is called with as many as it takes. A slow model is not called.

    Args:
        model: The model.
        contract: What its signature takes and gives.
        rows: Data input -> (rows, …), some real rows.
        swept: What was picked.
    """
    tried = probe(model, SharedError)
    count = len(next(iter(rows.values())))
    size = min(swept.batch_size, MULTIPLE, *(most_copies(rows, row) for row in range(count)))
    with contextlib.suppress(ProbeError):
        for row in range(count):
            with contextlib.suppress(StoppedError, RunError):
                started = time.monotonic()
                _score_copies(tried, contract, rows, row, 1)
                if time.monotonic() - started < BUDGET_SECONDS / ROWS_ALONE:
                    _score_copies(tried, contract, rows, row, size)
                if not tried.room.copies_failed or tried.room.rows < size:
                    break
    return swept if tried.room.rows >= size else Sweep(tried.room.rows, {})


def _score_copies(model: Model, contract: Contract, rows: Arrays, row: int, count: int) -> None:
    def refused(_: BadRow) -> None:
        raise StoppedError

    copies = {name: np.repeat(array[row : row + 1], count, axis=0) for name, array in rows.items()}
    score(model, contract, copies, count, count, keep_non_finite=True, refused=refused)


def _measure(model: Model, contract: Contract, rows: Arrays, usual: int, most: int) -> Iterator[tuple[int, int]]:
    """Sizes and rows a second, the usual one first."""
    ends = time.monotonic() + BUDGET_SECONDS
    few = min(usual, FEW_ROWS)
    _, rate = _timed(model, contract, rows, few)  # the first call is slower than all others
    if time.monotonic() <= ends:
        _, rate = _timed(model, contract, rows, few)
    if _lasts(usual, rate) > ends:
        yield few, rate
        return
    first, rate = _timed(model, contract, rows, usual)
    yield usual, rate
    for size in (usual // STEP, usual * STEP):
        if MULTIPLE <= size <= most and size % MULTIPLE == 0 and _lasts(size, rate) <= ends:
            scored, found = _timed(model, contract, rows, size)
            if _begin_alike(scored, first):
                yield size, found


def _lasts(size: int, rate: int) -> float:
    """When it would be known how fast a size is, at so many rows a second."""
    return time.monotonic() + BATCHES * size / rate


def _timed(model: Model, contract: Contract, rows: Arrays, size: int) -> tuple[Scored, int]:
    """Predictions, and rows a second."""
    started = time.monotonic()
    scored = _score(model, contract, rows, size)
    return scored, max(1, round(BATCHES * size / (time.monotonic() - started)))


def _score(model: Model, contract: Contract, rows: Arrays, size: int) -> Scored:
    count = BATCHES * size
    arrays = {name: np.resize(array, (count, *array.shape[1:])) for name, array in rows.items()}
    return score(model, contract, arrays, count, size, keep_non_finite=True)


def _begin_alike(scored: Scored, other: Scored) -> bool:
    """Whether predictions have the same bits, as far as both go."""
    pairs = zip(scored.outputs.values(), other.outputs.values(), strict=True)
    return all(one.dtype == object or _bytes(one, len(two)) == _bytes(two, len(one)) for one, two in pairs)


def _bytes(array: Any, rows: int) -> bytes:
    return bytes(array[:rows].tobytes())
