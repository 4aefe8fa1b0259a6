"""Batch scoring with tfx_bsl's RunInference, as TFX's BulkInferrer does it: each row becomes a tf.Example.

https://www.tensorflow.org/tfx/tfx_bsl/api_docs/python/tfx_bsl/public/beam/RunInference
"""

import argparse
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tfx_bsl.public.beam import RunInference
from tfx_bsl.public.proto.model_spec_pb2 import InferenceSpecType, SavedModelSpec

FEATURES = {"features": tf.io.FixedLenFeature([13], tf.float32)}


def kept_for_examples(folder: Path) -> Path:
    """Returns the folder of the model in the form that RunInference needs; saves it on first use, beside the rows."""
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    name = f"examples-model-{hashlib.sha256(content).hexdigest()[:16]}"
    kept = Path(tempfile.gettempdir(), f"keyjoin-benchmarks-{os.getuid()}", name)
    if not kept.exists():
        unfinished = kept.with_suffix(f".{os.getpid()}.tmp")
        save_for_examples(str(folder), str(unfinished))
        unfinished.rename(kept)
    return kept


def save_for_examples(folder: str, target: str) -> None:
    """Saves a model whose only input is serialized tf.Examples, because RunInference feeds no other input."""
    model = tf.saved_model.load(folder)
    served = tf.Module()
    served.model = model  # A SavedModel keeps the variables that its root holds.

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def predict(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(examples, FEATURES)["features"]
        answer = model.signatures["serving_default"](features=features, key=tf.range(tf.size(examples)))
        return {"prediction": answer["prediction"]}

    tf.saved_model.save(served, target, signatures=predict)


def with_example(line: str) -> tuple[str, bytes]:
    """Returns a row, which is its own key, and its tf.Example for the model."""
    values = tf.train.FloatList(value=json.loads(line)["features"])
    features = tf.train.Features(feature={"features": tf.train.Feature(float_list=values)})
    return line, tf.train.Example(features=features).SerializeToString()


def joined(line: str, log: PredictionLog) -> str:
    """Joins a row with its prediction, as a line of JSON."""
    row: dict[str, Any] = json.loads(line)
    prediction = tf.make_ndarray(log.predict_log.response.outputs["prediction"])[0]
    return json.dumps({**row, "prediction": prediction.tolist()})


def main() -> None:
    """Runs the pipeline in this process, with one worker."""
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--model", "--output"):
        parser.add_argument(flag, required=True, type=Path)
    given = parser.parse_args()
    options = PipelineOptions(["--runner=FnApiRunner", "--direct_num_workers=1"])
    spec = SavedModelSpec(model_path=str(kept_for_examples(given.model)))
    with beam.Pipeline(options=options) as root:
        (
            root
            | "ReadLines" >> beam.io.ReadFromText(str(given.input))
            | "MakeExamples" >> beam.Map(with_example)
            | "Predict" >> RunInference(InferenceSpecType(saved_model_spec=spec))
            | "Join" >> beam.MapTuple(joined)
            | "WriteLines" >> beam.io.WriteToText(str(given.output / "part"), file_name_suffix=".jsonl")
        )


if __name__ == "__main__":
    main()
