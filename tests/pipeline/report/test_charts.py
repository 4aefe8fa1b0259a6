"""The shapes of charts keep the counts that they are made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import charts

bins = st.lists(
    st.tuples(st.floats(-1e6, 1e6), st.integers(0, 10**9)), min_size=1, max_size=200, unique_by=lambda b: b[0]
)


@given(bins, st.integers(2, 40))
def test_bars_have_all_the_values_of_their_bins(found: list[tuple[float, int]], most: int) -> None:
    found.sort()
    lows = np.array([low for low, _ in found])
    highs = np.append(np.minimum(lows[:-1] + 1, lows[1:]), lows[-1] + 1)
    counts = np.array([amount for _, amount in found])
    starts, ends, heights = charts.histogram(lows, highs, counts, most)
    assert heights.sum() == counts.sum()
    assert (heights >= 0).all()
    assert len(heights) <= most
    assert (starts[1:] >= ends[:-1] - 1e-6).all()
    picture = charts.bars(starts, ends, heights)
    assert "nan" not in picture.shapes[-1].path
    assert "inf" not in picture.shapes[-1].path


def test_few_bins_keep_their_place() -> None:
    lows, highs, counts = np.array([0.0, 1.0]), np.array([0.01, 1.01]), np.array([3, 1])
    starts, ends, heights = charts.histogram(lows, highs, counts, 30)
    assert (starts.tolist(), ends.tolist(), heights.tolist()) == ([0.0, 1.0], [0.01, 1.01], [3, 1])


def test_far_values_do_not_flatten_the_rest() -> None:
    lows = np.append(np.arange(100.0), 1e6)
    starts, _, heights = charts.histogram(lows, lows + 1, np.append(np.full(100, 1000), 1), 30)
    assert starts[-1] < 100
    assert heights.min() > 1000
    assert heights.sum() == 100_001


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=10), st.integers(0, 10**12))
def test_every_stream_with_rows_can_be_seen(dead: list[int], joined: int) -> None:
    streams = [("joined", "joined", joined), *(("dead", f"reason {at}", amount) for at, amount in enumerate(dead))]
    picture = charts.flow(("rows read", joined + sum(dead)), streams)
    assert len(picture.labels) == len(streams) + 1
    assert all(label.y <= picture.height + charts.LINE for label in picture.labels)


def test_rates_are_those_between_the_points() -> None:
    times, values = charts.rates([(0.0, 0, 0), (2.0, 100, 1000), (2.0, 100, 1000), (4.0, 400, 4000)])
    assert (times.tolist(), values.tolist()) == ([0.0, 2.0, 4.0], [50.0, 150.0])


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1e9, "1e+09"), (999_999.0, "1,000,000"), (-0.5, "-0.5"), (float("inf"), "inf")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert charts.number(value) == text
