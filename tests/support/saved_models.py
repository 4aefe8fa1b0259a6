"""A matrix of models: kinds of model by ways to save them, each with rows and the model's own results."""

import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pipeline.model.keras_export import export_keras

v1, layers = tf.compat.v1, keras.layers
Arrays = dict[str, np.ndarray]
ROWS = 6
KEYS = np.arange(ROWS, dtype=np.int32) + 3
WORDS = np.array([b"a", b"b", b"c", b"unknown", b"", b"a"], object)
SAVE, MODULE, EXPORT, ARCHIVE, FILE = "tf.saved_model.save", "tf.Module", "model.export", "ExportArchive", ".keras"


class Saved(NamedTuple):
    """A SavedModel, rows for it, and the results of the model when Python calls it directly.

    Attributes:
        path: Its folder.
        rows: Arrays by input, each (batch, …); a single input may have any name.
        expected: Arrays by output, each (batch, …); a single output may have any name.
    """

    path: str
    rows: Arrays
    expected: Arrays


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=(ROWS, *shape)).astype(np.float32)


def call(model: keras.Model, given: Mapping[str, Any]) -> dict[str, Any]:
    """Calls a model with its only input, named x, or with all of its inputs by name."""
    answer = model(given["x"] if list(given) == ["x"] else given, training=False)
    return answer if isinstance(answer, dict) else {"y": answer}


def arrays(answer: Mapping[str, Any]) -> Arrays:
    return {name: np.asarray(value) for name, value in answer.items()}


# Models of Keras 3: the name in the docs -> a function that makes the model and rows for it


@functools.cache
def sequential() -> tuple[keras.Model, Arrays]:
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)]
    )
    model.compile("adam", "mse")
    model.fit(numbers(3), numbers(1), epochs=2, verbose=0)
    return model, {"x": numbers(3)}


@functools.cache
def functional() -> tuple[keras.Model, Arrays]:
    """Two inputs, two outputs, and a layer that is used twice."""
    x, z = keras.Input((3,), name="x"), keras.Input((2,), name="z")
    twice, other = layers.Dense(3), layers.Dense(2)
    outputs = {"a": other(layers.Concatenate()([twice(twice(x)), z])), "b": layers.Dense(1)(x)}
    return keras.Model({"x": x, "z": z}, outputs), {"x": numbers(3), "z": numbers(2)}


@keras.saving.register_keras_serializable("tests")
class Own(keras.Model):
    """A subclass with many variables of the same shape, which the code under test must not confuse."""

    def build(self, shape: Any) -> None:
        self.factors = [
            self.add_weight(shape=(shape[-1],), initializer=keras.initializers.Constant(n + 2.0)) for n in range(5)
        ]
        super().build(shape)

    def call(self, x: Any) -> Any:
        for factor in self.factors:
            x = x * factor + factor
        return x


@functools.cache
def subclass() -> tuple[keras.Model, Arrays]:
    model = Own()
    model.build((None, 3))
    return model, {"x": numbers(3)}


@functools.cache
def normalization() -> tuple[keras.Model, Arrays]:
    normalize = layers.Normalization()
    normalize.adapt(numbers(3))
    return keras.Sequential([keras.Input((3,)), normalize, layers.Dense(1)]), {"x": numbers(3)}


@functools.cache
def lookup() -> tuple[keras.Model, Arrays]:
    words, index = keras.Input((1,), dtype="string", name="words"), layers.StringLookup()
    index.adapt(np.array(["a", "b", "a"]))
    embedded = layers.Flatten()(layers.Embedding(4, 3)(index(words)))
    back = layers.StringLookup(vocabulary=index.get_vocabulary(), invert=True)(index(words))
    outputs = {"y": layers.Dense(1)(embedded), "word": back}
    return keras.Model({"words": words}, outputs), {"words": WORDS.reshape(-1, 1)}


@functools.cache
def lstm() -> tuple[keras.Model, Arrays]:
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4), layers.Dense(1)])
    return model, {"x": numbers(5, 3)}


KERAS = {
    "`Sequential`, trained": sequential,
    "Functional, with two inputs and outputs": functional,
    "a subclass of `Model`": subclass,
    "`Normalization`": normalization,
    "`StringLookup`, `Embedding`": lookup,
    "`LSTM`": lstm,
}


def save(model: keras.Model, rows: Arrays, way: str, folder: Path) -> str:
    """Saves a model of Keras 3 in one of the usual ways."""
    path = str(folder)
    specs = {name: tf.TensorSpec([None, *v.shape[1:]], tf.as_dtype(v.dtype), name) for name, v in rows.items()}
    if way == SAVE:
        tf.saved_model.save(model, path)
    elif way == MODULE:
        tf.saved_model.save(holder := Holder(model, specs), path, signatures=holder.signature)
    elif way == EXPORT:
        model.export(path, verbose=False)
    elif way == ARCHIVE:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serving_default", Holder(model, specs).serve)
        archive.write_out(path, verbose=False)
    else:
        model.save(folder.with_suffix(".keras"))
        export_keras(str(folder.with_suffix(".keras")), path)
    return path


