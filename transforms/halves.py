"""Halves: a batch that fails is halved down to the rows that fail alone; what it had no memory for is remembered."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy.typing as npt

from transforms.errors import MemoryShortError, ModelError, SharedError
from transforms.model import Room
from transforms.reasons import Reason
from transforms.records import BadRow

# Matrix kernels work on panels of 24 or 48 rows and treat what remains differently, in the last digit. In
# whole multiples of two panels a row's prediction did not depend on its neighbours (docs/performance.md).
MULTIPLE = 96

_LOG = logging.getLogger(__name__)


class Scored(NamedTuple):
    """Rows after the model.

    Attributes:
        outputs: Prediction -> (scored rows, …), in input order.
        bad: The rows without a prediction, in input order.
    """

    outputs: dict[str, npt.NDArray[Any]]
    bad: list[BadRow]


ScoreBatch = Callable[[int, int, int, bool], Scored]


def score_halves(
    score_batch: ScoreBatch, room: Room, first: int, end: int, most: int, *, alone: bool = False
) -> list[Scored]:
    """Scores rows [first, end), in halves if they fail together.

    A failure that another call may have caused, which took the memory or ended the process, is no proof: the
    rows are tried again, while no other call goes on, and so are their halves. Memory that is too small for
    several calls at a time is from then on asked for by one at a time; a number of rows that is too large
    though each of them fits is not tried again.

    Args:
        score_batch: Scores rows [first, end) in one call of so many rows, alone or not.
        room: What there is memory for; lowered here.
        first: First row.
        end: One past the last row.
        most: Rows of a call at most.
        alone: Whether no other call may go on meanwhile.

    Returns:
        The rows in order, in one piece or in several.
    """
    most, alone = min(most, room.rows), alone or room.alone
    if end - first > most:
        return _in_pieces(score_batch, room, first, end, most, alone=alone)
    sent = min(most, -(-(end - first) // MULTIPLE) * MULTIPLE)
    try:
        return [score_batch(first, end, sent, alone)]
    except ModelError as error:
        failed = error
    if isinstance(failed, SharedError) and not alone:
        if isinstance(failed, MemoryShortError) and not room.alone:
            room.alone = True
            _LOG.warning("the model ran out of memory: from here on it is called once at a time")
        return score_halves(score_batch, room, first, end, most, alone=True)
    of_memory = isinstance(failed, MemoryShortError)
    if (sent if of_memory else end - first) == 1:
        return [Scored({}, [BadRow(first, "predict", failed.reason.value, str(failed))])]
    half = _half(sent if of_memory else end - first)
    pieces = _in_pieces(score_batch, room, first, end, half, alone=alone, most=half if of_memory else most)
    if of_memory and half < room.rows and not any(_lacked_memory(piece) for piece in pieces):
        room.rows = half
        _LOG.warning("the model ran out of memory with %d rows: from here on a call has %d at most", sent, half)
    return pieces


def _in_pieces(
    score_batch: ScoreBatch, room: Room, first: int, end: int, size: int, *, alone: bool, most: int | None = None
) -> list[Scored]:
    return [
        scored
        for at in range(first, end, size)
        for scored in score_halves(score_batch, room, at, min(at + size, end), most or size, alone=alone)
    ]


def _half(rows: int) -> int:
    """Half of the rows of a call, in whole multiples where there are any.

    >>> _half(480), _half(96), _half(3)
    (192, 48, 2)
    """
    return rows // 2 // MULTIPLE * MULTIPLE or -(-rows // 2)


def _lacked_memory(piece: Scored) -> bool:
    return any(bad.reason == Reason.MODEL_MEMORY.value for bad in piece.bad)
