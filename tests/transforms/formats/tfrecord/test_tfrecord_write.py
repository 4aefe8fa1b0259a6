"""Writing joined tf.Examples: records keep their bytes, and a row that cannot be written becomes a bad row."""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.support.blocks import block_of
from tests.support.examples import (
    delimited,
    entry,
    example,
    examples,
    features_of,
    floats,
    ints,
    read_back,
    split,
    texts,
    written,
)
from transforms import columns
from transforms.formats import slices
from transforms.formats.base import Joined
from transforms.formats.tfrecord import FORMAT
from transforms.records import BadRow, Layout

# Writing

WHOLE = Layout(True, (), (), None, None, (("out", "prediction"),))
ROWS = [example(a=floats(1), id=texts(b"r1")), example(a=ints(2), id=texts(b"r2"), z=ints(7))]


def write(
    records: Sequence[bytes],
    layout: Layout,
    *,
    good: Sequence[bool] = (),
    **outputs: npt.NDArray[Any],
) -> Joined:
    data = written(records)
    bad = [BadRow(row, "read", "null", "bad") for row, fine in enumerate(good) if not fine]
    predictions = pa.RecordBatch.from_pydict({name: columns.from_array(v) for name, v in outputs.items()})
    joined = FORMAT.writer.write(block_of(FORMAT, data, 100), bad, predictions, layout)
    return joined._replace(blocks=list(joined.blocks))


@given(st.lists(examples, min_size=1, max_size=8), st.integers(1, 5))
def test_a_record_keeps_its_bytes_and_gets_the_prediction(records: list[bytes], slice_rows: int) -> None:
    numbers = np.arange(len(records), dtype=np.float32) / 4
    with mock.patch.object(slices, "SLICE_ROWS", slice_rows):
        joined = write(records, WHOLE, out=numbers)
    assert not joined.bad
    found = read_back(joined.blocks)
    spec = {"prediction": tf.io.FixedLenFeature([], tf.float32)}
    assert tf.io.parse_example(found, spec)["prediction"].numpy().tolist() == numbers.tolist()
    for before, after in zip(records, found, strict=True):
        assert after.startswith(before)
        merged = tf.train.Example.FromString(after)
        del merged.features.feature["prediction"]
        assert merged.SerializeToString(deterministic=True) == before


OUTPUTS = {
    "float32": (np.array([[1.5, np.nan]], np.float32), [1.5, np.nan]),
    "float64": (np.array([0.1, -1e300 * 1e300]), [float(np.float32(0.1)), -np.inf]),
    "half": (np.array([[0.5, 2]], np.float16), [0.5, 2]),
    "matrix": (np.arange(6, dtype=np.int32).reshape(1, 2, 3), [0, 1, 2, 3, 4, 5]),
    "int8": (np.array([[-128]], np.int8), [-128]),
    "uint64": (np.array([[2**63 - 1]], np.uint64), [2**63 - 1]),
    "bool": (np.array([[True, False]]), [1, 0]),
    "string": (np.array([[b"\xff", b""]], object), [b"\xff", b""]),
}


