"""Inputs with one value for all rows: `--constant`, defaults in the graph, and errors that say which flag to give."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keyjoin import KeyedPredict
from tests.conftest import Result
from tests.support import models
from transforms.errors import UsageError
from transforms.saved_model import constants, loader
from transforms.saved_model.constants import Constant
from transforms.saved_model.loader import Loading

v1 = tf.compat.v1
ROWS = [{"x": [1, 2, 3], "id": 0}, {"x": [4, 5, 6], "id": 1}]


def dropout(folder: Path) -> str:
    """Sums of x (3), divided by `keep_prob`, plus 100 in training; `bias` (3) has a default and a batch dimension."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3])
        keep, training = v1.placeholder(tf.float32, []), v1.placeholder(tf.bool, [])
        scale = v1.placeholder_with_default(2.0, [])
        bias = v1.placeholder_with_default([[0.0, 0.0, 0.0]], [None, 3])
        y = tf.reduce_sum(x + bias, 1) * scale / keep + tf.cond(training, lambda: 100.0, lambda: 0.0)
        fed = {"x": x, "keep_prob": keep, "is_training": training, "scale": scale, "bias": bias}
        v1.saved_model.simple_save(session, str(folder), fed, {"y": y})
    return str(folder)


def weighted(folder: Path) -> str:
    """Sums of x (3) times a vector that is the same for all rows."""
    specs = (models.spec("x", 3), tf.TensorSpec([3], tf.float32, name="weights"))
    return models.save(folder, lambda x, weights: {"y": tf.reduce_sum(x * weights, 1)}, *specs)


def named(folder: Path) -> str:
    """Two inputs that fields of the rows could feed; one is text."""
    specs = (models.spec("x"), models.spec("unit", dtype=tf.string))
    return models.save(folder, lambda x, unit: {"y": tf.strings.join([tf.strings.as_string(x), unit])}, *specs)


@pytest.fixture(scope="module")
def folder(model: Callable[..., str]) -> str:
    return model(dropout)


GIVEN = ("--constant", "keep_prob=0.5", "is_training=false")


def ys(done: Result) -> list[Any]:
    assert done.code == 0, done.err
    return [row["y"] for row in done.rows()]


