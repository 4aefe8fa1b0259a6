"""Halves: a batch that fails is halved down to the rows that fail alone; what it had no memory for is remembered."""

import functools
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
Refused = Callable[[BadRow], None]


def score_halves(
    score_batch: ScoreBatch,
    room: Room,
    refused: Refused,
    first: int,
    end: int,
    most: int,
    *,
    alone: bool = False,
    fails: bool = False,
) -> list[Scored]:
    """Scores rows [first, end), in halves if they fail together.

    Where each row of a half failed alone, the other half likely does: it is not called as a whole. So rows that
    all fail take one call each, not two.

    A failure that another call may have caused, which took the memory or ended the process, is no proof: the
    rows are tried again, while no other call goes on, and so are their halves. Memory that is too small for
    several calls at a time is from then on asked for by one at a time; a number of rows that is too large
    though each of them fits is not tried again.

    Args:
        score_batch: Scores rows [first, end) in one call of so many rows, alone or not.
        room: What there is memory for; lowered here.
        refused: Called with each row that fails alone; may raise, which ends scoring.
        first: First row.
        end: One past the last row.
        most: Rows of a call at most.
        alone: Whether no other call may go on meanwhile.
        fails: Whether the rows likely fail together, so that several are not called as a whole.

    Returns:
        The rows in order, in one piece or in several.
    """
    most, alone = min(most, room.rows), alone or room.alone
    pieces_of = functools.partial(_in_pieces, score_batch, room, refused, first, end)
    if end - first > most:
        return pieces_of(most, alone=alone)
    if fails and end - first > 1:
        return pieces_of(_half(end - first), alone=alone, most=most, fails=True)
    sent = min(most, -(-(end - first) // MULTIPLE) * MULTIPLE)
    try:
        return [score_batch(first, end, sent, alone)]
    except ModelError as error:
        failed = error
    if isinstance(failed, SharedError) and not alone:
        if isinstance(failed, MemoryShortError) and not room.alone:
            room.alone = True
            _LOG.warning("the model ran out of memory: from here on it is called once at a time")
        return score_halves(score_batch, room, refused, first, end, most, alone=True)
    of_memory = isinstance(failed, MemoryShortError)
    if (sent if of_memory else end - first) == 1:
        bad = BadRow(first, "predict", failed.reason.value, str(failed))
        refused(bad)
        return [Scored({}, [bad])]
    half = _half(sent if of_memory else end - first)
    pieces = pieces_of(half, alone=alone, most=half if of_memory else most)
    if of_memory and half < room.rows and not any(_lacked_memory(piece) for piece in pieces):
        room.rows = half
        _LOG.warning("the model ran out of memory with %d rows: from here on a call has %d at most", sent, half)
    return pieces


def _in_pieces(
    score_batch: ScoreBatch,
    room: Room,
    refused: Refused,
    first: int,
    end: int,
    size: int,
    *,
    alone: bool,
    most: int | None = None,
    fails: bool = False,
) -> list[Scored]:
    done: list[Scored] = []
    for at in range(first, end, size):
        piece = score_halves(
            score_batch, room, refused, at, min(at + size, end), most or size, alone=alone, fails=fails
        )
        fails = not any(scored.outputs for scored in piece)
        done += piece
    return done


def _half(rows: int) -> int:
    """Half of the rows of a call, in whole multiples where there are any.

    >>> _half(480), _half(96), _half(3)
    (192, 48, 2)
    """
    return rows // 2 // MULTIPLE * MULTIPLE or -(-rows // 2)


def _lacked_memory(piece: Scored) -> bool:
    return any(bad.reason == Reason.MODEL_MEMORY.value for bad in piece.bad)
