"""`--prediction_logs` through the command line, beside what TFX's own inference writes."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tfx_bsl.public.beam import RunInference
from tfx_bsl.public.proto.model_spec_pb2 import InferenceSpecType, SavedModelSpec

from tests.conftest import Result
from tests.support import models
from tests.support.examples import example, floats, read_back, written

RECORDS = [example(x=floats(float(i), 0.5, -1.0)) for i in range(20)]


def parsing(folder: Path) -> str:
    """A model that takes serialized Examples, with outputs of several dtypes and shapes."""

    def call(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([3], tf.float32)})["x"]
        return {
            "total": tf.reduce_sum(x, axis=1),
            "column": x[:, :1],
            "doubles": tf.cast(x, tf.float64) * 0.1,
            "count": tf.cast(x[:, 0], tf.int64),
            "text": tf.strings.as_string(x[:, :2], precision=1),
            "positive": x > 0,
        }

    return models.save(folder, call, models.spec("examples", dtype=tf.string))


def logs(done: Result) -> list[PredictionLog]:
    return [PredictionLog.FromString(record) for part in done.parts() for record in read_back([part.read_bytes()])]


def spelled(log: PredictionLog) -> dict[str, Any]:
    """Everything in a log: the request as it is, and the outputs as arrays with their dtypes."""
    response = log.predict_log.response
    arrays = {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
    return {
        "request": log.predict_log.request.SerializeToString(deterministic=True),
        "outputs": {name: (array.dtype.str, array.shape, array.tolist()) for name, array in sorted(arrays.items())},
        "spec": response.model_spec.SerializeToString(),
    }


def test_logs_are_those_of_tfx(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    (tmp_path / "in.tfrecord").write_bytes(written(RECORDS))
    flags = (f"--input={tmp_path}/in.tfrecord", f"--model={model(parsing)}")
    done = keyjoin("run", *flags, "--prediction_logs", "--chunk_bytes=400")
    assert (done.code, done.err) == (0, "")
    assert len(done.parts()) > 1
    assert '"total": [' in done.out
    found: list[PredictionLog] = []
    target = tmp_path / "tfx"
    spec = InferenceSpecType(saved_model_spec=SavedModelSpec(model_path=model(parsing)))
    with beam.Pipeline("FnApiRunner") as root:
        inferred = root | beam.Create(RECORDS, reshuffle=False) | RunInference(spec)
        _ = inferred | beam.Map(PredictionLog.SerializeToString) | beam.io.WriteToTFRecord(str(target))
    for path in sorted(tmp_path.glob("tfx*")):
        found += [PredictionLog.FromString(record) for record in read_back([path.read_bytes()])]
    order = {record: at for at, record in enumerate(RECORDS)}
    found.sort(key=lambda log: order[log.predict_log.request.inputs["examples"].string_val[0]])
    assert list(map(spelled, logs(done))) == list(map(spelled, found))

    verified = keyjoin("verify", f"--run={done.output}", f"--model={model(parsing)}", "--rescore=20")
    assert (verified.code, verified.err) == (0, "")
    assert "20 rows" in verified.out


@pytest.mark.parametrize("bad_rows", ["apart", "null"])
def test_logs_of_dead_letters_are_replayed(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, bad_rows: str
) -> None:
    (tmp_path / "in.tfrecord").write_bytes(written([*RECORDS[:2], example(x=floats(1.0)), *RECORDS[2:4]]))
    flags = (f"--input={tmp_path}/in.tfrecord", f"--model={model(parsing)}", "--output_fields=row,key")
    done = keyjoin("run", *flags, "--prediction_logs", "--max_bad_rows=1", f"--bad_rows={bad_rows}")
    assert done.code == 0, done.err
    outputs = [set(log.predict_log.response.outputs) for log in logs(done)]
    assert [found for found in outputs if "total" not in found] == ([{"error", "key"}] if bad_rows == "null" else [])
    (letter,) = done.dead()
    fixed = tmp_path / "fixed.jsonl"
    raw = base64.b64encode(written([RECORDS[9]])).decode()
    fixed.write_text(json.dumps({"key": letter["key"], "row": raw, "row_encoding": "base64"}))
    replayed = keyjoin("replay", f"--run={done.output}", f"--rows={fixed}")
    assert replayed.code == 0, replayed.err
    requests = [log.predict_log.request.inputs["examples"].string_val[0] for log in logs(done)]
    assert requests == [*RECORDS[:2], RECORDS[9], *RECORDS[2:4]]
    assert all("total" in log.predict_log.response.outputs for log in logs(done))


def test_logs_are_for_tfrecord(keyjoin: Callable[..., Result], model: Any, lines: Any) -> None:
    done = keyjoin("check", f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.plain)}", "--prediction_logs")
    assert done.code == 2
    assert "--prediction_logs is for TFRecord files, and the input is jsonl" in done.err


def test_a_model_of_features_has_the_record_as_examples(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    (tmp_path / "in.tfrecord").write_bytes(written(RECORDS))
    done = keyjoin("run", f"--input={tmp_path}/in.tfrecord", f"--model={model(models.keyed)}", "--prediction_logs")
    assert (done.code, done.err) == (0, "")
    requests = [log.predict_log.request.inputs["examples"].string_val for log in logs(done)]
    assert requests == [[record] for record in RECORDS]
