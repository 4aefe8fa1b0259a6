"""Ragged and sparse inputs take the rows' lists, and keep the names that the model's author gave them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keyjoin import KeyedPredict
from tests.support import examples, models
from transforms.errors import UsageError
from transforms.records import Feature
from transforms.saved_model import loader
from transforms.saved_model.composites import Composite, Part
from transforms.saved_model.model import RAGGED, SPARSE
from transforms.scoring.groups import by_shape

v1 = tf.compat.v1
ROWS: list[dict[str, Any]] = [{"x": [1, 2, 3]}, {"x": [2]}, {"x": []}, {"x": [4, 5, 6]}, {"x": [7, 8]}]
SUMS = [6.0, 2.0, 0.0, 15.0, 15.0]
WIDE = [{"x": [1, 0, 0, 5]}, {"x": [0, 0, 0, 0]}, {"x": [0, 2, 0, 0]}]


def ragged(folder: Path) -> str:
    """Returns the sums of a ragged x."""
    return models.save(folder, lambda x: {"y": tf.reduce_sum(x, 1)}, tf.RaggedTensorSpec([None, None], tf.float32))


def sparse(folder: Path) -> str:
    """Returns the sums of a sparse x of four columns, and the number of its values."""

    def call(x: tf.SparseTensor) -> dict[str, tf.Tensor]:
        there = tf.SparseTensor(x.indices, tf.ones_like(x.values), x.dense_shape)
        return {"y": tf.sparse.reduce_sum(x, 1), "there": tf.sparse.reduce_sum(there, 1)}

    return models.save(folder, call, tf.SparseTensorSpec([None, 4], tf.float32))


def listed(folder: Path) -> str:
    """Returns the number of values of a sparse x of any length, the kind that `tf.io.VarLenFeature` makes."""

    def call(x: tf.SparseTensor) -> dict[str, tf.Tensor]:
        there = tf.SparseTensor(x.indices, tf.ones_like(x.values), x.dense_shape)
        return {"there": tf.sparse.reduce_sum(there, 1)}

    return models.save(folder, call, tf.SparseTensorSpec([None, None], tf.int64))


def mixed(folder: Path) -> str:
    """A dense input, a key, and a dictionary: numbers with two ragged dimensions, words with a fixed inner size."""

    def call(scale: tf.Tensor, key: tf.Tensor, more: dict[str, Any]) -> dict[str, Any]:
        nested = tf.cast(tf.reduce_sum(tf.reduce_sum(more["nested"], 2), 1), tf.float32)
        firsts = tf.strings.reduce_join(more["words"][:, :, 0].to_tensor(), 1)
        return {"y": nested * scale, "text": firsts, "key": tf.identity(key)}

    more = {
        "words": tf.RaggedTensorSpec([None, None, 2], tf.string, ragged_rank=1),
        "nested": tf.RaggedTensorSpec([None, None, None], tf.int64, row_splits_dtype=tf.int32),
    }
    return models.save(folder, call, models.spec("scale"), models.spec("key", dtype=tf.int32), more)


def of_tensorflow_1(folder: Path) -> str:
    """A ragged and a sparse placeholder; the signature itself describes them as such."""
    with tf.Graph().as_default(), v1.Session() as session:
        r, s = v1.ragged.placeholder(tf.float32, 1, []), v1.sparse_placeholder(tf.float32, [None, 4])
        y = tf.reduce_sum(r, 1) + tf.sparse.reduce_sum(s, 1)
        v1.saved_model.simple_save(session, str(folder), {"r": r, "s": s}, {"y": y})
    return str(folder)


def detached(folder: Path) -> str:
    """A ragged input of a function that is not saved with the object, so its spec is lost."""
    function = tf.function(
        lambda x: {"y": tf.reduce_sum(x, 1)}, input_signature=[tf.RaggedTensorSpec([None, None], tf.float32)]
    )
    tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": function})
    return str(folder)


@pytest.mark.parametrize("flags", [(), ("--isolate",), ("--batch_size=2",)])
def test_rows_of_any_length(keyjoin: Any, lines: Any, model: Any, flags: tuple[str, ...]) -> None:
    done = keyjoin("run", f"--input={lines(*ROWS)}", f"--model={model(ragged)}", *flags)
    assert done.code == 0, done.err
    assert [row["y"] for row in done.rows()] == SUMS
    assert "x (ragged float32 [N, ?]) <- x" in done.out
    rescored = keyjoin("verify", f"--run={done.output}", f"--model={model(ragged)}", "--rescore=5")
    assert rescored.code == 0, rescored.err


def test_zeros_of_a_sparse_row_are_absent(keyjoin: Any, lines: Any, model: Any) -> None:
    done = keyjoin("run", f"--input={lines(*WIDE)}", f"--model={model(sparse)}")
    assert [(row["y"], row["there"]) for row in done.rows()] == [(6.0, 2.0), (0.0, 0.0), (2.0, 1.0)]
    refused = keyjoin("check", f"--input={lines(*ROWS)}", f"--model={model(sparse)}")
    assert refused.code == 2
    assert "field x: a list of 3 where 4 are expected" in refused.err
    assert "x_1" not in refused.err


def test_all_values_of_a_sparse_row_of_open_size_are_there(keyjoin: Any, lines: Any, model: Any) -> None:
    done = keyjoin("run", f"--input={lines(*[{'x': [0] * n} for n in (3, 0, 1, 3)])}", f"--model={model(listed)}")
    assert [row["there"] for row in done.rows()] == [3, 0, 1, 3], done.err


def test_several_kinds_beside_each_other(keyjoin: Any, lines: Any, model: Any) -> None:
    rows = [
        {"scale": 1, "more_nested": [[1, 2], [3, 4]], "more": [["a", "b"], ["c", "d"]]},
        {"scale": 2, "more_nested": [[5]], "more": [["é", ""]]},
        {"scale": 3, "more_nested": [], "more": []},
        {"scale": 1, "more_nested": [[1, 2], [3]], "more": [["x", "y"]]},
    ]
    found = json.loads(keyjoin("inspect", "--json", f"--model={model(mixed)}").out)
    assert {one["name"]: one.get("kind") for one in found["inputs"]} == {
        "more": RAGGED,
        "more_3": RAGGED,
        "scale": None,
    }
    names = {one["dtype"]: one["name"] for one in found["inputs"]}
    flags = ("--input_map", f"{names['int64']}=more_nested", f"{names['string']}=more", "--max_bad_rows=1")
    rows.append({"scale": 1, "more_nested": [[1]], "more": [["x", "y"], ["z"]]})
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(mixed)}", *flags)
    expected = [(10.0, "ac"), (10.0, "é"), (0.0, ""), (6.0, "x")]
    assert [(row["y"], row["text"]) for row in done.rows()] == expected, done.err
    assert [(letter["reason"], letter["message"]) for letter in done.dead()] == [
        ("wrong_shape", "field more: a list of 1 where 2 are expected")
    ]
    assert "input key (int32), comes back as output key" in done.out


def test_a_signature_that_declares_it_itself(keyjoin: Any, lines: Any, model: Any) -> None:
    rows = [{"r": row["x"], "s": wide["x"]} for row, wide in zip(ROWS, WIDE, strict=False)]
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(of_tensorflow_1)}")
    assert [row["y"] for row in done.rows()] == [12.0, 2.0, 2.0], done.err


def test_examples_and_one_request(keyjoin: Any, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.tfrecord"
    path.write_bytes(examples.written([examples.example(x=examples.floats(*row["x"])) for row in ROWS]))
    done = keyjoin("run", f"--input={path}", f"--model={model(ragged)}")
    assert done.code == 0, done.err
    records = examples.read_back([part.read_bytes() for part in done.parts()])
    assert [examples.features_of(record)["y"] for record in records] == [[y] for y in SUMS]
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": ROWS}))
    answer = json.loads(keyjoin("predict", f"--instances={request}", f"--model={model(ragged)}").out)
    assert answer == {"predictions": SUMS} or answer == {"predictions": [{"y": y} for y in SUMS]}


def test_a_pipeline_of_one_s_own(model: Any) -> None:
    with beam.Pipeline("FnApiRunner") as root:
        scored = root | beam.Create(ROWS, reshuffle=False) | KeyedPredict(model(ragged))
        assert_that(scored.joined | beam.Map(lambda row: row["y"]), equal_to(SUMS))


def test_a_detached_composite_is_refused_with_a_remedy(keyjoin: Any, lines: Any, model: Any) -> None:
    refused = keyjoin("check", f"--input={lines(*ROWS)}", f"--model={model(detached)}")
    assert refused.code == 2
    assert "if x is a ragged or sparse input and x_1 a part of it, save the model with its function" in refused.err


def two(folder: Path) -> str:
    """Two signatures, one with a ragged and one with a sparse input."""
    module = tf.Module()
    specs = {"sums": tf.RaggedTensorSpec([None, None], tf.float32), "wide": tf.SparseTensorSpec([None, 4], tf.float32)}
    module.sums = tf.function(lambda x: {"y": tf.reduce_sum(x, 1)}, input_signature=[specs["sums"]])
    module.wide = tf.function(lambda x: {"y": tf.sparse.reduce_sum(x, 1)}, input_signature=[specs["wide"]])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.sums, "wide": module.wide})
    return str(folder)


@pytest.mark.parametrize(
    ("make", "style"),
    [(ragged, "function"), (ragged, "functional"), (two, "functional"), (of_tensorflow_1, "function"),
     (detached, "function")],
)  # fmt: skip
def test_a_copy_with_a_key_takes_the_same_rows(
    keyjoin: Any, lines: Any, model: Any, tmp_path: Path, make: Callable[..., str], style: str
) -> None:
    copy = str(tmp_path / "copy")
    made = keyjoin("wrap", f"--model={model(make)}", f"--output={copy}", f"--style={style}")
    assert made.code == 0, made.err
    if make is detached:  # refused, like the original
        assert "if x is a ragged or sparse input" in keyjoin("check", f"--input={lines(*ROWS)}", f"--model={copy}").err
        return
    rows = ROWS
    if make is of_tensorflow_1:
        rows = [{"r": row["x"], "s": wide["x"]} for row, wide in zip(ROWS, WIDE, strict=False)]
    of_original = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(make)}")
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={copy}", "--batch_size=2")
    assert done.code == 0, done.err
    assert "comes back" in done.out
    scores = [row.get("prediction", row.get("prediction_with_key")) for row in done.rows()]
    expected = [row["y"] for row in of_original.rows()]
    assert scores == (expected if style == "function" else [[y] for y in expected])
    if make is two:
        wide = f"--input={lines(*WIDE, name='wide.jsonl')}"
        other = keyjoin("run", wide, f"--model={copy}", "--signature=wide")
        assert [row["y"] for row in other.rows()] == [6.0, 0.0, 2.0], other.err


def test_a_copy_with_a_key_is_called_as_the_original(keyjoin: Any, model: Any, tmp_path: Path) -> None:
    copy = str(tmp_path / "copy")
    assert keyjoin("wrap", f"--model={model(ragged)}", f"--output={copy}").code == 0
    parts = {"x": tf.constant([1.0, 2.0, 3.0]), "x_1": tf.constant([0, 2, 2, 3], tf.int64)}
    original = tf.saved_model.load(model(ragged)).signatures["serving_default"](**parts)
    answer = tf.saved_model.load(copy).signatures["serving_default"](**parts, key=tf.constant([7, 8, 9]))
    assert np.array_equal(answer["prediction"], original["y"])
    assert answer["key"].numpy().tolist() == [7, 8, 9]


def test_a_damaged_note_of_a_copy_is_refused(keyjoin: Any, model: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert keyjoin("wrap", f"--model={model(ragged)}", f"--output={copy}").code == 0
    graph = copy / "saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b'"ragged","float32"', b'"ragged",7.0000000'))
    refused = keyjoin("inspect", f"--model={copy}")
    assert refused.code == 2
    assert "keyjoin_composite_inputs is damaged" in refused.err


def test_a_constant_is_no_list(model: Any) -> None:
    loading = loader.Loading(constants=(("x", "[1]"),))
    with pytest.raises(UsageError, match="--constant x: that input is ragged"):
        loader.load(model(ragged), loading)


SHAPES = arrays.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=3)
# TensorFlow treats subnormal numbers as zeros, and NaN does not equal itself.
VALUES = {"allow_nan": False, "allow_subnormal": False}


@given(arrays.arrays("float32", SHAPES, elements=VALUES), st.data())
def test_the_parts_are_those_of_tensorflow(rows: Any, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, rows.ndim - 1))
    parts = (Part("", "float32"), *[Part("", "int64")] * rank)
    found = Composite("x", RAGGED, "float32", (None,) * rows.ndim, parts, ()).tensors(rows)
    expected = tf.RaggedTensor.from_tensor(rows, ragged_rank=rank)
    assert np.array_equal(found[0], expected.flat_values)
    assert all(map(np.array_equal, found[1:], expected.nested_row_splits))
    indices, values, shape = Composite("x", SPARSE, "float32", (None, *rows.shape[1:]), (), ()).tensors(rows)
    dense = tf.sparse.from_dense(rows)
    assert np.array_equal(indices, dense.indices)
    assert np.array_equal(values, dense.values)
    assert np.array_equal(shape, dense.dense_shape)


def deep(folder: Path) -> str:
    """Returns lists of lists of numbers and of strings as text: all values, and the lengths of the lists."""

    def joined(x: tf.RaggedTensor) -> tf.Tensor:
        parts = (x.merge_dims(1, 2), tf.strings.as_string(x.row_lengths(2)))
        return tf.strings.join([tf.strings.reduce_join(part, 1, separator=",") for part in parts], "|")

    def call(x: tf.RaggedTensor, words: tf.RaggedTensor) -> dict[str, tf.Tensor]:
        return {"y": joined(tf.strings.as_string(x)), "text": joined(words)}

    specs = (tf.RaggedTensorSpec([None, None, None], tf.int64), tf.RaggedTensorSpec([None, None, None], tf.string))
    return models.save(folder, call, *specs)


DEEP = [[[1, 2], [3]], [], [[1], [2, 3]], [[]], [[], []], [[4, 5], [6]], [[1, 2], [3, 4]], [[], [1]], [[7], [8]]] * 3


def text_of(row: list[list[Any]]) -> str:
    values = ",".join(str(value) for inner in row for value in inner)
    return f"{values}|{','.join(str(len(inner)) for inner in row)}"


@pytest.fixture
def deep_flags(keyjoin: Any, model: Any) -> tuple[str, ...]:
    found = json.loads(keyjoin("inspect", "--json", f"--model={model(deep)}").out)
    names = {one["dtype"]: one["name"] for one in found["inputs"]}
    return (f"--model={model(deep)}", "--input_map", f"{names['int64']}=n", f"{names['string']}=w")


@pytest.mark.parametrize("flags", [(), ("--isolate",), ("--batch_size=2",), ("--batch_size=1",)])
def test_rows_of_lists_of_lists(keyjoin: Any, lines: Any, deep_flags: Any, flags: tuple[str, ...]) -> None:
    rows: list[dict[str, Any]] = [
        {"n": row, "w": [[f"w{n}" for n in inner] for inner in other]}
        for row, other in zip(DEEP, DEEP[1:] + DEEP[:1], strict=True)
    ]
    bad: list[dict[str, Any]] = [{"n": [1], "w": []}, {"n": [[1, None]], "w": []}, {"n": [[[1]]], "w": []}]
    done = keyjoin("run", f"--input={lines(*rows, *bad)}", *deep_flags, *flags, "--max_bad_rows=3")
    assert done.code == 0, done.err
    assert [(row["y"], row["text"]) for row in done.rows()] == [(text_of(row["n"]), text_of(row["w"])) for row in rows]
    assert [letter["reason"] for letter in done.dead()] == ["wrong_shape", "null", "wrong_shape"]
    rescored = keyjoin("verify", f"--run={done.output}", deep_flags[0], "--rescore=9")
    assert rescored.code == 0, rescored.err


def test_one_request_of_lists_of_lists(keyjoin: Any, deep_flags: Any, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": [{"n": row, "w": [["a"]]} for row in DEEP] + [{"w": [["a"]]}]}))
    flags = (f"--instances={request}", *deep_flags, "--missing", "n=[[1], [2, 3]]")
    done = keyjoin("predict", *flags)
    assert done.code == 0, done.err
    answers = json.loads(done.out)["predictions"]
    assert [one["y"] for one in answers] == [*map(text_of, DEEP), "1,2,3|1,2"]


def test_tf_examples_cannot_say_where_inner_lists_end(keyjoin: Any, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.tfrecord"
    record = examples.example(x=examples.floats(1, 2, 3))
    path.write_bytes(examples.written([record]))

    def total(folder: Path) -> str:
        spec = tf.RaggedTensorSpec([None, None, None], tf.float32)
        return models.save(folder, lambda x: {"y": tf.reduce_sum(x, [1, 2])}, spec)

    refused = keyjoin("check", f"--input={path}", f"--model={model(total)}")
    assert refused.code == 2
    assert "the flat lists of tf.Examples do not say where an inner list ends; give rows as JSON lines" in refused.err


LISTS: dict[int, Any] = {1: st.lists(st.integers(0, 9), max_size=3)}
LISTS |= {2: st.lists(LISTS[1], max_size=3)}
LISTS |= {3: st.lists(LISTS[2], max_size=3)}


@given(st.data(), st.integers(1, 3))
def test_the_parts_of_lists_of_different_lengths_are_those_of_tensorflow(data: st.DataObject, rank: int) -> None:
    rows = data.draw(st.lists(LISTS[rank], min_size=1, max_size=6))
    kind = pa.int64()
    for _ in range(rank):
        kind = pa.list_(kind)
    feature = Feature("x", "int64", (None,) * rank, ("x",), ragged_rank=rank)
    composite = Composite("x", RAGGED, "int64", (None,) * (rank + 1), (Part("", "int64"),) * (rank + 1), ())
    seen = []
    for group in by_shape(pa.record_batch({"x": pa.array(rows, kind)}), [feature]):
        some = [rows[number] for number in group.numbers]
        expected = tf.ragged.constant(some, dtype=tf.int64, ragged_rank=rank)
        for first in range(len(some)):  # a batch may start at any row of a group
            found = composite.tensors(group.arrays["x"][first:])
            assert found[0].tolist() == expected[first:].flat_values.numpy().tolist()
            for splits, given_splits in zip(found[1:], expected[first:].nested_row_splits, strict=True):
                assert splits.tolist() == given_splits.numpy().tolist()
        seen += group.numbers.tolist()
    assert sorted(seen) == list(range(len(rows)))


def test_empty_texts_of_a_sparse_row_are_absent() -> None:
    rows = np.array([[b"a", b""], [b"", b""]], object)
    indices, values, shape = Composite("x", SPARSE, "string", (None, 2), (), ()).tensors(rows)
    assert (indices.tolist(), values.tolist(), shape.tolist()) == ([[0, 0]], [b"a"], [2, 2])


PAIR = tf.TensorSpec([None, 2])
# What a function takes, and its inputs in it.
DICTS: dict[str, tuple[Any, Callable[[Any], tuple[tf.Tensor, tf.Tensor]]]] = {
    "flat": ({"width": PAIR, "height": PAIR}, lambda given: (given["width"], given["height"])),
    "deep": ({"box": {"width": PAIR}, "height": PAIR}, lambda given: (given["box"]["width"], given["height"])),
    "listed": ([{"width": PAIR}, {"height": PAIR}], lambda given: (given[0]["width"], given[1]["height"])),
}


class DictModel(keras.Model):
    def call(self, inputs: dict[str, Any]) -> Any:
        return inputs["width"] - 2 * inputs["height"]


def of_dicts(folder: Path, way: str) -> str:
    """Makes a model that takes a dict, whose inputs the signature numbers."""
    if way in DICTS:
        taken, pick = DICTS[way]
        module = tf.Module()
        module.call = tf.function(lambda given: {"y": pick(given)[0] - 2 * pick(given)[1]}, input_signature=[taken])
        tf.saved_model.save(module, str(folder), signatures=module.call)
        return str(folder)
    model = DictModel()
    model({name: np.ones((3, 2), np.float32) for name in ("width", "height")})
    if way == "model.export":
        model.export(str(folder), verbose=False)
    else:
        tf.saved_model.save(model, str(folder))
    return str(folder)


@pytest.mark.parametrize("way", [*DICTS, "model.export", "tf.saved_model.save"])
def test_the_inputs_of_a_dict_are_mapped_by_the_flags_of_the_message(
    keyjoin: Any, lines: Any, model: Any, way: str
) -> None:
    rows = [{"height": [1, row], "width": [row, 10]} for row in range(3)]
    flags = (f"--input={lines(*rows)}", f"--model={model(of_dicts, way)}")
    done = keyjoin("run", *flags)
    named = re.findall(r"its function takes it as (\w+): map one with (--input_map \w+=\1)", done.err)
    assert (done.code, len(named), "ragged" in done.err) == (2, 2, False), done.err
    done = keyjoin("run", *flags, *(word for _, flag in named for word in flag.split()))
    assert [row.popitem()[1] for row in done.rows()] == [[row - 2, 10 - 2 * row] for row in range(3)], done.err
