"""Tests of the columns that keyjoin adds to rows."""

import numpy as np
import pyarrow as pa
import pytest

from transforms import columns
from transforms.formats.added_columns import added_columns, error_column, key_column, not_utf8, spread
from transforms.records import BadRow, Layout

BAD = BadRow(1, "read", "null", "field x: null")


def layout(*names: str, **fields: object) -> Layout:
    """Makes a layout whose predictions keep the names of the outputs."""
    return Layout(True, (), (), None, None, tuple((name, name) for name in names), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "is_open", "kind"),
    [
        (np.zeros((2, 1), np.float32), False, pa.float32()),
        (np.zeros(2, np.int8), False, pa.int8()),
        (np.zeros((2, 3), np.uint64), False, pa.list_(pa.uint64(), 3)),
        (np.zeros((2, 1, 1), np.float64), False, pa.list_(pa.list_(pa.float64(), 1), 1)),
        (np.zeros((2, 1), np.bool_), False, pa.bool_()),
        (np.zeros((2, 1), np.float32), True, pa.list_(pa.float32())),
        (np.array([[b"a"], [b"\xc3\xa9"]], object), False, pa.string()),
        (np.array([[b"a", b"b"]] * 2, object), False, pa.list_(pa.string(), 2)),
    ],
)
def test_predictions_keep_the_types_of_the_signature(values: np.ndarray, is_open: bool, kind: pa.DataType) -> None:
    """Numbers stay numbers, a single value is a scalar unless its size is open, and bytes are text. Nulls stay null."""
    batch = pa.record_batch({"y": columns.from_array(values, is_open=is_open)})
    assert not_utf8(batch, layout("y"), np.arange(2)) == []
    ((name, whole),) = added_columns(batch, layout("y", scalars=True), None, None)
    ((_, left),) = added_columns(spread(batch, np.array([0, 2]), 3), layout("y", scalars=True), None, None)
    assert name == "y"
    assert whole.type == kind
    assert left.type == kind
    assert left.is_null().to_pylist() == [False, True, False]
    assert left.filter(left.is_valid()).to_pylist() == whole.to_pylist()


def test_single_values_stay_lists_without_scalars() -> None:
    """Without `scalars` a value of the shape (rows, 1) is a list of one value, as in the JSON of a tutorial."""
    batch = pa.record_batch({"y": columns.from_array(np.array([[1.5]], np.float32))})
    assert added_columns(batch, layout("y"), None, None)[0][1].to_pylist() == [[1.5]]


def test_error_and_key_follow_the_predictions() -> None:
    """The order is predictions, error, key. The error of a row with a prediction is null."""
    batch = spread(pa.record_batch({"y": columns.from_array(np.array([0.5, 1.5]))}), np.array([0, 2]), 3)
    found = added_columns(
        batch,
        layout("y", error="error")._replace(key="key"),
        key_column("a.csv", np.array([0, 10, 20])),
        error_column([BAD], [b"\xff"], 3),
    )
    table = pa.table(dict(found))
    assert table.column_names == ["y", "error", "key"]
    assert table["key"].to_pylist() == ["a.csv#0", "a.csv#10", "a.csv#20"]
    error = {"stage": "read", "reason": "null", "message": "field x: null", "row": "/w==", "row_encoding": "base64"}
    assert table["error"].to_pylist() == [None, error, None]


def test_several_predictions_of_a_json_value_are_one_struct() -> None:
    """The struct is null where the row has no prediction."""
    batch = pa.record_batch({name: columns.from_array(np.array([0.5, 1.5])) for name in "ab"})
    ((name, struct),) = added_columns(spread(batch, np.array([1, 2]), 3), layout("a", "b", instance=True), None, None)
    assert name == "prediction"
    assert struct.to_pylist() == [None, {"a": 0.5, "b": 0.5}, {"a": 1.5, "b": 1.5}]


def test_strings_that_are_not_utf8_make_bad_rows() -> None:
    """Each such row is found once, by its number, wherever in its lists the string is."""
    values = np.array([[b"a", b"b"], [b"\xff", b"\xfe"], [b"c", b"d"], [b"e", b"\xff"]], object)
    batch = pa.record_batch({"label": columns.from_array(values)})
    found = not_utf8(batch, layout("label"), np.array([0, 2, 5, 7]))
    assert [(bad.row, bad.stage, bad.reason) for bad in found] == [(2, "write", "not_utf8"), (7, "write", "not_utf8")]
    assert "prediction label" in found[0].message
