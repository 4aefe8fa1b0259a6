"""The figures of a comparison are those of the whole columns, in any batches."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.comparison.tally import SHARES, Place, Tally
from transforms.comparison.tolerance import EXACT, Tolerance
from transforms.records import Chunk, PartReceipt

PART = PartReceipt(Chunk("a", "", 0, 0, 0, 1, "p"), 0, 0, 0, 0, {}, 0, 0, 0, 0, 0)
VALUES = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0]))
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30)


def tallied(one: Any, other: Any, kind: Any, steps: int = 1, tolerance: Tolerance = EXACT, **how: Any) -> Tally:
    """Compares lists of values, in batches of some rows."""
    tally = Tally("y", tolerance, is_vector=how.pop("is_vector", False), **how)
    arrays = [pa.array(side, pa.large_list(kind)) for side in (one, other)]
    for first in range(0, len(one), steps):
        some = [array.slice(first, steps) for array in arrays]
        tally.add(*some, Place(np.arange(first, first + len(some[0])), PART, 0))
    return tally


@given(PAIRS, st.integers(1, 30))
def test_figures_are_those_of_all_values(pairs: list[tuple[float, float]], steps: int) -> None:
    a, b = np.array(pairs, np.float32).astype(np.float64).T
    found = tallied([[x] for x in a], [[y] for y in b], pa.float32(), steps)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    assert (found.rows, found.equal, found.within) == (len(a), same.sum(), same.sum())
    assert (found.values, found.non_finite) == (finite.sum(), (~same & ~finite).sum())
    if not finite.any():
        assert (found.mean, found.correlation, found.quantile(0.5)) == (None, None, None)
        return
    apart = np.abs(a[finite] - b[finite])
    assert (found.largest, found.mean) == (apart.max(), pytest.approx(apart.mean()))
    for share in SHARES:
        least = np.quantile(apart, share, method="inverted_cdf")
        assert least <= found.quantile(share) * (1 + 1e-6) + 1e-38
        assert found.quantile(share) <= max(least * 1.01, 1e-38)
    if len(apart) > 2 and min(a[finite].std(), b[finite].std()) > 1e-3:
        assert found.correlation == pytest.approx(np.corrcoef(a[finite], b[finite])[0, 1], abs=1e-3)


@given(PAIRS, st.integers(1, 30))
def test_the_worst_rows_are_the_largest_differences(pairs: list[tuple[float, float]], steps: int) -> None:
    found = tallied([[x] for x, _ in pairs], [[y] for _, y in pairs], pa.float32(), steps)
    expected = []
    for number, (x, y) in enumerate(np.array(pairs, np.float32).astype(np.float64).tolist()):
        apart = 0.0 if x == y or (x != x and y != y) else abs(x - y) if np.isfinite([x, y]).all() else np.inf
        expected += [(-apart, number)] * (apart > 0)
    assert [(-one.difference, one.number) for one in found.worst] == sorted(expected)[:5]


@given(PAIRS)
def test_with_a_relative_tolerance_the_worst_rows_are_the_largest_relative_differences(
    pairs: list[tuple[float, float]],
) -> None:
    one, other = [[x] for x, _ in pairs], [[y] for _, y in pairs]
    found = tallied(one, other, pa.float32(), tolerance=Tolerance(0.01, is_relative=True))
    expected = []
    for number, (x, y) in enumerate(np.array(pairs, np.float32).astype(np.float64).tolist()):
        apart = 0.0 if x == y or (x != x and y != y) else np.inf
        if apart and np.isfinite([x, y]).all():
            apart = abs(x - y) / max(abs(x), abs(y))
        expected += [(-apart, number)] * (apart > 0)
    assert [(-one.relative, one.number) for one in found.worst] == sorted(expected)[:5]


@given(PAIRS, st.integers(1, 30))
def test_the_distribution_has_each_difference_once(pairs: list[tuple[float, float]], steps: int) -> None:
    a, b = np.array(pairs, np.float32).astype(np.float64).T
    found = tallied([[x] for x in a], [[y] for y in b], pa.float32(), steps).distribution
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)[np.isfinite(a) & np.isfinite(b)]
    if not len(apart):
        assert found == []
        return
    assert found[0] == (0.0, 0.0, (apart == 0).sum())
    assert [count for *_, count in found[1:]] == [
        ((apart > 0) & (apart >= low) & (apart < high)).sum() for low, high, _ in found[1:]
    ]
    assert sum(count for *_, count in found) == len(apart)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(found[1:]))


def test_a_power_of_ten_begins_a_range() -> None:
    one = [[0.0]] * 5
    found = tallied(one, [[0.001], [0.00999], [1e-300], [1e100], [0.0]], pa.float64())
    counts = [row for row in found.distribution if row[2]]
    assert counts == [(0.0, 0.0, 1), (0.0, 1e-38, 1), (0.001, 0.01, 2), (1e38, np.inf, 1)]


@pytest.mark.parametrize(
    ("tolerance", "within"), [("0", 1), ("0.5", 2), ("0.6", 3), ("4%", 2), ("10%", 3), ("1e300", 3)]
)
def test_tolerances(tolerance: str, within: int) -> None:
    """The fourth row is NaN on one side only, which no tolerance allows."""
    one, other = [[1.0], [10.0], [-20.0], [np.nan]], [[1.0], [10.5], [-20.5625], [1.0]]
    assert tallied(one, other, pa.float64(), tolerance=Tolerance.parse(tolerance)).within == within


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "x%", "-1%", "1e400"])
def test_what_is_no_tolerance_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a difference such as"):
        Tolerance.parse(text)


@given(st.floats(0, 1e6), st.booleans())
def test_a_tolerance_is_read_from_its_text(value: float, is_relative: bool) -> None:
    made = Tolerance(value, is_relative)
    assert Tolerance.parse(str(made)).value == pytest.approx(value, rel=1e-14)
    assert Tolerance.parse(str(made)).is_relative is is_relative


def test_large_integers_are_compared_exactly() -> None:
    found = tallied([[2**53], [-1], [5]], [[2**53 + 1], [-1], [5]], pa.int64())
    assert (found.equal, found.largest, found.worst[0].number) == (2, 1, 0)


def test_rows_of_other_shapes_differ() -> None:
    found = tallied([[1.0], [], [1.0, 2.0]], [[1.0], [1.0], [1.0, 2.0]], pa.float32())
    assert (found.rows, found.equal, found.within, found.other_shape) == (3, 2, 2, 1)
    assert [one.values for one in found.worst] == [([], [1.0])]


def test_texts() -> None:
    found = tallied([[b"a"], [b"b", b"c"], []], [[b"a"], [b"b", b"d"], []], pa.binary())
    assert (found.rows, found.equal, found.values, found.mean) == (3, 2, 0, None)
    assert [(one.number, one.values) for one in found.worst] == [(1, ([b"b", b"c"], [b"b", b"d"]))]


def test_the_place_of_the_largest_value() -> None:
    one, other = [[1.0, 2.0], [2.0, 1.0]], [[1.0, 3.0], [2.0, 3.0]]
    found = tallied(one, other, pa.float32(), is_vector=True)
    assert (found.argmax_rows, found.argmax_equal) == (2, 1)


def test_what_json_writes_as_null_is_equal() -> None:
    one, other = [[np.nan], [1.0], [1.0]], [[-np.inf], [1.0], [np.nan]]
    assert tallied(one, other, pa.float32(), has_nan=False).equal == 2
    assert tallied(one, other, pa.float32()).equal == 1


def test_a_format_without_wide_floats() -> None:
    """TFRecord rounds float64 to float32, so the other side is rounded, too."""
    wide, narrow = pa.array([[0.1]], pa.large_list(pa.float64())), pa.array([[0.1]], pa.large_list(pa.float32()))
    tally = Tally("y", EXACT, is_vector=False)
    tally.add(wide, narrow, Place(np.arange(1), PART, 0))
    assert tally.equal == 1
