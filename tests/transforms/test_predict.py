"""Predict calls the model for each chunk at once, and holds no chunk back."""

import apache_beam as beam
import numpy as np
import pyarrow as pa

from transforms.predict import KeyedChunkHandler, Predict
from transforms.records import Feature, Features
from transforms.saved_model.model import Contract, Model, Tensor

X, Y = (Tensor(name, "float32", (), f"{name}:0") for name in "xy")
happened: list[str] = []


def load() -> Model:
    def call(x: np.ndarray) -> tuple[np.ndarray]:
        happened.append(f"called with {x.tolist()}")
        return (x,)

    return Model({"x": X}, {"y": Y}, call)


def come(number: float) -> Features:
    happened.append(f"{number} comes")
    return Features(str(number), pa.record_batch({"x": pa.array([number], pa.float32())}))


def test_no_chunk_is_held_back_until_the_next_one_comes() -> None:
    handler = KeyedChunkHandler(load, Contract("s", (X,), (Y,)), (Feature("x", "float32", (), ("x",)),), 1)
    happened.clear()
    with beam.Pipeline("FnApiRunner") as root:
        root | beam.Create([1.0, 2.0], reshuffle=False) | beam.Map(come).with_output_types(Features) | Predict(handler)
    assert happened == ["1.0 comes", "called with [1.0]", "2.0 comes", "called with [2.0]"]
