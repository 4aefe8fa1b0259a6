"""Prefetching: every result comes out once and in order, and no error is lost."""

import threading
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.prefetch import Ahead


@given(st.lists(st.integers()), st.integers(1, 3))
def test_every_result_comes_out_once_in_order(elements: list[int], at_once: int) -> None:
    ahead = Ahead(lambda n: n * 2, at_once)
    found = [result for element in elements for result in ahead.put(element)]
    assert len(found) == max(0, len(elements) - at_once)
    assert [*found, *ahead.rest()] == [n * 2 for n in elements]


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_is_raised_by_the_end_at_the_latest(failing: int, at_once: int) -> None:
    def fail(n: int) -> int:
        if n == failing:
            raise ValueError(f"failing {n}")
        return n

    ahead = Ahead(fail, at_once)
    shutdown = mock.Mock(wraps=ahead._threads.shutdown)
    with mock.patch.object(ahead._threads, "shutdown", shutdown), pytest.raises(ValueError, match=f"failing {failing}"):
        for _ in [*(result for n in range(3) for result in ahead.put(n)), *ahead.rest()]:
            pass
    # It waits for running elements, and cancels those that have not started.
    assert shutdown.call_args == mock.call(cancel_futures=True)


def test_the_next_element_starts_before_the_last_one_is_finished() -> None:
    begun = {n: threading.Event() for n in range(2)}
    ahead = Ahead(lambda n: begun[n].set() or n)
    assert list(ahead.put(0)) == []
    for result in ahead.put(1):
        assert result == 0
        assert begun[1].wait(60)  # while the following steps process the first element
    assert list(ahead.rest()) == [1]


def test_so_many_are_worked_on_at_once_and_no_more() -> None:
    together, most = threading.Barrier(2), []
    working = threading.Semaphore(2)

    def work(n: int) -> int:
        most.append(working.acquire(blocking=False))
        together.wait(60)  # waits until a second one works at the same time
        working.release()
        return n

    ahead = Ahead(work, 2)
    found = [result for n in range(4) for result in ahead.put(n)]
    assert [*found, *ahead.rest()] == [0, 1, 2, 3]
    assert all(most)
