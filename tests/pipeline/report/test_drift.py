"""Drift is 0 between equal columns, grows with a shift, and its noise floor is what simulation gives."""

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.distributions import distributions, moved
from pipeline.report.document import Caps, Note, Table
from pipeline.report.drift import THRESHOLD, Drift, cuts, drift, drifts, psi
from transforms.statistics import Column, Statistics

COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=40)


def numbers(values: Any, name: str = "x", role: Any = "feature") -> Column:
    """Counts numbers as a run does: by the top 16 bits of the float32."""
    found = np.asarray(values, np.float32)
    finite = found[np.isfinite(found)]
    codes, counts = np.unique(finite.view(np.uint32) >> 16, return_counts=True)
    bins = sorted(zip(codes.tolist(), counts.tolist(), strict=True), key=lambda one: _value(one[0]))
    return Column(
        name,
        role,
        "number",
        len(found),
        nan=int(np.isnan(found).sum()),
        positive_infinity=int((found == np.inf).sum()),
        negative_infinity=int((found == -np.inf).sum()),
        bins=tuple(bins),
    )


def _value(code: int) -> float:
    return float(np.array([code << 16], np.uint32).view(np.float32)[0])


def texts(counts: dict[str, int], other: int = 0, name: str = "x") -> Column:
    """Counts texts."""
    listed = tuple(sorted(counts.items(), key=lambda one: -one[1]))
    return Column(name, "feature", "text", sum(counts.values()) + other, texts=listed, other=other)


@given(st.lists(st.floats(width=32), min_size=1))
def test_a_column_does_not_drift_from_itself(values: list[float]) -> None:
    found = drift(numbers(values), numbers(values))
    assert (found.psi, found.cdf_distance, found.n, found.m) == (0, 0, len(values), len(values))
    assert found.verdict in ("same", "too few rows")


@given(st.data())
def test_psi_is_symmetric_and_positive(data: st.DataObject) -> None:
    now = data.draw(COUNTS)
    base = data.draw(st.lists(st.integers(0, 1000), min_size=len(now), max_size=len(now)))
    both = np.array([now, base])
    assert psi(*both) == pytest.approx(psi(*both[::-1]))
    assert psi(*both) >= 0


@given(COUNTS.filter(any), st.integers(2, 12))
def test_bins_hold_whole_shares_and_no_value_twice(counts: list[int], bins: int) -> None:
    base = np.array(counts)
    starts = cuts(base, bins)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    ends = [*starts[1:], len(base)]
    for start, end in zip(starts, ends, strict=True):
        assert end - start == 1 or base[start:end].sum() < 2 * base.sum() / bins


@pytest.mark.parametrize("n", [2_000, 20_000])
def test_the_floor_is_the_mean_psi_of_samples_of_one_distribution(n: int) -> None:
    random = np.random.default_rng(7)
    found = [drift(numbers(random.normal(size=n)), numbers(random.normal(size=3 * n))) for _ in range(60)]
    assert np.mean([one.psi for one in found]) == pytest.approx(found[0].floor, rel=0.3)
    assert {one.verdict for one in found} == {"same"}


def test_a_larger_shift_gives_more_drift() -> None:
    random = np.random.default_rng(7)
    base = numbers(random.normal(size=20_000))
    found = [drift(numbers(random.normal(shift, size=20_000)), base) for shift in (0, 0.25, 0.5, 1, 2)]
    assert [one.psi for one in found] == sorted(one.psi for one in found)
    assert [one.cdf_distance for one in found] == sorted(one.cdf_distance for one in found)
    assert [one.verdict for one in found] == ["same", "same", "moved", "moved", "moved"]
    assert found[3].cdf_distance == pytest.approx(0.383, abs=0.02)  # 2 Φ(1/2) - 1, of normal distributions


@pytest.mark.parametrize("value", [-1.0, 2.0, np.nan, np.inf, -np.inf])
def test_a_constant_column_that_changes_its_value_has_moved(value: float) -> None:
    found = drift(numbers([value] * 1000), numbers([1.0] * 1000))
    assert (found.verdict, found.cdf_distance) == ("moved", 1)
    assert found.psi > 10 * THRESHOLD