class Holder(tf.Module):
    """A module that holds a Keras 3 model."""

    def __init__(self, model: keras.Model, specs: dict[str, tf.TensorSpec]) -> None:
        super().__init__()
        self.model = model

        def serve(**given: tf.Tensor) -> dict[str, tf.Tensor]:
            return call(model, given)

        self.serve = tf.function(serve)
        self.signature = self.serve.get_concrete_function(**specs)


def keras_3(name: str, way: str) -> Callable[[Path], Saved]:
    def make(folder: Path) -> Saved:
        model, rows = KERAS[name]()
        expected = arrays(call(model, {name: tf.constant(value) for name, value in rows.items()}))
        return Saved(save(model, rows, way, folder), rows, expected)

    return make


# The two styles of a model with a key


def with_function(way: str) -> Callable[[Path], Saved]:
    """Wraps the model in a function that returns the key."""

    def make(folder: Path) -> Saved:
        model, rows = sequential()

        @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None], dtype=tf.int32)])
        def add_key(features: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"prediction": model(features, training=False), "key": key}

        if way == ARCHIVE:
            archive = keras.export.ExportArchive()
            archive.track(model)
            add_key.get_concrete_function()
            archive.add_endpoint("serving_default", add_key)
            archive.write_out(str(folder), verbose=False)
        else:
            holder = model
            if way == MODULE:
                holder = tf.Module()
                holder.model = model
            tf.saved_model.save(holder, str(folder), signatures={"serving_default": add_key})
        given = {"features": rows["x"], "key": KEYS}
        return Saved(str(folder), given, arrays(add_key(*given.values())))

    return make


def with_column(way: str) -> Callable[[Path], Saved]:
    """Wraps the model in a model whose last column is the key."""

    def make(folder: Path) -> Saved:
        model, rows = sequential()
        features, key = keras.Input((3,), name="features"), keras.Input((), name="key", dtype="int32")
        column = keras.ops.cast(layers.Reshape((1,))(key), "float32")
        both = layers.Concatenate(name="prediction_with_key")([model(features), column])
        wrapper = keras.Model({"features": features, "key": key}, both)
        given = {"features": rows["x"], "key": KEYS}
        return Saved(save(wrapper, given, way, folder), given, arrays(call(wrapper, given)))

    return make


# Models without Keras


class Tables(tf.Module):
    """A plain module: variables of one shape, a vocabulary, and a mutable table."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = [tf.Variable(n + 2.0, name="Variable") for n in range(3)]
        pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0])
        self.fixed = tf.lookup.StaticHashTable(pairs, -1.0)
        self.bonus = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, -1.0)
        self.bonus.insert(tf.constant(["a"]), tf.constant([70.0]))
        self.kept = keras.Variable([3.0], name="Variable")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "word")])
    def serve(self, word: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = self.fixed.lookup(word) * self.factors[0] + self.bonus.lookup(word) * self.factors[1]
        return {"y": tf.reshape(scores + self.factors[2], [-1]), "z": tf.reshape(scores, [-1]) + self.kept}


def module(folder: Path) -> Saved:
    made = Tables()
    tf.saved_model.save(made, str(folder), signatures={"serving_default": made.serve})
    return Saved(str(folder), {"word": WORDS}, arrays(made.serve(tf.constant(WORDS))))


def tf_1(folder: Path) -> Saved:
    """A model as TensorFlow 1 saved it: variables of both kinds, one of them on a GPU, and a table."""
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(allow_soft_placement=True)) as session:
        x, word = v1.placeholder(tf.float32, [None, 3], "x"), v1.placeholder(tf.string, [None], "word")
        with tf.device("/gpu:7"):
            first = v1.get_variable("first", [3, 1], use_resource=False)
        second = v1.get_variable("second", [3, 1], use_resource=True)
        pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0])
        y = x @ first + x @ second + tf.lookup.StaticHashTable(pairs, -1.0).lookup(word)[:, None]
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        v1.saved_model.simple_save(
            session, str(folder), {"x": x, "word": word}, {"y": y}, legacy_init_op=v1.tables_initializer()
        )
        rows = {"x": numbers(3), "word": WORDS}
        return Saved(str(folder), rows, {"y": session.run(y, {x: rows["x"], word: WORDS})})


def estimator(folder: Path) -> Saved:
    """A model as an estimator exported it: serialized Examples in, a regression out; main_op initializes its tables."""
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], "input_example_tensor")
        features = v1.parse_example(examples, {"x": tf.io.FixedLenFeature([3], tf.float32)})
        outputs = features["x"] @ v1.get_variable("kernel", [3, 1])
        session.run(v1.global_variables_initializer())
        definition = v1.saved_model.regression_signature_def(examples, outputs)
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": definition}, main_op=v1.tables_initializer()
        )
        builder.save()
        given = np.array([example(x) for x in numbers(3)], object)
        return Saved(str(folder), {"inputs": given}, {"outputs": session.run(outputs, {examples: given})})


def example(x: np.ndarray) -> bytes:
    feature = {"x": tf.train.Feature(float_list=tf.train.FloatList(value=x))}
    return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


# Runs in another process, because two versions of Keras cannot be in one.
TF_KERAS = """
import json, sys
import numpy as np, tf_keras as keras, tensorflow as tf
given = np.load(sys.argv[1])
keras.utils.set_random_seed(1)
layers, expected = keras.layers, {}

