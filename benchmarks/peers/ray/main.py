"""Batch scoring on Ray Data, as its documentation shows it: `map_batches` with a class, which runs in actors.

https://docs.ray.io/en/latest/data/batch_inference.html
"""

import argparse
import os
import secrets
import tempfile
from pathlib import Path

import numpy as np
import ray

BATCH_ROWS = 4096


class Predictor:
    """Holds the model in an actor."""

    def __init__(self, folder: str) -> None:
        """Loads the model."""
        import tensorflow as tf  # only here, because the driver needs no TensorFlow

        self.tf = tf
        self.model = tf.saved_model.load(folder)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Adds predictions to rows."""
        features = self.tf.constant(np.stack(batch["features"]), self.tf.float32)
        answer = self.model.signatures["serving_default"](features=features, key=self.tf.range(len(features)))
        return {**batch, "prediction": answer["prediction"].numpy()}


def main() -> None:
    """Scores one file on all cores."""
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--model", "--output"):
        parser.add_argument(flag, required=True, type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        # Without a token, Ray writes one to the home folder.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex()
        ray.init(include_dashboard=False, _temp_dir=scratch)
        rows = ray.data.read_json(str(given.input), lines=True)
        scored = rows.map_batches(
            Predictor,
            fn_constructor_args=[str(given.model)],
            batch_size=BATCH_ROWS,
            # An actor holds a core while it lives; reading and writing need a core, too.
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        scored.write_json(str(given.output))
        ray.shutdown()


if __name__ == "__main__":
    main()
