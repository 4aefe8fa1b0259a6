"""Bisects a failed batch down to the rows that fail alone, and makes later calls smaller if only large calls fail."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy.typing as npt

from transforms.errors import MemoryShortError, ModelError, SharedError
from transforms.reasons import Reason
from transforms.records import BadRow
from transforms.saved_model.model import CallLimits

# Matrix kernels work on panels of 24 or 48 rows. For the remaining rows, results differ in the last digit. With
# multiples of two 48-row panels, a row's prediction did not depend on its neighbours (benchmarks/NOTES.md).
MULTIPLE = 96
# Sizes to which a call is filled up if it may have only a few rows.
FEWER = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)

_LOG = logging.getLogger(__name__)


class Scored(NamedTuple):
    """The results of scored rows.

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
        score_batch: Scores rows [first, end) in one call. Its arguments are `first`, `end`, the number of rows of the
            call, copies included, and whether no other call may run at the same time.
        limits: How many rows a model call may have. The bisection lowers it.
        refused: Called with each row that fails alone. It may raise an error, which ends scoring.
        multiple: Calls are filled up with copies of the last row to a multiple of this number of rows.
        copies: Most copies of a row in one call, by the row's number.
    """

    score_batch: ScoreBatch
    limits: CallLimits
    refused: Refused
    multiple: int
    copies: Callable[[int], int]

    def score(
        self, first: int, end: int, most: int, *, alone: bool = False, fails: bool = False, part: bool = False
    ) -> list[Scored]:
        """Scores rows [first, end), and bisects them if they fail together.

        If every row of one half fails alone, the other half is likely to fail, too. It is then split without a call of
        the whole half. So rows that all fail take one call each, not two.

        Another call at the same time may cause a failure, because it takes the memory or ends the process. Such a
        failure proves nothing. The rows are retried while no other call runs, and so are their halves. Once the model
        runs out of memory during concurrent calls, all later calls run one at a time.

        If a call fails but its rows succeed in smaller calls, later calls stay smaller than the failed one.

        Args:
            first: First row.
            end: One past the last row.
            most: Most rows of one call.
            alone: Whether no other call may run at the same time.
            fails: Whether the rows are likely to fail together. They are then split before the first call.
            part: Whether the rows are part of a call that failed.

        Returns:
            The results in the order of the rows, in one or several pieces.
        """
        most, alone, rows = min(most, self.limits.rows), alone or self.limits.alone, end - first
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
            self.limits.takes_one = self.limits.takes_one or sent == 1
            return [found]
        if isinstance(failed, SharedError) and not alone:
            if isinstance(failed, MemoryShortError) and not self.limits.alone:
                self.limits.alone = True
                _LOG.warning("the model ran out of memory: from here on it is called once at a time")
            return self.score(first, end, most, alone=True, part=part)
        return self._bisect(first, end, most, sent, failed, alone=alone)

    def _bisect(self, first: int, end: int, most: int, sent: int, failed: ModelError, *, alone: bool) -> list[Scored]:
        """Scores rows that failed in one call of `sent` rows: a single row alone, several rows bisected.

        If the halves succeed, later calls have fewer rows.
        """
        rows, of_memory = end - first, isinstance(failed, MemoryShortError)
        if (sent if of_memory else rows) == 1:
            if sent == 1:
                return [self._score_copies(first, most, failed, alone=alone)]
            return [self._score_one(first, most, alone=alone)]
        half = _half(sent if of_memory else rows)
        fewer = half if of_memory else self._filled(half, most)
        pieces = self._in_pieces(first, end, half, alone=alone, most=half if of_memory else most, part=True)
        if of_memory and half < self.limits.rows and not any(_lacked_memory(piece) for piece in pieces):
            self._lower(half, f"the model ran out of memory with {sent} rows")
        elif fewer < sent and not (isinstance(failed, SharedError) or self.limits.needs_copies or _lacks_rows(pieces)):
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
        """Scores one row in a call of its own. If that succeeds, scores it again in a call filled up with copies.

        If the filled call fails, it tries fewer copies. The prediction of the filled call counts, so that it does not
        depend on which rows failed beside this row.
        """
        try:
            found = self.score_batch(row, row + 1, 1, alone)
        except SharedError as error:
            return self._bad(row, error) if alone else self._score_one(row, most, alone=True)
        except ModelError as error:
            return self._score_copies(row, most, error, alone=alone)
        self.limits.takes_one = True
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
        # One row proves no limit, it may be the cause: a model that divides by a batch's spread fails for copies.
        is_proven, self.limits.copies_failed = self.limits.copies_failed, self.limits.copies_failed or size < sent
        if size < sent and is_proven:
            self._lower(size, f"the model fails with {sent} copies of a row, and not with {size}")
        return found

    def _score_copies(self, row: int, most: int, error: ModelError, *, alone: bool) -> Scored:
        """Scores a row that fails alone in a call with copies of it, because some models accept no single row.

        If the model has accepted a single row before, the row itself fails and no copies are tried. Otherwise the first
        few failing rows are tried with copies, then fewer and fewer of them: the model may accept no row at all.
        """
        limits = self.limits
        if not (limits.takes_one or isinstance(error, SharedError)) and limits.is_searched():
            sizes = [size for size in (MULTIPLE, *FEWER) if size <= min(most, self.copies(row))]
            for size in sizes:
                try:
                    found = self.score_batch(row, row + 1, size, alone)
                except SharedError:  # such a failure costs much time and proves nothing
                    break
                except ModelError:
                    continue
                limits.needs_copies = True
                if size < sizes[0] and limits.copies_failed:
                    self._lower(size, f"the model fails with {sizes[0]} copies of a row, and not with {size}")
                limits.copies_failed = limits.copies_failed or size < sizes[0]
                return found
        return self._bad(row, error)

    def _bad(self, row: int, error: ModelError) -> Scored:
        bad = BadRow(row, "predict", error.reason.value, str(error))
        self.refused(bad)
        return Scored({}, [bad])

    def _lower(self, rows: int, why: str) -> None:
        if rows < self.limits.rows:
            self.limits.rows = rows
            _LOG.warning("%s: from here on a call has %d at most", why, rows)


def _half(rows: int) -> int:
    """Returns half of the rows of a call, as a multiple of `MULTIPLE` if the half has that many rows.

    >>> _half(480), _half(96), _half(3)
    (192, 48, 2)
    """
    return rows // 2 // MULTIPLE * MULTIPLE or -(-rows // 2)


def _lacks_rows(pieces: list[Scored]) -> bool:
    return any(piece.bad for piece in pieces)


def _lacked_memory(piece: Scored) -> bool:
    return any(bad.reason == Reason.MODEL_MEMORY.value for bad in piece.bad)
