"""Batch scoring on Spark, as its documentation shows it: `predict_batch_udf` on a DataFrame.

https://spark.apache.org/docs/latest/api/python/reference/api/pyspark.ml.functions.predict_batch_udf.html
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType

SCHEMA = "features array<double>, name string"
FEATURES = 13
BATCH_ROWS = 4096


def predictor(folder: str) -> Callable[[], Callable[[np.ndarray], np.ndarray]]:
    """Returns the function that loads the model; `predict_batch_udf` calls it once in each worker."""

    def load() -> Callable[[np.ndarray], np.ndarray]:
        import tensorflow as tf  # only here, because the driver needs no TensorFlow

        model = tf.saved_model.load(folder)

        def predict(features: np.ndarray) -> np.ndarray:
            keys = tf.range(len(features))
            answer = model.signatures["serving_default"](features=tf.constant(features, tf.float32), key=keys)
            return answer["prediction"].numpy()

        return predict

    return load


def main() -> None:
    """Scores one file on all cores."""
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--model", "--output"):
        parser.add_argument(flag, required=True, type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PYSPARK_PYTHON"] = sys.executable
        # Spark must not listen on the network, nor leave files in shared folders.
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        os.environ["JAVA_TOOL_OPTIONS"] = f"-Djava.io.tmpdir={scratch} -XX:-UsePerfData"
        spark = (
            SparkSession.builder.master("local[*]")
            .config("spark.local.dir", scratch)
            .config("spark.sql.warehouse.dir", scratch)
            .config("spark.ui.enabled", "false")
            .getOrCreate()
        )
        predict = predict_batch_udf(
            predictor(str(given.model)),
            return_type=ArrayType(FloatType()),
            batch_size=BATCH_ROWS,
            input_tensor_shapes=[[FEATURES]],
        )
        rows = spark.read.schema(SCHEMA).json(given.input.as_uri())
        rows.withColumn("prediction", predict("features")).write.json(given.output.as_uri())
        spark.stop()


if __name__ == "__main__":
    main()