def test_coarser_bins_on_one_side_are_no_drift() -> None:
    """A run with many columns keeps fewer bits of each value."""
    random = np.random.default_rng(7)
    fine = numbers(random.normal(size=5_000))
    counts = Counter[int]()
    for code, count in fine.bins:
        counts[code & ~0xF] += count
    coarse = msgspec.structs.replace(fine, bits=12, bins=tuple(sorted(counts.items(), key=lambda one: _value(one[0]))))
    assert drift(coarse, fine).psi == drift(fine, coarse).psi == drift(fine, coarse).cdf_distance == 0


def test_minus_zero_is_zero() -> None:
    assert drift(numbers([-0.0] * 1000), numbers([0.0] * 1000)).psi == 0


FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=30)


@given(FLOATS, FLOATS)
def test_values_beyond_the_least_and_greatest_of_the_baseline_are_counted(now: list[float], base: list[float]) -> None:
    exact = [np.asarray(side, np.float32) for side in (now, base)]
    values, known = ((side[~np.isnan(side)].view(np.uint32) & 0xFFFF0000).view(np.float32) for side in exact)
    least, greatest = (known.min(), known.max()) if len(known) else (np.inf, -np.inf)
    assert drift(numbers(now), numbers(base)).outside == ((values < least) | (values > greatest)).sum()


def test_texts_that_the_baseline_does_not_have_are_counted_if_its_list_is_exact() -> None:
    assert drift(texts({"a": 5, "new": 7}), texts({"a": 3, "b": 1})).outside == 7
    assert drift(texts({"a": 5, "new": 7}), texts({"a": 3, "b": 1}, other=1)).outside == 0


def test_few_rows_get_no_verdict() -> None:
    found = drift(numbers([5.0] * 30), numbers(range(1, 31)))
    assert (found.verdict, found.floor > THRESHOLD / 2) == ("too few rows", True)
    assert drift(numbers([]), numbers([1.0])).verdict == "too few rows"


def test_texts_are_compared_one_by_one_if_their_lists_are_exact() -> None:
    base = texts({"a": 600, "b": 300, "c": 100})
    assert drift(texts({"b": 300, "a": 600, "c": 100}), base).psi == 0
    assert drift(texts({"a": 100, "b": 300, "c": 600}), base).verdict == "moved"
    assert drift(texts({"new": 1000}), base).cdf_distance == 1


def test_a_text_that_a_list_may_lack_counts_as_other() -> None:
    now, base = texts({"a": 600, "b": 300}, other=100), texts({"a": 600, "c": 300}, other=100)
    assert drift(now, base).psi == 0
    assert drift(texts({"a": 600, "b": 300, "d": 100}), texts({"a": 600}, other=400)).psi == 0
    assert drift(texts({"a": 600, "b": 300, "d": 100}), base).verdict == "moved"  # the run has no c, its list is exact
    assert drift(texts({"b": 900}, other=100), texts({"a": 600, "c": 400})).verdict == "moved"


def test_columns_of_one_side_are_listed() -> None:
    one, other = numbers([1.0], "a"), numbers([1.0], "b")
    both = numbers([1.0], "a", "prediction")
    found = [(one.name, one.verdict) for one in drifts([one, both], [other, both])]
    assert found == [("a", "only in the run"), ("a", "too few rows"), ("b", "only in the baseline")]


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ((), "No column moved."),
        (("same", "same"), "No column moved."),
        (("same", "too few rows"), "No column with a verdict moved."),
        (("too few rows",), "No column has a verdict."),
        (("moved", "too few rows"), "1 column moved: 0."),
    ],
)
def test_a_column_without_a_verdict_is_not_taken_for_the_same(verdicts: tuple[Any, ...], said: str) -> None:
    found = [Drift(str(at), "feature", 9, 9, 0, 0.1, 0.1, 0.1, verdict) for at, verdict in enumerate(verdicts)]
    note = next(moved(found, "last", Caps()))
    assert isinstance(note, Note)
    assert note.text == f"Compared with last. {said}"


@pytest.mark.parametrize(("other", "said"), [(0, "2"), (5, "more than 1,000")])
def test_texts_that_are_not_all_listed_are_more_than_an_exact_list_holds(other: int, said: str) -> None:
    counted = Statistics((texts({"a": 600, "b": 300}, other),))
    tables = [one for one in distributions(counted, "feature", Caps(), with_texts=True) if isinstance(one, Table)]
    assert [row[-1] for row in tables[0].rows] == [said]
