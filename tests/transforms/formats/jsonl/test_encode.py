"""Predictions as JSON text: the text reads back as the model's value, and lists nest as its shape says."""

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from transforms.columns import from_array
from transforms.formats.jsonl.encode import encode

FLOATS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
shapes = st.lists(st.integers(1, 3), max_size=3).map(lambda s: (4, *s))


def texts(values: np.ndarray) -> list[bytes]:
    found: list[bytes] = encode(from_array(values)).to_pylist()
    return found


@given(data=st.data(), shape=shapes, dtype=st.sampled_from([np.float16, np.float32, np.float64]))
def test_a_float_reads_back_as_itself_and_looks_like_a_float(data: Any, shape: tuple[int, ...], dtype: Any) -> None:
    values = data.draw(arrays.arrays(dtype, shape, elements={"allow_nan": False, "allow_infinity": False}))
    for row, text in zip(values, texts(values), strict=True):
        read = json.loads(text)
        assert np.array_equal(np.array(read, dtype), row)
        assert np.array_equal(np.signbit(np.array(read, dtype)), np.signbit(row))
        assert all(isinstance(v, float) for v in np.array(read, object).reshape(-1))


def test_floats_are_spelled_in_the_shortest_form() -> None:
    assert texts(np.array([0.1, 8.061698, 1, -0.0, 1e20], np.float32)) == [
        b"0.1",
        b"8.061698",
        b"1.0",
        b"-0.0",
        b"1e+20",
    ]


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_not_finite_becomes_null(dtype: Any) -> None:
    assert texts(np.array([1.5, np.nan, np.inf, -np.inf]).astype(dtype)) == [b"1.5", b"null", b"null", b"null"]


@given(
    data=st.data(), shape=shapes, dtype=st.sampled_from(["int8", "uint8", "int32", "uint32", "int64", "uint64", "bool"])
)
def test_integers_and_bools_read_back(data: Any, shape: tuple[int, ...], dtype: str) -> None:
    values = data.draw(arrays.arrays(dtype, shape))
    assert [json.loads(text) for text in texts(values)] == values.tolist()


@given(values=st.lists(st.text() | st.binary(), min_size=1, max_size=8))
def test_strings_read_back_and_bytes_come_in_base64(values: list[str | bytes]) -> None:
    raw = [v if isinstance(v, bytes) else v.encode("utf-8", "replace") for v in values]
    import base64

    for value, text in zip(raw, texts(np.array(raw, object)), strict=True):
        read = json.loads(text)
        assert b"\n" not in text
        assert (base64.b64decode(read["b64"]) if isinstance(read, dict) else read.encode()) == value


def test_no_rows_make_no_text() -> None:
    assert texts(np.zeros((0, 2), np.float32)) == []
