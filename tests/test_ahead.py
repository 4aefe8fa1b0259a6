"""One element ahead: every result comes out once and in order, and no error gets lost."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.ahead import OneAhead


@given(st.lists(st.integers()))
def test_every_result_comes_out_once_in_order(elements: list[int]) -> None:
    ahead = OneAhead(lambda n: n * 2)
    found = [result for element in elements for result in ahead.put(element)]
    assert len(found) == max(0, len(elements) - 1)
    assert [*found, *ahead.rest()] == [n * 2 for n in elements]


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_an_error_is_raised_by_the_end_at_the_latest(guilty: int) -> None:
    def fail(n: int) -> int:
        if n == guilty:
            raise ValueError(f"guilty {n}")
        return n

    ahead = OneAhead(fail)
    with pytest.raises(ValueError, match=f"guilty {guilty}"):
        for _ in [*(result for n in range(3) for result in ahead.put(n)), *ahead.rest()]:
            pass


def test_the_next_element_is_worked_on_before_the_last_one_is_done_with() -> None:
    begun = {n: threading.Event() for n in range(2)}
    ahead = OneAhead(lambda n: begun[n].set() or n)
    assert list(ahead.put(0)) == []
    for result in ahead.put(1):
        assert result == 0
        assert begun[1].wait(60)  # while the steps that follow have the first one
    assert list(ahead.rest()) == [1]
