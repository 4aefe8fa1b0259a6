"""Defaults for missing fields (`--missing`), and fields inside of objects (`--input_map x=a.b`)."""

import json
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Result
from tests.support import blocks, models
from transforms import columns
from transforms.errors import UsageError
from transforms.formats import jsonl, tfrecord
from transforms.mapping import feature_mapping, name_lists
from transforms.records import Feature
from transforms.saved_model.model import Contract, Tensor

PLACES: dict[str, Any] = {"good": 7, "null": None, "text": "8", "bad": "x", "list": [1]}


def read(fmt: Any, data: bytes, *features: Feature) -> tuple[list[list[Any]], list[tuple[int, str]]]:
    inputs, bad = blocks.read(fmt, data, features)
    arrays = [columns.to_array(inputs[f.name], f).tolist() for f in features]
    return arrays, [(one.row, one.reason) for one in bad]


def jsonl_of(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@given(st.lists(st.sampled_from([*PLACES, "absent", "no parent", "null parent", "flat parent"]), max_size=8))
def test_what_is_missing_or_null_has_the_default_and_nothing_else_has(kinds: list[str]) -> None:
    parents: dict[str, Any] = {"no parent": {}, "null parent": {"a": None}, "flat parent": {"a": 5}}
    rows = [parents.get(kind, {"a": {"b": PLACES[kind]} if kind in PLACES else {}}) for kind in kinds]
    feature = Feature("x", "int64", (), ("a",), inside=(("b",),), missing=("-1",))
    (found,), bad = read(jsonl.FORMAT, jsonl_of(rows), feature)
    values = {"good": 7, "text": 8} | dict.fromkeys(("null", "absent", "no parent", "null parent"), -1)
    assert found == [values[kind] for kind in kinds if kind in values]
    reasons = {"bad": "wrong_type", "list": "wrong_shape", "flat parent": "wrong_type"}
    assert bad == [(row, reasons[kind]) for row, kind in enumerate(kinds) if kind in reasons]


def test_two_inputs_reach_into_one_object() -> None:
    data = jsonl_of([{"a": {"x": [1, 2], "y": {"z": "s"}, "w": 0}}, {"a": {"x": [1], "y": {"z": "s"}}}, {"a": None}])
    features = (
        Feature("x", "float32", (2,), ("a",), inside=(("x",),)),
        Feature("z", "string", (), ("a",), inside=(("y", "z"),)),
    )
    found, bad = read(jsonl.FORMAT, data, *features)
    assert found == [[[1.0, 2.0]], [b"s"]]
    assert bad == [(1, "wrong_shape"), (2, "null")]


@pytest.mark.parametrize(
    ("dtype", "shape", "text", "value"),
    [("float32", (), "nan", math.nan), ("float32", (2,), "0", [0.0, 0.0]), ("int64", (2,), "[1, 2]", [1, 2]),
     ("float32", (1,), "3", [3.0]), ("string", (), "Bern", b"Bern"), ("bool", (), "true", True),
     ("float64", (None,), "[1, nan]", [1.0, math.nan]), ("string", (2,), '["a", "b"]', [b"a", b"b"])],
)  # fmt: skip
@pytest.mark.parametrize("present", [True, False])
def test_a_default_has_the_dtype_and_shape_of_the_input(
    dtype: str, shape: tuple[int | None, ...], text: str, value: Any, present: bool
) -> None:
    feature = Feature("x", dtype, shape, ("x",), missing=(text,))
    flat = [value] if not shape else value
    given_value = [v.decode() if isinstance(v, bytes) else v for v in flat]
    rows = [{"x": given_value if shape else given_value[0]}] if present and "nan" not in text else []
    data = jsonl_of([*rows, {}, {"x": None}])
    inputs, bad = blocks.read(jsonl.FORMAT, data, [feature])
    assert not bad
    assert repr(inputs["x"].to_pylist()) == repr([value] * (len(rows) + 2))


@pytest.mark.parametrize(
    ("dtype", "shape", "text"),
    [("int64", (), "0.5"), ("int64", (), "nan"), ("int8", (), "128"), ("float32", (), "x"), ("bool", (), "1"),
     ("float32", (2,), "[1]"), ("float32", (None,), "1"), ("float32", (), "[1]"), ("float16", (), "1e9")],
)  # fmt: skip
def test_a_default_that_does_not_fit_is_refused(dtype: str, shape: tuple[int | None, ...], text: str) -> None:
    contract = Contract("s", (Tensor("x", dtype, shape, "x:0"),), ())
    with pytest.raises(UsageError, match=r"--missing gives the field x a value that the model's input x"):
        feature_mapping.map_inputs(contract, [{"x": [1.0, 2.0] if shape else 1}], missing={"x": text})


def example(**values: Any) -> bytes:
    lists = {name: tf.train.Feature(float_list=tf.train.FloatList(value=value)) for name, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString()


def test_tf_examples_have_defaults_too(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for record in (example(x=[1, 2]), example(), example(x=[]), example(x=[1]), example(y=[3])):
            writer.write(record)
    feature = Feature("x", "float32", (2,), ("x",), missing=("nan",))
    (found,), bad = read(tfrecord.FORMAT, Path(path).read_bytes(), feature)
    assert np.array_equal(found, [[1, 2], *[[math.nan] * 2] * 3], equal_nan=True)
    assert bad == [(3, "wrong_shape")]


SUM = Contract("s", (Tensor("x", "float32", (3,), "x:0"),), ())
FLAT = [{"b": 1, "a": 2.0, "c,d": "3"}] * 3


def test_flat_columns_are_offered_as_features_in_the_order_of_the_rows() -> None:
    with pytest.raises(UsageError) as refused:
        feature_mapping.map_inputs(SUM, FLAT)
    assert """make it of the rows' 3 numbers, in this order, with --features='["b", "a", "c,d"]'""" in str(
        refused.value
    )
    (feature,) = feature_mapping.map_inputs(SUM, FLAT, ["b", "a", "c,d"])
    assert feature.fields == ("b", "a", "c,d")


def test_all_unfed_inputs_are_reported_at_once() -> None:
    inputs = tuple(Tensor(name, "float32", (), f"{name}:0") for name in ("first", "second", "third"))
    with pytest.raises(UsageError) as refused:
        feature_mapping.map_inputs(Contract("s", inputs, ()), [{"a": 1, "b": 2}], (), {"third": "gone.b"})
    for words in ("the model's input first", "the model's input second", "the rows have no field gone.b"):
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("sample", "field", "path"),
    [
        ({"a": {"b": 1.0}}, "a.b", ("a", "b")),
        ({"a.b": 1.0}, "a.b", ("a.b",)),
        ({"a.b": {"c": 1.0}}, "a.b.c", ("a.b", "c")),
        ({"a": {"b": 1.0}, "a.b": 2.0}, ("a", "b"), ("a", "b")),
        ({"a": {"b": 1.0}, "a.b": 2.0}, ("a.b",), ("a.b",)),
    ],
)
def test_a_name_with_dots_means_the_field_that_is_there(sample: Any, field: Any, path: tuple[str, ...]) -> None:
    contract = Contract("s", (Tensor("x", "float32", (), "x:0"),), ())
    (feature,) = feature_mapping.map_inputs(contract, [sample], (), {"x": field})
    assert feature.paths == (path,)


def test_features_lead_into_objects_as_input_map_does(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    rows = [{"r": {"a": n, "b": {"c": "2"}}, "r.d": 3.0} for n in (1, 2, "x")] + [{"r": 1, "r.d": 1}, {"r.d": 1}]
    rows.append({"r": {"a": 3}, "r.d": 0})
    flags = (f"--input={lines(*rows)}", f"--model={model(models.plain)}", "--max_bad_rows=1.0")
    done = keyjoin("run", *flags, "--features=r.a,r.b.c,r.d", "--missing", "r.b.c=7")
    expected = [row["prediction"] for row in done.rows()]
    assert len(expected) == 3, done.err
    assert [one["reason"] for one in done.dead()] == ["wrong_type", "wrong_type", "missing"]
    assert done.manifest()["model"]["inputs"]["x"]["inside"] == [["a"], ["b", "c"], []]
    assert "x (float32 [N, 3]) <- r.a, r.b.c, r.d" in done.out
    flat = [{"a": a, "b": b, "c": c} for a, b, c in ((1, 2, 3), (2, 2, 3), (3, 7, 0))]
    same = keyjoin("run", f"--input={lines(*flat, name='flat.jsonl')}", flags[1], "--features=a,b,c")
    assert [row["prediction"] for row in same.rows()] == expected
    exact = keyjoin("run", *flags, """--features=[["r", "a"], ["r", "b", "c"], "r.d"]""", "--missing", "r.b.c=7")
    assert [row["prediction"] for row in exact.rows()] == expected
    verified = keyjoin("verify", f"--run={exact.output}", flags[1], "--rescore=3")
    assert verified.code == 0, verified.out


def test_features_that_may_mean_two_fields_are_refused_with_both_spellings() -> None:
    contract = Contract("s", (Tensor("x", "float32", (2,), "x:0"),), ())
    with pytest.raises(UsageError) as refused:
        feature_mapping.map_inputs(contract, [{"a": {"b": 1.0}, "a.b": 2.0, "c": {"d": 1}}], ["a.b", "c.d"])
    first, second = (shlex.split(flag)[0] for flag in re.findall(r"--features='.*?'", str(refused.value)))
    assert [name_lists.fields(flag.partition("=")[2]) for flag in (first, second)] == [
        (("a.b",), ("c", "d")),
        (("a", "b"), ("c", "d")),
    ]


def test_a_name_that_may_mean_two_fields_is_refused_with_both_spellings() -> None:
    contract = Contract("s", (Tensor("x", "float32", (), "x:0"),), ())
    with pytest.raises(UsageError) as refused:
        feature_mapping.map_inputs(contract, [{"a": {"b": 1.0}, "a.b": 2.0}], (), {"x": "a.b"})
    assert """write --input_map='{"x": ["a.b"]}' or --input_map='{"x": ["a", "b"]}'""" in str(refused.value)


def test_a_run_fills_replays_and_verifies_alike(keyjoin: Callable[..., Result], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(jsonl_of([{"r": {"age": "31"}}, {"r": {"age": None}}, {"r": {}}, {"r": {"age": "?"}}]))
    module = tf.Module()
    module.call = tf.function(lambda age: {"y": age + 1}, input_signature=[tf.TensorSpec([None], tf.int64, "age")])
    model = str(tmp_path / "model")
    tf.saved_model.save(module, model, signatures=module.call)
    flags = (f"--input={rows}", f"--model={model}", "--input_map", "age=r.age", "--max_bad_rows=1.0")
    done = keyjoin("run", *flags, "--missing", "r.age=-1")
    assert done.code == 0, done.err
    part = next(done.output.glob("[!_]*.jsonl"))
    assert [json.loads(line)["y"] for line in part.read_bytes().splitlines()] == [32, 0, 0]
    manifest = json.loads((done.output / "_keyjoin/manifest.json").read_bytes())
    assert manifest["options"]["missing"] == {"r.age": "-1"}
    assert manifest["model"]["inputs"]["age"]["missing"] == ["-1"]
    verified = keyjoin("verify", f"--run={done.output}", f"--model={model}", "--rescore=3")
    assert verified.code == 0, verified.out
    other = keyjoin("run", *flags, f"--output={done.output}", "--missing", "r.age=0")
    assert other.code == 2
    assert "--missing was" in other.err
    typo = keyjoin("check", *flags, "--missing", "age=0")
    assert (typo.code, "--missing names the field age, which feeds no input" in typo.err) == (2, True)
    apart = keyjoin("run", *flags)
    assert [one["reason"] for one in apart.dead()] == ["null", "missing", "wrong_type"]
    again = keyjoin("replay", f"--run={apart.output}", "--missing", "r.age=-1")
    assert again.code == 0, again.err
    assert next(apart.output.glob("[!_]*.jsonl")).read_bytes() == part.read_bytes()
