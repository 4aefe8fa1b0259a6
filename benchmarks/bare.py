"""Calls the model's signature on batches in memory: the upper bound for any program that scores rows."""

import argparse

import numpy as np
import tensorflow as tf

from transforms.columns import batch_rows
from transforms.records import Feature

KEY = "key"
BATCHES = 8  # different batches, so that not all of them stay in a core's cache


def main() -> None:
    """Scores the requested number of random rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True, type=int)
    given = parser.parse_args()
    signature = tf.saved_model.load(given.model).signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    key = inputs.pop(KEY)
    specs = inputs.values()
    size = batch_rows([Feature(s.name, s.dtype.name, tuple(s.shape[1:]), (s.name,)) for s in specs])
    random = np.random.default_rng(1)
    batches = [
        {s.name: tf.constant(random.normal(size=(size, *s.shape[1:])), s.dtype) for s in specs} for _ in range(BATCHES)
    ]
    scored = 0
    while scored < given.rows:
        count = min(size, given.rows - scored)
        batch = batches[scored // size % BATCHES]
        if count < size:
            batch = {name: tensor[:count] for name, tensor in batch.items()}
        answer = signature(**batch, **{KEY: tf.range(count, dtype=key.dtype)})
        scored += len(answer["prediction"].numpy())
    if scored != given.rows:
        raise ValueError(f"{scored} predictions for {given.rows} rows")


if __name__ == "__main__":
    main()
