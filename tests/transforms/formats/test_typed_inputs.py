"""Rules for the model's inputs that come from typed columns."""

import datetime
import decimal
import json
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import formats
from transforms.formats.typed_inputs import to_inputs
from transforms.reasons import Reason
from transforms.records import Feature

floats32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(1 << 63), (1 << 63) - 1),
    pa.uint64(): st.integers(0, (1 << 64) - 1),
    pa.float32(): floats32,
    pa.float64(): floats32 | st.sampled_from([1e300, 2.0**63, 2.0**64, -(2.0**63), 1e19]),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=3) | st.integers().map(str) | st.sampled_from(["1.5", "NaN", "3.0", "1e2", "1e400"]),
}
DTYPES = st.sampled_from(["float32", "float64", "int8", "int32", "int64", "uint64", "bool", "string"])
SHAPES = st.sampled_from([(), (1,), (2,), (None,), (2, 1)])


@given(data=st.data(), dtype=DTYPES, shape=SHAPES, strict=st.booleans(), missing=st.booleans())
def test_a_column_feeds_an_input_as_the_same_values_in_json(
    data: st.DataObject, dtype: str, shape: tuple[int | None, ...], *, strict: bool, missing: bool
) -> None:
    kind = data.draw(st.sampled_from(list(KINDS)))
    values, depth = st.none() | KINDS[kind], data.draw(st.sampled_from([len(shape), 0, 1]))
    for _ in range(depth):
        values, kind = st.none() | st.lists(values, max_size=3), pa.list_(kind)
    column = pa.array(data.draw(st.lists(values, max_size=4)), kind)
    default = ("1",) if missing and None not in shape and dtype != "bool" else ()
    feature = Feature("x", dtype, shape, ("x",), strict=strict, missing=default)
    inputs, bad = to_inputs(pa.table({"x": column}), [feature])
    lines = [json.dumps({"x": value}).encode() for value in column.to_pylist()]
    expected, refused = formats.load("jsonl").reader.parse(lines, range(len(lines))).inputs([feature])
    assert inputs == expected
    assert list(bad) == [one.row for one in refused]
    assert list(bad.values()) == [(one.reason, one.message) for one in refused]


@pytest.mark.parametrize(
    ("column", "dtype", "expected"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), "string", [b"a", b"b"]),
        (pa.array(["a"], pa.large_string()), "string", [b"a"]),
        (pa.array([b"\xff"], pa.binary(1)), "string", [b"\xff"]),
        (pa.array([decimal.Decimal("1.50")]), "float32", [1.5]),
        (pa.array([decimal.Decimal("2.00")]), "int64", [2]),
        (pa.array([1.5], pa.float16()), "float64", [1.5]),
        (pa.array([math.inf]), "float32", [math.inf]),
    ],
)
def test_other_types_feed_inputs(column: pa.Array, dtype: str, expected: list[object]) -> None:
    inputs, bad = to_inputs(pa.table({"x": column}), [Feature("x", dtype, (), ("x",))])
    assert (inputs["x"].to_pylist(), bad) == (expected, {})


@pytest.mark.parametrize("dtype", ["float32", "int64", "string"])
@pytest.mark.parametrize("value", [datetime.datetime(2026, 1, 2), datetime.date(2026, 1, 2), {"a": 1}])
def test_dates_and_objects_feed_nothing(value: object, dtype: str) -> None:
    column = pa.array([value])
    inputs, bad = to_inputs(pa.table({"x": column}), [Feature("x", dtype, (), ("x",))])
    message = f"field x: the type {column.type} does not feed a {dtype} input"
    assert (inputs.num_rows, bad) == (0, {0: (Reason.WRONG_TYPE.value, message)})


def test_fields_inside_objects_and_stacked_fields() -> None:
    table = pa.table({"a": [{"b": 1.5}, None, {"b": None}], "c": [1, 2, 3]})
    feature = Feature("x", "float32", (2,), ("a", "c"), inside=(("b",), ()))
    inputs, bad = to_inputs(table, [feature])
    assert inputs["x"].to_pylist() == [[1.5, 1.0]]
    assert [why[0] for why in bad.values()] == [Reason.NULL.value] * 2
    assert to_inputs(table, [Feature("x", "float32", (), ("z",))])[1][2] == ("missing", "field z: not in the row")
