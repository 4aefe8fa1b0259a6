"""Outputs that have the same prediction for all rows are found, whatever the predictions are."""

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.scoring.constant import FEWEST_ROWS, Constants, same

values = st.sampled_from([0.0, 1.5, math.nan, math.inf])
kinds = st.sampled_from(
    [
        (values, pa.float32()),
        (st.lists(values, min_size=2, max_size=2), pa.list_(pa.float32(), 2)),
        (st.lists(values, max_size=2), pa.list_(pa.float32())),
        (st.sampled_from([b"", b"a", b"\xff"]), pa.binary()),
        (st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=2), pa.list_(pa.binary())),
        (st.booleans(), pa.bool_()),
    ]
)


@given(kinds.flatmap(lambda kind: st.tuples(st.lists(kind[0], min_size=1, max_size=6), st.just(kind[1]))))
def test_each_record_is_compared_with_the_first(given: tuple[list[object], pa.DataType]) -> None:
    records, kind = given
    column = pa.array(records, kind)
    assert same(column).tolist() == [repr(record) == repr(records[0]) for record in records]


def batch(**columns: list[float]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({name: pa.array(column) for name, column in columns.items()})


@pytest.mark.parametrize("step", [1, 7, FEWEST_ROWS])
def test_an_output_is_constant_over_all_batches(step: int) -> None:
    counted, rows = Constants(), FEWEST_ROWS
    for at in range(0, rows, step):
        numbers = [float(row) for row in range(at, min(at + step, rows))]
        counted.add(batch(x=numbers), batch(same=[2.0] * len(numbers), last=[float(n == rows - 1) for n in numbers]))
    assert list(counted.found()) == ["same"]


def test_few_rows_or_equal_inputs_say_nothing() -> None:
    few, equal = Constants(), Constants()
    few.add(batch(x=[float(row) for row in range(FEWEST_ROWS - 1)]), batch(y=[1.0] * (FEWEST_ROWS - 1)))
    equal.add(batch(x=[3.0] * FEWEST_ROWS), batch(y=[1.0] * FEWEST_ROWS))
    assert (few.found(), equal.found()) == ({}, {})
