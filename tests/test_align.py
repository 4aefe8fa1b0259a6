"""Alignment: a prediction goes to the row whose key came with it, or to none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.align import align, ordinals

KINDS = ("int32", "int64", "float32", "string")


def as_kind(keys: list[int], kind: str) -> np.ndarray:
    if kind == "string":
        return np.array([b"%d" % key for key in keys], object)
    return np.array(keys, kind)


@given(count=st.integers(0, 20), keys=st.lists(st.integers(-3, 25), max_size=40), kind=st.sampled_from(KINDS))
def test_each_row_gets_the_one_prediction_with_its_key_or_none(count: int, keys: list[int], kind: str) -> None:
    aligned = align(ordinals(as_kind(keys, kind), count), count)
    for row in (row for row in range(count) if keys.count(row) == 1):
        assert keys[aligned.places[row]] == row
    assert aligned.missing.tolist() == [row for row in range(count) if row not in keys]
    assert aligned.repeated.tolist() == [row for row in range(count) if keys.count(row) > 1]
    assert aligned.unknown == sum(not 0 <= key < count for key in keys)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("key", [0.5, np.nan, np.inf, -np.inf, -1])
def test_what_is_no_ordinal_belongs_to_no_row(key: float, dtype: str) -> None:
    aligned = align(ordinals(np.array([key], dtype), 2), 2)
    assert aligned.missing.tolist() == [0, 1]
    assert aligned.unknown == 1


@pytest.mark.parametrize("key", [b"", b"x", b"00", b" 0", b"-0", b"0.0"])
def test_a_string_key_has_to_come_back_as_it_was_sent(key: bytes) -> None:
    assert align(ordinals(np.array([key], object), 1), 1).missing.tolist() == [0]


def test_float32_holds_every_ordinal_of_the_largest_batch() -> None:
    last = np.arange((1 << 24) - 3, 1 << 24)
    assert (last.astype(np.float32).astype(np.int64) == last).all()
    assert ordinals(np.array([(1 << 24) - 1], np.float32), 1 << 24).tolist() == [(1 << 24) - 1]
