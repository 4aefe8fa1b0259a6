"""Numbers as other tools write them (strings, whole floats, exponents) are read exactly."""

import json
import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import blocks
from transforms.columns import to_array
from transforms.formats import jsonl
from transforms.formats.jsonl import diagnose
from transforms.records import Feature

DTYPES = ("int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "bfloat16")


def read(lines: list[str], *features: Feature) -> tuple[list[Any], list[Any]]:
    """Returns the values of the good rows, and (row, reason) of the bad ones."""
    data = "".join(f"{line}\n" for line in lines).encode()
    inputs, bad = blocks.read(jsonl.FORMAT, data, features)
    return to_array(inputs[features[0].name], features[0]).tolist(), [(one.row, one.reason) for one in bad]


def field(dtype: str, shape: tuple[int, ...] = (), **more: Any) -> Feature:
    return Feature("x", dtype, shape, ("a",), **more)


def expected(spelled: str, dtype: str) -> Any:
    """Returns the value of a JSON text, None for a dead letter; uses exact fractions, not the code under test."""
    value = json.loads(spelled, parse_int=Fraction, parse_float=Fraction)
    if isinstance(value, str):
        if "float" in dtype and value in ("NaN", "Infinity", "-Infinity"):
            return float(value)
        try:
            value = json.loads(value, parse_int=Fraction, parse_float=Fraction, parse_constant=lambda _: None)
        except ValueError:
            return None
        if json.loads(spelled).strip() != json.loads(spelled) or not isinstance(value, Fraction):
            return None
    if not isinstance(value, Fraction):
        return None
    if "float" in dtype:
        narrow = np.dtype(np.float32 if dtype in ("float16", "bfloat16") else dtype)
        with np.errstate(over="ignore"):
            found = float(narrow.type(json.loads(spelled, parse_int=float)).astype(dtype))
        return found if math.isfinite(found) else None
    limits = np.iinfo(dtype)
    return int(value) if value.denominator == 1 and limits.min <= value <= limits.max else None


digits = st.integers(-(1 << 70), 1 << 70) | st.integers(-300, 300) | st.sampled_from([(1 << 53) + 1, 1 << 63, 1 << 64])
number_texts = st.one_of(
    digits.map(str),
    digits.map(lambda n: f"{n}.0"),
    digits.map(lambda n: f"{n}.{'0' * 40}"),
    st.tuples(digits, st.integers(-30, 30)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
    st.tuples(digits, st.integers(0, 99)).map(lambda pair: f"{pair[0]}.{pair[1]}"),
    st.sampled_from(["-0", "-0.0", "10e-1", "0.5", "1E+2", "31.00000000000000000001"]),
)
sloppy = st.sampled_from(
    ["", " 31", "31 ", "+31", "0x1f", "007", "31.", ".5", "1_000", "1,5", "nan", "inf", "infinity", "NaN", "Infinity",
     "-Infinity", "٣", "true", "null", "31\n", "\uff11"]
)  # fmt: skip
values = (
    number_texts
    | (number_texts | sloppy).map(json.dumps)
    | st.sampled_from(["true", "false", '"\\u0033"', '"\\u002b3"', "{}"])
)


@given(st.lists(values, max_size=6), st.sampled_from(DTYPES))
def test_each_value_is_exact_or_a_dead_letter_whatever_its_neighbours(spelled: list[str], dtype: str) -> None:
    lines = [f'{{"a": {text}, "other": "31"}}' for text in spelled]
    wanted = [expected(text, dtype) for text in spelled]
    found, bad = read(lines, field(dtype))
    assert [row for row, _ in bad] == [row for row, value in enumerate(wanted) if value is None]
    assert np.array_equal(np.array(found, object), np.array([v for v in wanted if v is not None], object)) or all(
        one == other or (one != one and other != other)
        for one, other in zip(found, (v for v in wanted if v is not None), strict=True)
    )


@given(st.lists(st.lists(values, min_size=2, max_size=2), max_size=4), st.sampled_from(DTYPES))
def test_lists_may_mix_spellings(spelled: list[list[str]], dtype: str) -> None:
    wanted = [[expected(text, dtype) for text in texts] for texts in spelled]
    found, bad = read([f'{{"a": [{", ".join(texts)}]}}' for texts in spelled], field(dtype, (2,)))
    assert [row for row, _ in bad] == [row for row, row_values in enumerate(wanted) if None in row_values]
    good = [row_values for row_values in wanted if None not in row_values]
    assert repr(found) == repr([[float(v) if "float" in dtype else v for v in row_values] for row_values in good])


@pytest.mark.parametrize("text", ['"31"', "31.0", "3.1e1", '"NaN"'])
def test_strict_types_refuse_what_is_spelled_otherwise(text: str) -> None:
    dtype = "float32" if "NaN" in text else "int64"
    assert read([f'{{"a": {text}}}'], field(dtype, strict=True))[0] == []
    assert len(read([f'{{"a": {text}}}'], field(dtype))[0]) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [("31.5", "fraction"), ('"31.5"', "fraction"), ('" 31"', "wrong_type"), ('"9223372036854775808"', "out_of_range"),
     ("true", "wrong_type"), ("1e400", "out_of_range"), ('"1e400"', "out_of_range"), ('""', "wrong_type")],
)  # fmt: skip
def test_dead_letters_explain_what_is_wrong_with_a_number(text: str, reason: str) -> None:
    assert read([f'{{"a": {text}}}'], field("int64")) == ([], [(0, reason)])


def test_a_column_of_strings_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose numbers are all strings must not be parsed line by line, which is slow."""
    lines = [f'{{"a": "{n}", "b": {n}.0}}' for n in range(5_000)]
    parsed = []
    parse = diagnose.parse
    monkeypatch.setattr(diagnose, "parse", lambda line: parsed.append(line) or parse(line))
    features = field("int64"), Feature("y", "int32", (), ("b",))
    assert read(lines, *features) == (list(range(5_000)), [])
    assert len(parsed) < 10


assert ml_dtypes  # registers bfloat16 with NumPy
