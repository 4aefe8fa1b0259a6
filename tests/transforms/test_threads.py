"""Results come in order, a few ahead; none piles up, none is begun in vain."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.threads import AHEAD, in_threads


@given(st.lists(st.integers(), max_size=40))
def test_results_come_in_the_order_of_their_items(items: list[int]) -> None:
    assert list(in_threads(lambda item: item * 2, iter(items))) == [item * 2 for item in items]


def test_only_a_few_are_made_ahead_of_who_takes_them() -> None:
    begun = []
    results = in_threads(lambda item: begun.append(item) or item, range(1000))
    for taken, result in enumerate(results):
        assert result == taken
        assert len(begun) <= taken + 1 + AHEAD
    assert sorted(begun) == list(range(1000))


def test_one_alone_needs_no_thread() -> None:
    assert list(in_threads(lambda _: threading.current_thread(), [1])) == [threading.current_thread()]
    assert threading.current_thread() not in in_threads(lambda _: threading.current_thread(), [1, 2])


def test_an_error_comes_out_in_its_turn_and_nothing_is_begun_after_it() -> None:
    begun = []

    def invert(item: int) -> float:
        begun.append(item)
        return 1 / (3 - item)

    results = in_threads(invert, range(1000))
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) <= 3 + 1 + AHEAD


def test_who_takes_no_more_ends_the_work() -> None:
    begun = []
    results = in_threads(begun.append, range(1000))
    next(results)
    results.close()  # type: ignore[attr-defined]
    list(in_threads(lambda _: None, range(2 * AHEAD)))  # what was begun is done: there is one queue
    assert len(begun) <= 1 + AHEAD
