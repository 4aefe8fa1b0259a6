"""Matches the rows of two runs over the same sources by their place in the source.

A run may cut a source into other chunks than another run, and each run has its own dead letters. So a row is matched by
its number in its source, which counts good and bad rows.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from transforms.comparison.read_predictions import Columns
from transforms.records import PartReceipt, Positions


class Piece(NamedTuple):
    """The predictions of one part.

    Attributes:
        first: The number of the first row of its chunk in the source, from 0.
        numbers: The numbers of the rows that have predictions, ascending. int64.
        columns: The predictions, one record for each of these rows.
        part: The receipt of the part.
    """

    first: int
    numbers: Positions
    columns: Columns
    part: PartReceipt

    @property
    def end(self) -> int:
        """The number of the row after the last row of the chunk."""
        return self.first + self.part.rows

    def between(self, low: int, high: int) -> "Piece":
        """Returns the rows whose numbers are at least `low` and below `high`."""
        start, stop = np.searchsorted(self.numbers, [low, high]).tolist()
        found = {name: column.slice(start, stop - start) for name, column in self.columns.items()}
        return self._replace(numbers=self.numbers[start:stop], columns=found)

    def take(self, which: Positions) -> "Piece":
        """Returns some of the rows, by their indices."""
        found = {name: column.take(pa.array(which)) for name, column in self.columns.items()}
        return self._replace(numbers=self.numbers[which], columns=found)


class Matched(NamedTuple):
    """Some rows of both runs.

    Attributes:
        both: The rows that have predictions in both runs, as each run has them.
        alone: The rows that have predictions in one run only, as each run has them.
    """

    both: tuple[Piece, Piece]
    alone: tuple[Piece, Piece]


def match_rows(one: Iterable[Piece], other: Iterable[Piece]) -> Iterator[Matched]:
    """Matches the rows of one source. It holds one piece of each run at a time.

    Args:
        one: The pieces of a run, in order. Together they have all rows of the source.
        other: The pieces of the other run.
    """
    lefts, rights = iter(one), iter(other)
    left, right = next(lefts, None), next(rights, None)
    while left is not None and right is not None:
        low, high = max(left.first, right.first), min(left.end, right.end)
        yield _match(left.between(low, high), right.between(low, high))
        ended = left.end == high, right.end == high
        left = next(lefts, None) if ended[0] else left
        right = next(rights, None) if ended[1] else right


def _match(left: Piece, right: Piece) -> Matched:
    _, at_left, at_right = np.intersect1d(left.numbers, right.numbers, assume_unique=True, return_indices=True)
    rest_left = np.delete(np.arange(len(left.numbers)), at_left)
    rest_right = np.delete(np.arange(len(right.numbers)), at_right)
    return Matched((left.take(at_left), right.take(at_right)), (left.take(rest_left), right.take(rest_right)))
