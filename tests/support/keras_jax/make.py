"""Makes the model beside this file: a Keras model that the JAX backend exported.

Install in a separate environment: pip install keras==3.15.1 tensorflow-cpu==2.21.0 jax==0.10.2
Then: KERAS_BACKEND=jax python tests/support/keras_jax/make.py
"""

import json
from pathlib import Path

import keras
import numpy as np

HERE = Path(__file__).parent


def main() -> None:
    """Writes `model/`, and `predictions.json` with Keras's own predictions."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential([layers.Input((3,), name="x"), layers.Dense(4, activation="relu"), layers.Dense(1)])
    model.export(str(HERE / "model"), format="tf_saved_model", verbose=False)
    rows = np.arange(12, dtype="float32").reshape(4, 3)
    found = {"x": rows.tolist(), "predictions": model.predict(rows, verbose=0).tolist()}
    (HERE / "predictions.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