class TestRun:
    def test_values_feed_all_rows_and_are_on_record(self, keyjoin: Any, lines: Any, folder: str) -> None:
        done = keyjoin("run", f"--input={lines(*ROWS)}", f"--model={folder}", *GIVEN)
        assert ys(done) == [24.0, 60.0]
        assert done.manifest()["options"]["constant"] == {"keep_prob": "0.5", "is_training": "false"}
        assert list(done.manifest()["model"]["inputs"]) == ["x"]
        assert "keep_prob (float32 []) <- --constant keep_prob=0.5, for all rows\n" in done.out
        assert "scale (float32 []) <- its default in the model, for all rows\n" in done.out
        assert "bias (float32 [?, 3]) <- its default in the model, for all rows\n" in done.out
        again = ("run", f"--input={lines(*ROWS)}", f"--model={folder}", f"--output={done.output}")
        other = keyjoin(*again, "--constant=keep_prob=0.25", "--constant=is_training=false")
        assert other.code == 2
        assert "constant" in other.err
        assert keyjoin(*again, *GIVEN).code == 0
        rescored = keyjoin("verify", f"--run={done.output}", f"--model={folder}", "--rescore=2")
        assert rescored.code == 0, rescored.err

    def test_all_missing_values_are_reported_at_once(self, keyjoin: Any, lines: Any, folder: str) -> None:
        rows = [{**row, "keep_prob": 0.25} for row in ROWS]
        flags = ("run", f"--input={lines(*rows)}", f"--model={folder}")
        refused = keyjoin(*flags)
        assert refused.code == 2
        assert "is_training (bool []), keep_prob (float32 []) is one value for all rows" in refused.err
        assert "the rows' field keep_prob cannot feed it" in refused.err
        assert "--constant is_training=VALUE --constant keep_prob=0.25" in refused.err
        pasted = shlex.split(refused.err.partition("give it with ")[2].strip().replace("VALUE", "true"))
        done = keyjoin(*flags, *pasted)
        assert ys(done) == [148.0, 220.0]
        assert "keep_prob=0.25, for all rows; the rows' field of that name does not feed it" in done.out

    def test_a_row_s_field_for_a_default_is_no_silent_choice(self, keyjoin: Any, lines: Any, folder: str) -> None:
        rows = [{**row, "scale": 3.0} for row in ROWS]
        refused = keyjoin("check", f"--input={lines(*rows)}", f"--model={folder}", *GIVEN)
        assert refused.code == 2
        assert "give it with --constant scale=3.0 (scale has a default" in refused.err
        mapped = keyjoin("check", f"--input={lines(*ROWS)}", f"--model={folder}", *GIVEN, "--input_map=scale=id")
        assert mapped.code == 2
        assert "scale (float32 []) is one value for all rows" in mapped.err

    def test_a_batched_default_is_fed_by_a_field_or_a_constant(self, keyjoin: Any, lines: Any, folder: str) -> None:
        rows = [{**row, "bias": [row["id"], 0, 0]} for row in ROWS]
        flags = (f"--model={folder}", *GIVEN)
        assert ys(keyjoin("run", f"--input={lines(*rows)}", *flags)) == [24.0, 64.0]
        assert ys(keyjoin("run", f"--input={lines(*rows)}", *flags, "bias=[1, 1, 1]")) == [36.0, 72.0]
        assert ys(keyjoin("run", f"--input={lines(*ROWS)}", *flags, "bias=[[1, 1, 1]]")) == [36.0, 72.0]

    @pytest.mark.parametrize("flags", [("--isolate",), ("--batch_size=1",), ("--output_fields=y",)])
    def test_however_it_is_called(self, keyjoin: Any, lines: Any, folder: str, flags: tuple[str, ...]) -> None:
        done = keyjoin("run", f"--input={lines(*ROWS)}", f"--model={folder}", *flags, *GIVEN)
        assert ys(done) == [24.0, 60.0]

    def test_a_vector_beside_a_batch_is_no_data(self, keyjoin: Any, lines: Any, model: Any) -> None:
        flags = ("run", f"--input={lines(*ROWS)}", f"--model={model(weighted)}")
        assert "weights (float32 [3]) is one value for all rows" in keyjoin(*flags).err
        assert ys(keyjoin(*flags, "--constant=weights=[1, 0, 10]")) == [31.0, 64.0]

    def test_text_and_data_inputs(self, keyjoin: Any, lines: Any, model: Any) -> None:
        rows = [{"x": 1.5, "unit": "m"}, {"x": 2.5, "unit": "s"}]
        flags = ("run", f"--input={lines(*rows)}", f"--model={model(named)}", "--constant", "unit= a=b")
        assert ys(keyjoin(*flags)) == ["1.500000 a=b", "2.500000 a=b"]

    def test_a_dead_letter_is_replayed_with_the_run_s_constants(self, keyjoin: Any, lines: Any, folder: str) -> None:
        flags = (f"--input={lines(*ROWS, {'x': [1, 2]})}", f"--model={folder}", *GIVEN)
        done = keyjoin("run", *flags, "--max_bad_rows=1.0")
        letter = {**done.dead()[0], "row": '{"x": [7, 8, 9]}'}
        repaired = done.output.parent / "repaired.jsonl"
        repaired.write_text(json.dumps({"key": letter["key"], "row": letter["row"]}) + "\n")
        replayed = keyjoin("replay", f"--run={done.output}", f"--rows={repaired}")
        assert replayed.code == 0, replayed.err
        assert ys(done) == [24.0, 60.0, 96.0]


