"""PredictionLogs: TensorFlow Serving's own classes read what keyjoin writes."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from tests.support import blocks
from tests.support.blocks import joined_bytes
from tests.support.examples import contents, example, floats, written
from transforms import columns, formats
from transforms.formats.spec import FormatSpec
from transforms.formats.tfrecord.prediction_log import tensors
from transforms.records import BadRow, Layout, LogNames, without

SPEC = FormatSpec("tfrecord", prediction_logs="write")
LOGS = formats.load(SPEC)
WHOLE = formats.load(FormatSpec("tfrecord", record_field="record", prediction_logs="write"))
JOINED = Layout(True, (), (), "key", None, (("y", "score"),), log=LogNames("examples", "serving_default"))
DTYPES = ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]
rows = st.lists(st.integers(-9, 9).map(lambda x: example(x=floats(x))), max_size=6)


def logs(part: bytes) -> list[PredictionLog]:
    return [PredictionLog.FromString(record) for record in contents(part)]


def outputs(log: PredictionLog) -> dict[str, Any]:
    return {name: tf.make_ndarray(value).tolist() for name, value in log.predict_log.response.outputs.items()}


def tensor_protos(column: pa.Array) -> list[TensorProto]:
    encoded = columns.join(tensors(column)).to_pylist()
    return [TensorProto.FromString(text) for text in encoded]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15)
@given(data=st.data(), is_open=st.booleans())
def test_a_tensor_has_the_dtype_shape_and_values_of_the_output(dtype: str, data: st.DataObject, is_open: bool) -> None:
    values = data.draw(arrays(dtype, array_shapes(min_dims=1, max_dims=4, max_side=3)))
    made = tensor_protos(columns.from_array(values, is_open=is_open))
    for expected, proto in zip(values, made, strict=True):
        found = tf.make_ndarray(proto)
        assert (found.dtype, found.shape) == (values.dtype, (1, *values.shape[1:]))
        assert found.tobytes() == expected.tobytes()


@given(values=arrays(object, array_shapes(max_dims=3, max_side=3), elements=st.binary(max_size=200)))
def test_a_tensor_of_strings_has_their_bytes(values: Any) -> None:
    for expected, proto in zip(values.reshape(len(values), -1), tensor_protos(columns.from_array(values)), strict=True):
        assert list(proto.string_val) == expected.tolist()
        assert [dim.size for dim in proto.tensor_shape.dim] == [1, *values.shape[1:]]


def test_tensors_of_open_sizes_have_each_their_own_shape() -> None:
    column = pa.concat_arrays([columns.from_array(np.ones((2, size, 2), np.float32), is_open=True) for size in (3, 1)])
    assert [tf.make_ndarray(proto).shape for proto in tensor_protos(column)] == [(1, 3, 2)] * 2 + [(1, 1, 2)] * 2


@given(records=rows, bad=st.sets(st.integers(0, 5)), left_join=st.booleans())
def test_each_record_is_in_the_request_beside_its_own_prediction(
    records: list[bytes], bad: set[int], left_join: bool
) -> None:
    block = blocks.block_of(LOGS, written(records))
    lost = [BadRow(row, "predict", "model_error", "lost") for row in sorted(bad) if row < len(records)]
    numbers = without(len(records), lost)
    predictions = pa.RecordBatch.from_arrays([pa.array(numbers * 1e300)], ["y"])
    layout = JOINED._replace(error="error" if left_join else None)
    part = joined_bytes(LOGS.writer.write(block, lost, predictions, layout).blocks)
    written_rows = list(range(len(records))) if left_join else numbers.tolist()
    for row, log in zip(written_rows, logs(part), strict=True):
        key = {"key": f"s#{block.positions[row]}".encode()}
        request, found = log.predict_log.request, outputs(log)
        assert request.inputs["examples"].string_val == [records[row]]
        assert (
            request.model_spec.signature_name == log.predict_log.response.model_spec.signature_name == "serving_default"
        )
        if row in numbers:
            assert found == {"score": [row * 1e300], "key": [key["key"]]}
        else:
            assert found.keys() == {"error", "key"}
            assert b"model_error" in found["error"][0]
    values = LOGS.writer.read_back(part).values()
    assert [row["x"] for row in values] == [block.values()[row]["x"] for row in written_rows]
    assert [row.get("score") for row in values] == [[row * 1e300] if row in numbers else None for row in written_rows]
    assert (
        formats.load(SPEC.of_parts).reader.parse(blocks.raws(LOGS.writer.read_back(part)), range(len(values))).values()
        == values
    )


@pytest.mark.parametrize(
    ("layout", "record"),
    [
        (JOINED, b"\xff\xd8"),
        (JOINED._replace(exclude=("record",)), None),
        (JOINED._replace(row=False, key=None), None),
        (JOINED._replace(row=False, key=None, key_field="record"), b"\xff\xd8"),
    ],
)
def test_a_record_of_any_bytes_is_the_request(layout: Layout, record: bytes | None) -> None:
    block = blocks.block_of(WHOLE, written([b"\xff\xd8", b"", b"lost"]))
    layout = layout._replace(error="error")
    lost = [BadRow(2, "predict", "model_error", "lost")]
    predictions = pa.RecordBatch.from_arrays([pa.array([1, 2], pa.int32())], ["y"])
    part = joined_bytes(WHOLE.writer.write(block, lost, predictions, layout).blocks)
    requests = [log.predict_log.request.inputs for log in logs(part)]
    if record is None:
        assert [dict(request) for request in requests] == [{}] * 3
    else:
        assert [request["examples"].string_val[0] for request in requests] == [record, b"", b"lost"]
        assert [row["record"] for row in WHOLE.writer.read_back(part).values()] == [[record], [b""], [b"lost"]]
    assert [outputs(log).get("score") for log in logs(part)] == [[1], [2], None]


def test_a_request_has_the_chosen_features() -> None:
    made = example(x=floats(1.0), z=floats(2.0))
    block = blocks.block_of(LOGS, written([made, b"\xff"]))
    predictions = pa.RecordBatch.from_arrays([pa.array([1])], ["y"])
    layout = JOINED._replace(include=("x",), error="error")
    bad = [BadRow(1, "read", "not_example", "no Example")]
    part = joined_bytes(LOGS.writer.write(block, bad, predictions, layout).blocks)
    first, second = logs(part)
    assert first.predict_log.request.inputs["examples"].string_val == [example(x=floats(1.0))]
    assert not second.predict_log.request.inputs


def test_a_prediction_of_a_field_that_the_row_has_is_a_dead_letter() -> None:
    block = blocks.block_of(LOGS, written([example(score=floats(1.0))]))
    predictions = pa.RecordBatch.from_arrays([pa.array([1])], ["y"])
    (bad,) = LOGS.writer.write(block, [], predictions, JOINED).bad
    assert (bad.reason, bad.stage) == ("collision", "write")