def save(name, model, *given):
    model.compile("adam", "mse")
    model.fit(given if len(given) > 1 else given[0], np.ones((6, 1)), verbose=0)
    expected[name] = model(given if len(given) > 1 else given[0]).numpy()
    model.save(f"{sys.argv[2]}/{name}", save_format="tf")

normalize = layers.Normalization()
normalize.adapt(given["x"])
x = keras.Input((3,), name="x")
save("optimizer", keras.Model(x, layers.Dense(1)(normalize(x))), given["x"])
words, sequence = keras.Input((1,), dtype="string", name="words"), keras.Input((5, 3), name="sequence")
index = layers.StringLookup(vocabulary=["a", "b"])
both = [layers.Flatten()(layers.Embedding(3, 2)(index(words))), layers.LSTM(4)(sequence)]
save("lookup", keras.Model([words, sequence], layers.Dense(1)(layers.Concatenate()(both))), given["words"], given["sequence"])
np.savez(f"{sys.argv[2]}/expected.npz", **expected)
"""


def tf_keras(folder: Path) -> dict[str, Saved]:
    """Models of Keras 2 with their optimizers."""
    folder.mkdir()
    rows = {"x": numbers(3), "words": WORDS.astype("S").reshape(-1, 1), "sequence": numbers(5, 3)}
    np.savez(folder / "rows.npz", **rows)
    command = [sys.executable, "-c", TF_KERAS, str(folder / "rows.npz"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    expected = np.load(folder / "expected.npz")
    words = {"words": WORDS.reshape(-1, 1), "sequence": rows["sequence"]}
    given = {"optimizer": {"x": rows["x"]}, "lookup": words}
    return {name: Saved(str(folder / name), given[name], {"y": expected[name]}) for name in given}


MATRIX: dict[tuple[str, str], Callable[[Path], Saved]] = {
    **{(name, way): keras_3(name, way) for name in KERAS for way in (SAVE, MODULE, EXPORT, ARCHIVE)},
    # Each one starts a process; tests/pipeline/model/test_keras_export.py tests others.
    **{(name, FILE): keras_3(name, FILE) for name in ("`Sequential`, trained", "`StringLookup`, `Embedding`")},
    **{("a function that adds a key", way): with_function(way) for way in (SAVE, MODULE, ARCHIVE)},
    **{("a model that adds the key as a column", way): with_column(way) for way in (SAVE, EXPORT)},
    ("a plain `tf.Module`, with variables and tables", SAVE): module,
    ("TensorFlow 1, with variables and a table", "simple_save"): tf_1,
    ("TensorFlow 1, an estimator's Examples", "SavedModelBuilder"): estimator,
}


def two_signatures(folder: Path) -> Saved:
    """Signature `other` returns three times the prediction; the rows and values here are for that signature."""
    model, rows = normalization()
    module = Holder(model, {"x": tf.TensorSpec([None, 3], name="x")})
    other = tf.function(lambda x: {"z": model(x) * 3.0}).get_concrete_function(x=tf.TensorSpec([None, 3], name="x"))
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.signature, "other": other})
    return Saved(str(folder), rows, {"z": np.asarray(model(rows["x"]) * 3.0)})


# Models in which a variable has no value


def half_saved(folder: Path) -> str:
    """Output y reads a saved variable, z reads one that was not saved."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        kept, lost = v1.get_variable("kept", initializer=2.0), v1.get_variable("lost", initializer=3.0)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        definition = v1.saved_model.predict_signature_def({"x": x}, {"y": x * kept, "z": x * lost})
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": definition}, saver=v1.train.Saver([kept])
        )
        builder.save()
    return str(folder)
