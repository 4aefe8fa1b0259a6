"""Batch scoring with a join on Beam, each step written as Beam's documentation shows it.

https://beam.apache.org/documentation/ml/about-ml/ (RunInference, keyed handlers, custom handlers)
https://beam.apache.org/documentation/transforms/python/aggregation/cogroupbykey/
"""

import argparse
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions


class SavedModelHandler(ModelHandler[np.ndarray, PredictionResult, Any]):
    """A custom handler, because Beam's TFModelHandlerNumpy cannot load a SavedModel with Keras 3."""

    def __init__(self, folder: str) -> None:
        """Takes the SavedModel's folder."""
        self.folder = folder

    def load_model(self) -> Any:
        """Loads the model."""
        return tf.saved_model.load(self.folder)

    def run_inference(
        self, batch: Sequence[np.ndarray], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        """Returns one result for each row."""
        del inference_args  # this program has none
        # Beam's keyed handler keeps the keys. This model also requires a key input; its values do not matter.
        keys = tf.range(len(batch), dtype=tf.int32)
        answer = model.signatures["serving_default"](features=tf.constant(np.stack(batch)), key=keys)
        return [PredictionResult(*pair) for pair in zip(batch, answer["prediction"].numpy(), strict=True)]


def with_key(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Pairs a row with a new key."""
    return str(uuid.uuid4()), row


def features(key: str, row: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    """Returns a row's key and its model input."""
    return key, np.array(row["features"], np.float32)


def joined(_: str, sides: Mapping[str, Iterable[Any]]) -> str:
    """Joins a row with its prediction, as a line of JSON."""
    (row,), (result,) = sides["rows"], sides["results"]
    return json.dumps({**row, "prediction": result.inference.tolist()})


def main() -> None:
    """Runs the pipeline in this process, with one worker."""
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--model", "--output"):
        parser.add_argument(flag, required=True)
    given = parser.parse_args()
    parts = os.path.join(given.output, "part")
    options = PipelineOptions(["--runner=FnApiRunner", "--direct_num_workers=1"])
    with beam.Pipeline(options=options) as root:
        rows = (
            root
            | "ReadLines" >> beam.io.ReadFromText(given.input)
            | "ParseJson" >> beam.Map(json.loads)
            | "AddKey" >> beam.Map(with_key)
        )
        results = (
            rows
            | "TakeFeatures" >> beam.MapTuple(features)
            | "Predict" >> RunInference(KeyedModelHandler(SavedModelHandler(given.model)))
        )
        (
            {"rows": rows, "results": results}
            | "Join" >> beam.CoGroupByKey()
            | "FormatJson" >> beam.MapTuple(joined)
            | "WriteLines" >> beam.io.WriteToText(parts, file_name_suffix=".jsonl")
        )


if __name__ == "__main__":
    main()