def test_one_request(keyjoin: Any, folder: str, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": ROWS}))
    flags = ("predict", f"--instances={request}", f"--model={folder}")
    assert "give it with --constant is_training=VALUE --constant keep_prob=VALUE" in keyjoin(*flags).err
    assert json.loads(keyjoin(*flags, *GIVEN).out) == {"predictions": [{"y": 24.0}, {"y": 60.0}]}


def test_inspect_shows_them_with_or_without_values(keyjoin: Any, folder: str) -> None:
    found = json.loads(keyjoin("inspect", "--json", f"--model={folder}").out)
    assert [one["name"] for one in found["constants"]] == ["is_training", "keep_prob", "scale"]
    assert found["constants"][1] == {
        "name": "keep_prob", "dtype": "float32", "shape": [], "value": None, "has_default": False
    }  # fmt: skip
    shown = keyjoin("inspect", f"--model={folder}", "--constant=is_training=true").out
    assert "none: give it with --constant keep_prob=VALUE" in shown
    assert "--constant is_training=true" in shown
    assert "its default in the model" in shown


def test_a_pipeline_of_one_s_own(folder: str) -> None:
    with pytest.raises(UsageError, match=r"constants={'is_training': VALUE, 'keep_prob': VALUE}"):
        KeyedPredict(folder)
    given = {"keep_prob": 0.5, "is_training": False, "bias": np.float32([0, 0, 1])}
    with beam.Pipeline("FnApiRunner") as root:
        scored = root | beam.Create(ROWS, reshuffle=False) | KeyedPredict(folder, constants=given)
        assert_that(scored.joined | beam.Map(lambda row: row["y"]), equal_to([28.0, 64.0]))


def test_a_pipeline_of_one_s_own_leaves_inputs_to_their_defaults(folder: str) -> None:
    given = {"keep_prob": 0.5, "is_training": False}
    rows = [ROWS[0], {**ROWS[1], "bias": [0, 0, 1]}, {**ROWS[1], "scale": 3}, {"x": [1]}]
    with beam.Pipeline("FnApiRunner") as root:
        made = root | beam.Create(rows, reshuffle=False)
        scored = made | "Unmapped" >> KeyedPredict(folder, constants=given)
        assert_that(scored.joined | "Ys" >> beam.Map(lambda row: row["y"]), equal_to([24.0]), label="Joined")
        dead = scored.dead_letters | "Why" >> beam.Map(lambda d: (d.row, d.reason, d.message.partition("; ")[2]))
        expected = [
            (rows[1], "collision", "feed it with input_map={'bias': 'bias'}, or rename the field"),
            (rows[2], "collision", "feed it with constants={'scale': VALUE}, or rename the field"),
            (rows[3], "wrong_shape", ""),
        ]
        assert_that(dead, equal_to(expected), label="Dead")
        mapped = made | "Mapped" >> KeyedPredict(folder, constants={**given, "scale": 1}, input_map={"bias": "bias"})
        assert_that(mapped.joined | "Mapped ys" >> beam.Map(lambda row: row["y"]), equal_to([32.0]), label="Fed")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("keep_prob=fast", "it is no JSON value"), ("keep_prob=true", "true is no float32"),
        ("keep_prob=[1]", r"it has the shape [1]"), ("keep_prob=1e39", "beyond float32"), ("keep_prob=", "no JSON value"),
        ("is_training=1", '1" is no bool'), ("bias=1", "it has the shape []"), ("bias=[1, [2], 3]", "different lengths"),
        ("kep_prob=1", "--constant names kep_prob, but the model's inputs are"), ("x=[1,2,3]", "no data inputs"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(keyjoin: Any, folder: str, given: str, why: str) -> None:
    refused = keyjoin("inspect", f"--model={folder}", "--constant", given)
    if why == "no data inputs":
        assert "bias" in refused.out
        return
    assert refused.code == 2
    assert why in refused.err, refused.err


def test_named_twice(keyjoin: Any, folder: str, lines: Any) -> None:
    for command in (("check", f"--input={lines(*ROWS)}"), ("inspect",)):
        refused = keyjoin(*command, f"--model={folder}", "--constant", "keep_prob=1", "keep_prob=2")
        assert (refused.code, "twice" in refused.err) == (2, True)


KINDS = st.sampled_from(["float32", "float64", "int8", "uint8", "int32", "int64", "uint64", "bool"])


@given(st.data(), KINDS, arrays.array_shapes(min_dims=0, max_dims=3, max_side=3))
def test_a_value_is_read_exactly_or_refused(data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else {}
    array = data.draw(arrays.arrays(dtype, shape, elements=elements))
    found = constants.parse(json.dumps(array.tolist()), dtype, list(shape))
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    for other in ("int8", "uint8", "int64", "uint64", "bool") if not dtype.startswith("float") else ():
        try:
            again = constants.parse(json.dumps(array.tolist()), other, None)
        except ValueError:
            continue
        assert again.tolist() == array.tolist()  # never rounded, truncated or wrapped around
        assert (again.dtype.kind == "b") == (array.dtype.kind == "b")


@pytest.mark.parametrize("text", ["1.5", "1e400", "1e1000000000", "9223372036854775808", "NaN", '"1"', "null", "{}"])
def test_no_integer(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|is beyond"):
        constants.parse(text, "int64", [])


def test_large_integers_are_exact() -> None:
    assert constants.parse("[9007199254740993, 1e3, 2.0]", "int64", [3]).tolist() == [9007199254740993, 1000, 2]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_taken_as_it_is(text: str) -> None:
    assert constants.parse(text, "string", []).item() == text.encode()


def test_a_suggestion_fits() -> None:
    whole = Constant("n", "int32", (), "n:0")
    with pytest.raises(UsageError, match="n=VALUE"):
        constants.check([whole], ["n"], {"n": 1.5})
    with pytest.raises(UsageError, match="n=3"):
        constants.check([whole], ["n"], {"n": 3})


def test_a_loaded_model_takes_rows_only(folder: str) -> None:
    given = (("keep_prob", "2"), ("is_training", "false"), ("bias", None))
    loaded = loader.load(folder, Loading(constants=given))
    assert list(loaded.inputs) == ["x"]
    assert loaded({"x": np.ones((5, 3), np.float32)})["y"].tolist() == [3.0] * 5
