"""keyjoin finds inputs that hold serialized tf.Examples, for every op that parses them and anywhere in the graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.conftest import Result
from tests.support import models
from transforms.saved_model.loader import load

AGE = {"age": tf.io.FixedLenFeature([], tf.float32, 0.0)}
TEXTS = models.spec("examples", dtype=tf.string)
CITY = models.spec("city", dtype=tf.string)
SCALE = models.spec("scale")
DENSE: dict[str, Any] = {"dense_keys": ["age"], "dense_defaults": [[0.0]]}


@tf.function
def parse(examples: tf.Tensor) -> tf.Tensor:
    return tf.io.parse_example(examples, AGE)["age"]


def parse_old(examples: tf.Tensor) -> tf.Tensor:
    found = tf.raw_ops.ParseExample(
        serialized=examples, names=[], sparse_keys=[], sparse_types=[], dense_shapes=[[]], **DENSE
    )
    return found.dense_values[0]  # fmt: skip


def parse_each(examples: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(lambda one: tf.io.parse_single_example(one, AGE)["age"], examples, tf.float32)


def parse_sequences(examples: tf.Tensor) -> tf.Tensor:
    return tf.io.parse_sequence_example(examples, context_features=AGE)[0]["age"]


def parse_each_sequence(examples: tf.Tensor) -> tf.Tensor:
    found = lambda one: tf.io.parse_single_sequence_example(one, context_features=AGE)[0]["age"]  # noqa: E731
    return tf.map_fn(found, examples, tf.float32)


def parse_in_branch(examples: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.size(examples) > 3, lambda: parse(examples), lambda: parse(examples) + 0.0)


@tf.function
def cleaned(examples: tf.Tensor, city: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.reshape(examples, [-1]), city


def length(text: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(text), tf.float32)


SIGNATURES: dict[str, tuple[Callable[..., tf.Tensor], list[tf.TensorSpec], set[str]]] = {
    "in a function": (parse, [TEXTS], {"examples"}),
    "ParseExample": (parse_old, [TEXTS], {"examples"}),
    "ParseSingleExample in a loop": (parse_each, [TEXTS], {"examples"}),
    "ParseSequenceExample": (parse_sequences, [TEXTS], {"examples"}),
    "ParseSingleSequenceExample": (parse_each_sequence, [TEXTS], {"examples"}),
    "in a branch": (parse_in_branch, [TEXTS], {"examples"}),
    "vectorized": (lambda examples: tf.vectorized_map(lambda one: tf.io.parse_single_example(one, AGE)['age'], examples), [TEXTS], {"examples"}),
    "out of a function": (lambda examples: parse(cleaned(examples, examples)[0]), [TEXTS], {"examples"}),
    "beside a number": (lambda examples, scale: parse(examples) * scale, [TEXTS, SCALE], {"examples"}),
    "beside a text": (lambda city, examples: parse(examples) + length(city), [CITY, TEXTS], {"examples"}),
    "beside a text in a loop": (lambda city, examples: parse_each(examples) + length(city), [CITY, TEXTS], {"examples"}),
    "two of them": (lambda city, examples: parse(examples) + parse(city), [CITY, TEXTS], {"city", "examples"}),
    "of the model's own": (lambda city: parse(tf.fill(tf.shape(city), "")) + length(city), [CITY], set()),
    "names of Examples": (
        lambda city: tf.io.parse_example(tf.fill(tf.shape(city), ""), AGE, example_names=city)["age"],
        [CITY],
        set(),
    ),
    "none": (length, [models.spec("text", dtype=tf.string)], set()),
}  # fmt: skip


@pytest.mark.parametrize("case", SIGNATURES)
def test_exactly_the_inputs_that_are_parsed_hold_examples(tmp_path: Path, case: str) -> None:
    function, specs, expected = SIGNATURES[case]
    loaded = load(models.save(tmp_path / "m", lambda *given: {"y": function(*given)}, *specs))
    assert {name for name, tensor in loaded.inputs.items() if tensor.is_parsed} == expected


def save(folder: Path, case: str) -> str:
    function, specs, _ = SIGNATURES[case]
    return models.save(folder, lambda *given: {"y": function(*given)}, *specs)


@pytest.mark.parametrize(
    ("case", "row"),
    [
        ("in a function", {"age": 3.0}),
        ("in a function", {"age": 3.0, "city": "", "street": ""}),
        ("in a function", "some text"),
        ("beside a number", {"age": 3.0, "scale": 2.0}),
        ("beside a text", {"age": 3.0, "city": ""}),
        ("beside a text", {"age": 3.0, "city": "", "examples": ""}),
        ("two of them", {"age": 3.0, "city": "", "street": ""}),
    ],
)
def test_json_fields_are_refused_by_the_input_that_takes_examples(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, case: str, row: Any
) -> None:
    done = keyjoin("check", f"--input={lines(row)}", f"--model={save(tmp_path / 'm', case)}")
    assert done.code == 2
    assert any(f"the model's input {name} takes serialized tf.Examples" in done.err for name in SIGNATURES[case][2])
    assert "map one with --input_map" not in done.err
    written = '{"b64": …}' if isinstance(row, str) else '{"examples": {"b64": …}}'
    assert f"bytes of Examples in JSON are written {written}" in done.err


def test_records_feed_the_input_that_takes_examples_and_their_features_the_others(
    keyjoin: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "in.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(3):
            made = tf.train.Example()
            made.features.feature["age"].float_list.value.append(number)
            made.features.feature["scale"].float_list.value.append(10.0)
            writer.write(made.SerializeToString())
    done = keyjoin("run", f"--input={path}", f"--model={save(tmp_path / 'm', 'beside a number')}")
    assert done.code == 0, done.err
    records = [
        tf.train.Example.FromString(one.numpy()) for one in tf.data.TFRecordDataset(list(map(str, done.parts())))
    ]
    assert [one.features.feature["y"].float_list.value[0] for one in records] == [0.0, 10.0, 20.0]
