"""Batch scoring as a hand-written script: read a batch of lines, call the model, add the predictions, write.

It is one process without any framework but TensorFlow. The JSON library is a fast one, and TensorFlow uses all cores.
"""

import argparse
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import tensorflow as tf

BATCH_ROWS = 4096


def main() -> None:
    """Scores one file."""
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--model", "--output"):
        parser.add_argument(flag, required=True, type=Path)
    given = parser.parse_args()
    model = tf.saved_model.load(str(given.model))
    predict = model.signatures["serving_default"]
    decoder, encoder = msgspec.json.Decoder(), msgspec.json.Encoder()
    given.output.mkdir()
    with given.input.open("rb") as lines, (given.output / "part-0.jsonl").open("wb") as out:
        while rows := [decoder.decode(line) for line in islice(lines, BATCH_ROWS)]:
            features = np.array([row["features"] for row in rows], np.float32)
            answer = predict(features=tf.constant(features), key=tf.range(len(rows)))
            for row, prediction in zip(rows, answer["prediction"].numpy().tolist(), strict=True):
                row["prediction"] = prediction
            out.write(encoder.encode_lines(rows))


if __name__ == "__main__":
    main()
