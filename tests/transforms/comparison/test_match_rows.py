"""Rows are matched by their number in the source, for any chunks and any dead letters of both runs."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from transforms.comparison.match_rows import Piece, match_rows
from transforms.records import Chunk, PartReceipt

ROWS = 20
SETS = st.sets(st.integers(0, ROWS - 1))


def pieces(cuts: set[int], dead: set[int]) -> list[Piece]:
    """The parts of a run: the prediction of each row is its number, and a negative number for a row alone."""
    ends = [*sorted(cuts), ROWS]
    made = []
    for first, end in zip([0, *ends], ends, strict=False):
        numbers = np.array([number for number in range(first, end) if number not in dead], np.int64)
        column = pa.array([[number] for number in numbers.tolist()], pa.large_list(pa.int64()))
        part = PartReceipt(Chunk("a", "", 0, 0, 0, 1, "p"), 0, end - first, 0, len(numbers), {}, 0, 0, 0, 0, 0)
        made.append(Piece(first, numbers, {"y": column}, part))
    return made


@given(SETS, SETS, SETS, SETS)
def test_each_row_is_matched_once(one: set[int], other: set[int], lost: set[int], missing: set[int]) -> None:
    found = list(match_rows(pieces(one, lost), pieces(other, missing)))
    both: list[list[int]] = [[], []]
    alone: list[list[int]] = [[], []]
    for matched in found:
        assert matched.both[0].numbers.tolist() == matched.both[1].numbers.tolist()
        for at in (0, 1):
            for listed, piece in ((both[at], matched.both[at]), (alone[at], matched.alone[at])):
                assert piece.columns["y"].to_pylist() == [[number] for number in piece.numbers.tolist()]
                listed += piece.numbers.tolist()
    everyone = set(range(ROWS))
    assert both == [sorted(everyone - lost - missing)] * 2
    assert alone == [sorted(missing - lost), sorted(lost - missing)]
