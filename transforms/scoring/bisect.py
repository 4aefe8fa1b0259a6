"""Halves: a batch that fails is halved down to the rows that fail alone; what it had no memory for is remembered."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy.typing as npt

from transforms.errors import MemoryShortError, ModelError, SharedError
from transforms.reasons import Reason
from transforms.records import BadRow
from transforms.saved_model.model import Room

# Matrix kernels work on panels of 24 or 48 rows and treat what remains differently, in the last digit. In
# whole multiples of two panels a row's prediction did not depend on its neighbours (benchmarks/NOTES.md).
MULTIPLE = 96
# What a call is filled up to where it may have few rows only.
FEWER = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)

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


class Bisection(NamedTuple):
    """Scores batches, and bisects those that fail.

    Attributes:
        score_batch: Scores rows [first, end) in one call of so many rows, alone or not.
        room: How many rows a call of the model may have; lowered here.
        refused: Called with each row that fails alone; may raise, which ends scoring.
        multiple: Calls are filled up to a multiple of so many rows with copies of the last one.
        copies: How many copies of a row a call may have at most, by the row's number.
    """

    score_batch: ScoreBatch
    room: Room
    refused: Refused
    multiple: int
    copies: Callable[[int], int]

    def score(
        self, first: int, end: int, most: int, *, alone: bool = False, fails: bool = False, part: bool = False
    ) -> list[Scored]:
        """Scores rows [first, end), in halves if they fail together.

        Where each row of a half failed alone, the other half likely does: it is not called as a whole. So rows that
        all fail take one call each, not two.

        A failure that another call may have caused, which took the memory or ended the process, is no proof: the
        rows are retried while no other call is running, and so are their halves. Memory that is too small for
        several calls at a time is from then on asked for by one at a time. A number of rows that fails though its
        rows do not, is not tried again.

        Args:
            first: First row.
            end: One past the last row.
            most: Rows of a call at most.
            alone: Whether no other call may go on meanwhile.
            fails: Whether the rows likely fail together, so that several are not called as a whole.
            part: Whether they are a part of rows that failed together.

        Returns:
            The rows in order, in one piece or in several.
        """
        most, alone, rows = min(most, self.room.rows), alone or self.room.alone, end - first
        if rows > most:
            return self._in_pieces(first, end, most, alone=alone)
        if fails and rows > 1:
            return self._in_pieces(first, end, _half(rows), alone=alone, most=most, fails=True)
        sent = self._filled(rows, most)
        if rows == 1 and part and sent > 1:
            return [self._score_one(first, most, alone=alone)]
        try:
            found = self.score_batch(first, end, sent, alone)
        except ModelError as error:
            failed = error
        else:
            self.room.takes_one = self.room.takes_one or sent == 1
            return [found]
        if isinstance(failed, SharedError) and not alone:
            if isinstance(failed, MemoryShortError) and not self.room.alone:
                self.room.alone = True
                _LOG.warning("the model ran out of memory: from here on it is called once at a time")
            return self.score(first, end, most, alone=True, part=part)
        return self._bisect(first, end, most, sent, failed, alone=alone)

    def _bisect(self, first: int, end: int, most: int, sent: int, failed: ModelError, *, alone: bool) -> list[Scored]:
        """Scores rows that failed in one call of `sent` rows: one row by itself, several in halves.

        A number of rows that fails where its halves do not is lowered for the calls that follow.
        """
        rows, of_memory = end - first, isinstance(failed, MemoryShortError)
        if (sent if of_memory else rows) == 1:
            if sent == 1:
                return [self._score_copies(first, most, failed, alone=alone)]
            return [self._score_one(first, most, alone=alone)]
        half = _half(sent if of_memory else rows)
        fewer = half if of_memory else self._filled(half, most)
        pieces = self._in_pieces(first, end, half, alone=alone, most=half if of_memory else most, part=True)
        if of_memory and half < self.room.rows and not any(_lacked_memory(piece) for piece in pieces):
            self._lower(half, f"the model ran out of memory with {sent} rows")
        elif fewer < sent and not (isinstance(failed, SharedError) or self.room.needs_copies or _lacks_rows(pieces)):
            self._lower(fewer, f"the model fails with {sent} rows, and not with fewer")
        return pieces

    def _in_pieces(
        self,
        first: int,
        end: int,
        size: int,
        *,
        alone: bool,
        most: int | None = None,
        fails: bool = False,
        part: bool = False,
    ) -> list[Scored]:
        done: list[Scored] = []
        for at in range(first, end, size):
            piece = self.score(at, min(at + size, end), most or size, alone=alone, fails=fails, part=part or fails)
            fails = not any(scored.outputs for scored in piece)
            done += piece
        return done

    def _filled(self, rows: int, most: int) -> int:
        return min(most, -(-rows // self.multiple) * self.multiple)

    def _score_one(self, row: int, most: int, *, alone: bool) -> Scored:
        """Scores one row in a call by itself; one that is scored so gets what a call that is filled up gives it.

        So its prediction does not depend on which rows failed beside it.
        """
        try:
            found = self.score_batch(row, row + 1, 1, alone)
        except SharedError as error:
            return self._bad(row, error) if alone else self._score_one(row, most, alone=True)
        except ModelError as error:
            return self._score_copies(row, most, error, alone=alone)
        self.room.takes_one = True
        sent = self._filled(1, most)
        for size in (sent, *(size for size in FEWER if size < sent)):
            try:
                found = self.score_batch(row, row + 1, size, alone)
            except ModelError as error:
                if isinstance(error, SharedError) and not alone:
                    return self._score_one(row, most, alone=True)
                continue
            break
        else:
            size = 1
        # With one row only it may be the row: a model that divides by the spread of a batch fails for copies.
        is_proven, self.room.copies_failed = self.room.copies_failed, self.room.copies_failed or size < sent
        if size < sent and is_proven:
            self._lower(size, f"the model fails with {sent} copies of a row, and not with {size}")
        return found

    def _score_copies(self, row: int, most: int, error: ModelError, *, alone: bool) -> Scored:
        """Scores a row that fails by itself in a call with copies of it: some models take no single row.

        Where the model has taken a single row before, it is the row that fails. Where it has not, fewer and fewer
        rows are tried so, since it may take none at all.
        """
        room = self.room
        if not (room.takes_one or isinstance(error, SharedError)) and room.is_searched():
            sizes = [size for size in (MULTIPLE, *FEWER) if size <= min(most, self.copies(row))]
            for size in sizes:
                try:
                    found = self.score_batch(row, row + 1, size, alone)
                except SharedError:  # each costs much, and none is proof
                    break
                except ModelError:
                    continue
                room.needs_copies = True
                if size < sizes[0] and room.copies_failed:
                    self._lower(size, f"the model fails with {sizes[0]} copies of a row, and not with {size}")
                room.copies_failed = room.copies_failed or size < sizes[0]
                return found
        return self._bad(row, error)

    def _bad(self, row: int, error: ModelError) -> Scored:
        bad = BadRow(row, "predict", error.reason.value, str(error))
        self.refused(bad)
        return Scored({}, [bad])

    def _lower(self, rows: int, why: str) -> None:
        if rows < self.room.rows:
            self.room.rows = rows
            _LOG.warning("%s: from here on a call has %d at most", why, rows)


def _half(rows: int) -> int:
    """Half of the rows of a call, in whole multiples where there are any.

    >>> _half(480), _half(96), _half(3)
    (192, 48, 2)
    """
    return rows // 2 // MULTIPLE * MULTIPLE or -(-rows // 2)


def _lacks_rows(pieces: list[Scored]) -> bool:
    return any(piece.bad for piece in pieces)


def _lacked_memory(piece: Scored) -> bool:
    return any(bad.reason == Reason.MODEL_MEMORY.value for bad in piece.bad)
