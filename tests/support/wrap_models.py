"""A model of each kind that TensorFlow Serving loads, and rows for it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pipeline.model.keras_export import export_keras
from tests.conftest import BOSTON

v1 = tf.compat.v1
# The last three: both ends of int32, and the first integer that float32 cannot represent.
KEYS = np.array([7, 0, 3, -(2**31), 2**31 - 1, 2**24 + 1], np.int32)
ROWS = len(KEYS)
WORDS = np.array([b"a", b"b", b"c", b"unknown", b"", b"a"], object)


class Case(NamedTuple):
    """A model and rows for it."""

    path: str
    rows: dict[str, np.ndarray]


# Runs in another process, because two versions of Keras cannot be in one. It uses an optimizer of that version.
KERAS_2 = """
import sys
import numpy as np, tf_keras
tf_keras.utils.set_random_seed(1)
inputs = tf_keras.Input((13,), name="features")
outputs = tf_keras.layers.Dense(1, name="price")(tf_keras.layers.Dense(8, activation="relu")(inputs))
model = tf_keras.Model(inputs, outputs)
model.compile(tf_keras.optimizers.legacy.Adam(), "mse")
model.fit(np.random.rand(64, 13), np.random.rand(64), verbose=0)
model.save(sys.argv[1], save_format="tf")
"""


def make_keras_2(folder: Path) -> Case:
    subprocess.run([sys.executable, "-c", KERAS_2, str(folder)], check=True, capture_output=True)
    return Case(str(folder), {"features": random(13)})


def make_keras_3(folder: Path) -> Case:
    export_keras(str(BOSTON / "model.keras"), str(folder))
    return Case(str(folder), {"features": random(13)})


def make_keras_file(folder: Path) -> Case:
    del folder  # the model exists already
    with (BOSTON / "tutorial.jsonl").open() as file:
        rows = [json.loads(line)["features"] for line in file][:ROWS]
    return Case(str(BOSTON / "model.keras"), {"features": np.array(rows, np.float32)})


def make_two_by_two(folder: Path) -> Case:
    """A model with a string lookup and a sequence; two inputs, two outputs."""
    keras.utils.set_random_seed(2)
    word = keras.Input((1,), dtype="string", name="word")
    sequence = keras.Input((5, 3), name="sequence")
    index = keras.layers.StringLookup(vocabulary=["a", "b"])(word)
    embedded = keras.layers.Flatten()(keras.layers.Embedding(3, 4)(index))
    both = keras.layers.Concatenate()([embedded, keras.layers.LSTM(4)(sequence)])
    outputs = {"price": keras.layers.Dense(1)(both), "kind": keras.layers.Dense(3)(both)}
    keras.Model([word, sequence], outputs).export(str(folder), verbose=False)
    return Case(str(folder), {"word": WORDS.reshape(-1, 1), "sequence": random(5, 3)})


class Tables(tf.Module):
    """A plain module: a vocabulary file, a mutable table, and a vector of predictions."""

    def __init__(self, vocabulary: str) -> None:
        super().__init__()
        self.scale = tf.Variable(0.1)
        layout = tf.lookup.TextFileIndex
        lines = tf.lookup.TextFileInitializer(vocabulary, tf.string, layout.WHOLE_LINE, tf.int64, layout.LINE_NUMBER)
        self.lines = tf.lookup.StaticHashTable(lines, -1)
        self.bonus = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, -1.0)
        self.bonus.insert(tf.constant(["a"]), tf.constant([70.0]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "word")])
    def score(self, word):
        line = tf.cast(self.lines.lookup(word), tf.float32)
        # TensorFlow does not know the shape of a table's result.
        return {"score": tf.reshape(line * self.scale + self.bonus.lookup(word), [-1])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "word")])
    def classify(self, word):
        return {"line": self.lines.lookup(word)}


def make_module(folder: Path) -> Case:
    vocabulary = folder.with_suffix(".txt")
    vocabulary.write_text("a\nb\n")
    module = Tables(str(vocabulary))
    signatures = {"serving_default": module.score, "classify": module.classify}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    # From now on the model must read the copy in its own assets.
    vocabulary.unlink()
    return Case(str(folder), {"word": WORDS})


def make_tf1(folder: Path) -> Case:
    """A model as TensorFlow 1 saved it: no functions, reference variables, a table's op in a collection."""
    vocabulary = folder.with_suffix(".txt")
    vocabulary.write_text("a\nb\n")
    layout = tf.lookup.TextFileIndex
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        word = v1.placeholder(tf.string, [None], "word")
        weights = v1.get_variable(
            "weights", [4, 2], use_resource=False, initializer=v1.random_normal_initializer(seed=1)
        )
        lines = tf.lookup.TextFileInitializer(
            str(vocabulary), tf.string, layout.WHOLE_LINE, tf.int64, layout.LINE_NUMBER
        )
        index = tf.cast(tf.lookup.StaticHashTable(lines, -1).lookup(word), tf.float32)
        outputs = {"y": tf.matmul(x, weights) + index[:, None]}
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        v1.saved_model.simple_save(
            session, str(folder), {"x": x, "word": word}, outputs, legacy_init_op=v1.tables_initializer()
        )
    return Case(str(folder), {"x": random(4), "word": WORDS})


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(ROWS, *shape)).astype(np.float32)


MAKERS = {
    "keras-file": make_keras_file,
    "keras-3": make_keras_3,
    "keras-2": make_keras_2,
    "two-by-two": make_two_by_two,
    "module": make_module,
    "tf1": make_tf1,
}


def save(function, folder: Path) -> str:
    module = tf.Module()
    module.function = function
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function})
    return str(folder)


def save_identity(folder: Path, name="x", dtype=tf.float32, shape=(None, 2), outputs=("y",)) -> str:
    @tf.function(input_signature=[tf.TensorSpec(shape, dtype, name)])
    def identity(value):
        return {output: tf.identity(value) for output in outputs}

    return save(identity, folder)