@pytest.mark.parametrize(("output", "listed"), OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_of_every_dtype(output: npt.NDArray[Any], listed: list[Any]) -> None:
    joined = write(ROWS[:1] * len(output), WHOLE, out=output)
    found = [v for record in read_back(joined.blocks) for v in features_of(record)["prediction"]]
    assert not joined.bad
    np.testing.assert_equal(found, listed)


def test_predictions_that_no_list_can_hold_are_bad_rows_among_others() -> None:
    layout = WHOLE._replace(predictions=(("n", "n"), ("d", "d")))
    records = [ROWS[0], ROWS[0], ROWS[0], example(d=ints(1)), ROWS[0]]
    n = np.array([[1, 1], [1, 2**63], [1, 1], [1, 1]], np.uint64)
    d = np.array([1.0, 1.0, 1.0, -1e39])
    joined = write(records, layout, good=[True, False, True, True, True], n=n, d=d)
    assert joined.bad == [
        BadRow(2, "write", "out_of_range", "prediction n: 9223372036854775808 does not fit an int64_list"),
        BadRow(3, "write", "collision", "the row already has a field d"),
        BadRow(4, "write", "out_of_range", "prediction d: -1e+39 does not fit a float_list"),
    ]
    assert [features_of(record)["d"] for record in read_back(joined.blocks)] == [[1.0]]


def test_added_features_stand_in_one_order_in_every_process() -> None:
    names = tuple(f"p{number}" for number in range(9))
    layout = WHOLE._replace(row=False, key="k", predictions=tuple((name, name) for name in names))
    (record,) = read_back(write(ROWS[:1], layout, **dict.fromkeys(names, np.array([1.5], np.float32))).blocks)
    added = [*(entry(name.encode(), floats(1.5)) for name in names), entry(b"k", texts(b"s#100"))]
    assert record == b"".join(delimited(1, one) for one in added)


LAYOUTS = {
    "whole row": (WHOLE, [["a", "id", "prediction"], ["a", "id", "prediction", "z"]]),
    "include": (WHOLE._replace(include=("id", "z")), [["id", "prediction"], ["id", "prediction", "z"]]),
    "exclude": (WHOLE._replace(exclude=("a", "none")), [["id", "prediction"], ["id", "prediction", "z"]]),
    "no row": (WHOLE._replace(row=False), [["prediction"]] * 2),
    "own key": (WHOLE._replace(row=False, key_field="id"), [["id", "prediction"]] * 2),
    "key": (WHOLE._replace(row=False, key="key"), [["key", "prediction"]] * 2),
}


@pytest.mark.parametrize(("layout", "names"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout: Layout, names: list[list[str]]) -> None:
    joined = write(ROWS, layout, out=np.array([1.5, 2.5]))
    found = [features_of(record) for record in read_back(joined.blocks)]
    assert [list(row) for row in found] == names
    for row, before, prediction in zip(found, ROWS, (1.5, 2.5), strict=True):
        assert row.pop("prediction") == [prediction]
        if layout.key:
            row.pop("key")
        assert row.items() <= features_of(before).items()


def test_picked_features_keep_their_kind_and_values() -> None:
    features = {"a": floats(), "b": ints(), "c": texts(), "d": tf.train.Feature(), "e": floats(0.1, np.nan)}
    features |= {"f": ints(-1, 2**63 - 1), "g": texts(b"", b"\xff")}
    joined = write([example(**features, z=ints(1))], WHOLE._replace(exclude=("z",)), out=np.array([1.0]))
    assert read_back(joined.blocks)[0].startswith(example(**features))


def test_picked_features_are_written_in_the_order_of_their_names() -> None:
    features = {f"f{number}": ints(number) for number in range(20)}
    joined = write([example(**features)], WHOLE._replace(exclude=("f3",)), out=np.array([1.0]))
    del features["f3"]
    assert read_back(joined.blocks)[0].startswith(example(**features))


def test_key_is_the_source_and_where_the_record_starts() -> None:
    layout = WHOLE._replace(key="key")
    found = read_back(write([ROWS[0]] * 3, layout, good=[True, False, True], out=np.array([1.0, 3.0])).blocks)
    assert [features_of(record)["key"] for record in found] == [
        [b"s#100"], [b"s#%d" % (100 + 2 * (len(ROWS[0]) + 16))]
    ]  # fmt: skip


PADDED = delimited(1, delimited(1, b"\x0a\x8a\x80\x00prediction" + delimited(2, ints(1).SerializeToString())))
UNKNOWN = delimited(1, delimited(1, delimited(1, b"prediction") + delimited(2, b"") + delimited(3, b"")))
INCLUDED = WHOLE._replace(include=("a", "prediction"))
OWN_KEY = WHOLE._replace(row=False, key_field="id")
OLD = example(id=ints(1), prediction=floats(1))
TAKEN = {
    "prediction": (WHOLE, OLD, "collision", "the row already has a field prediction"),
    "length written with more bytes": (WHOLE, PADDED, "collision", "the row already has a field prediction"),
    "unknown field beside it": (WHOLE, UNKNOWN, "collision", "the row already has a field prediction"),
    "key": (WHOLE._replace(key="a"), ROWS[0], "collision", "the row already has a field a"),
    "included": (INCLUDED, OLD, "collision", "the row already has a field prediction"),
    "no own key": (OWN_KEY, example(a=ints(1)), "missing", "field id: not in the row"),
    "not an Example": (INCLUDED, b"\xff", "not_example", "its 1 bytes do not parse"),
}


@pytest.mark.parametrize(("layout", "record", "reason", "message"), TAKEN.values(), ids=TAKEN)
def test_a_row_that_cannot_be_written_is_reported_and_its_neighbours_stay(
    layout: Layout, record: bytes, reason: str, message: str
) -> None:
    good = example(id=ints(1))
    joined = write([good, record, good], layout, out=np.array([1.0, 2.0, 3.0]))
    assert [(b.row, b.stage, b.reason) for b in joined.bad] == [(1, "write", reason)]
    assert message in joined.bad[0].message
    assert [features_of(r)["prediction"] for r in read_back(joined.blocks)] == [[1.0], [3.0]]


def test_names_that_only_look_alike_do_not_collide() -> None:
    value = texts(b"prediction", b"\x0a\x0aprediction")
    near = example(a=value, my_prediction=ints(1), prediction_=ints(2), predictio=ints(3))
    joined = write([near], WHOLE, out=np.array([5.0]))
    assert not joined.bad
    assert features_of(read_back(joined.blocks)[0])["prediction"] == [5.0]


def test_a_name_longer_than_127_bytes_collides() -> None:
    name = "p" * 300
    layout = WHOLE._replace(predictions=(("out", name),))
    joined = write([example(**{name: ints(1)})], layout, out=np.array([1.0]))
    assert [b.reason for b in joined.bad] == ["collision"]


def test_a_left_out_field_may_have_a_name_that_is_added() -> None:
    for layout in (WHOLE._replace(exclude=("prediction",)), WHOLE._replace(row=False)):
        joined = write([example(prediction=texts(b"old"), b=ints(1))], layout, out=np.array([5.0]))
        assert [features_of(r)["prediction"] for r in read_back(joined.blocks)] == [[5.0]]


@given(st.lists(examples, max_size=8), st.integers(1, 100), st.sampled_from([(), ("a", "c")]))
def test_chunks_together_are_what_the_file_would_be(
    records: list[bytes], chunk_bytes: int, include: tuple[str, ...]
) -> None:
    data, layout, out = written(records), WHOLE._replace(key="k", include=include), b""
    numbers = iter(np.arange(len(records), dtype=np.float32))
    start = 0
    for piece in split(data, chunk_bytes):
        block = block_of(FORMAT, piece, 100 + start)
        column = pa.array([next(numbers) for _ in block.positions], pa.float32())
        predictions = pa.RecordBatch.from_arrays([column], ["out"])
        out += b"".join(FORMAT.writer.write(block, [], predictions, layout).blocks)
        start += len(piece)
    whole = write(records, layout, out=np.arange(len(records), dtype=np.float32))
    assert out == b"".join(whole.blocks)


def test_a_part_without_rows() -> None:
    joined = write(ROWS, WHOLE, good=[False, False], out=np.zeros(0, np.float32))
    assert b"".join(joined.blocks) == b""
