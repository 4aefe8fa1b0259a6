"""Alignment: each prediction goes to the row whose key it returned, or to no row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.scoring.align import align, ordinals, rows_of

KINDS = ("int32", "int64", "float32", "string")


def as_kind(keys: list[int], kind: str) -> np.ndarray:
    if kind == "string":
        return np.array([b"%d" % key for key in keys], object)
    return np.array(keys, kind)


@given(count=st.integers(0, 20), keys=st.lists(st.integers(-3, 25), max_size=40), kind=st.sampled_from(KINDS))
def test_each_row_gets_the_one_prediction_with_its_key_or_none(count: int, keys: list[int], kind: str) -> None:
    aligned = align(rows_of(as_kind(keys, kind), count), count)
    sent = ordinals(count).tolist()
    assert 0 not in sent  # models pad with 0, so it is never sent
    for row, key in enumerate(sent):
        assert keys.count(key) != 1 or keys[aligned.places[row]] == key
    assert aligned.missing.tolist() == [row for row, key in enumerate(sent) if key not in keys]
    assert aligned.repeated.tolist() == [row for row, key in enumerate(sent) if keys.count(key) > 1]
    assert aligned.unknown == sum(key not in sent for key in keys)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("key", [0.5, np.nan, np.inf, -np.inf, -1])
def test_what_is_no_ordinal_belongs_to_no_row(key: float, dtype: str) -> None:
    aligned = align(rows_of(np.array([key], dtype), 2), 2)
    assert aligned.missing.tolist() == [0, 1]
    assert aligned.unknown == 1


@pytest.mark.parametrize("key", [b"", b"x", b"00", b" 0", b"-0", b"0.0"])
def test_a_string_key_has_to_come_back_as_it_was_sent(key: bytes) -> None:
    assert align(rows_of(np.array([key], object), 1), 1).missing.tolist() == [0]


def test_float32_holds_every_ordinal_of_the_largest_batch() -> None:
    last = ordinals(1 << 24)[-3:]
    assert (last.astype(np.float32).astype(np.int64) == last).all()
    assert rows_of(np.array([1 << 24], np.float32), 1 << 24).tolist() == [(1 << 24) - 1]
