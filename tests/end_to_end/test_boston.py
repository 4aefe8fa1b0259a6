"""The tutorial end to end: its rows, its model saved in both styles, and its online prediction."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.conftest import BOSTON, Result
from tests.support import houses
from tests.support.parts import read, scalar

TEN = [json.loads(line) for line in (BOSTON / "tutorial.jsonl").read_text().splitlines()]
ROWS = [json.loads(line) for part in ("part-1", "part-2") for line in (BOSTON / f"data/{part}.jsonl").open()]

KERAS_2 = """
import sys, numpy as np, tf_keras as keras
x = np.random.default_rng(0).normal(size=(64, 13)).astype("float32")
inputs = keras.Input((13,), name="features")
model = keras.Model(inputs, keras.layers.Dense(1, name="price")(keras.layers.Dense(8, "relu")(inputs)))
model.compile(keras.optimizers.legacy.Adam(), "mse")
model.fit(x, x.sum(axis=1), verbose=0)
model.save(sys.argv[1], save_format="tf")
np.save(sys.argv[2], model.predict(np.load(sys.argv[3]), verbose=0))
"""


@pytest.fixture(scope="module")
def predicted() -> Callable[[list[dict[str, Any]]], np.ndarray]:
    """Predictions of the trained model itself, called directly on the rows."""
    trained = keras.models.load_model(BOSTON / "model.keras")
    return lambda rows: trained.predict(np.array([row["features"] for row in rows], np.float32), verbose=0)


def test_the_example_data_are_the_tutorials_rows() -> None:
    assert [row["features"] for row in ROWS[:10]] == [row["features"] for row in TEN]
    assert len(ROWS) == 102
    assert all(list(row) == ["features"] for row in ROWS)


@pytest.mark.parametrize("style", ["function", "functional"])
@pytest.mark.parametrize("source", ["model.keras", "exported"])
def test_a_wrapped_model_gives_the_models_own_predictions(
    keyjoin: Callable[..., Result], predicted: Any, tmp_path: Path, style: str, source: str
) -> None:
    model = BOSTON / "model.keras"
    if source == "exported":
        model = tmp_path / "exported"
        keras.models.load_model(BOSTON / "model.keras").export(model, verbose=False)
    wrapped = keyjoin("wrap", f"--model={model}", f"--output={tmp_path / 'keyed'}", f"--style={style}")
    assert wrapped.code == 0, wrapped.err
    done = keyjoin("run", f"--input={BOSTON}/data", f"--model={tmp_path / 'keyed'}")
    assert (done.code, done.complete()) == (0, True), done.err
    name = "prediction" if style == "function" else "prediction_with_key"
    assert [row["features"] for row in done.rows()] == [row["features"] for row in ROWS]
    assert np.allclose([row[name] for row in done.rows()], predicted(ROWS), rtol=1e-6)
    assert "comes back as " + ("output key" if style == "function" else "last column") in done.out


@pytest.mark.parametrize("fmt", houses.WRITERS)
def test_each_format_gives_the_same_predictions(keyjoin: Callable[..., Result], tmp_path: Path, fmt: str) -> None:
    expected = keyjoin("run", f"--input={BOSTON}/data", f"--model={BOSTON}/model")
    path = houses.write(tmp_path, fmt)
    done = keyjoin("run", f"--input={path}", f"--model={BOSTON}/model", houses.FEATURES, "--chunk_bytes=2000")
    assert (done.code, done.complete(), done.err) == (0, True, "")
    assert len(done.parts()) > 1
    joined = [row for part in done.parts() for row in read(part)]
    found = [np.float32(scalar(row.pop("prediction"))) for row in joined]
    assert found == [np.float32(row["prediction"][0]) for row in expected.rows()]
    assert joined == read(path)


def test_a_keras_file_is_scored_as_it_is(keyjoin: Callable[..., Result], predicted: Any) -> None:
    done = keyjoin("run", f"--input={BOSTON}/data", f"--model={BOSTON}/model.keras", "--prediction_prefix=p_")
    assert done.code == 0, done.err
    assert done.manifest()["model"]["path"].endswith("model.keras")
    (name,) = done.rows()[0].keys() - {"features"}
    assert np.allclose([row[name] for row in done.rows()], predicted(ROWS), rtol=1e-6)


def test_the_tutorials_output_lines(keyjoin: Callable[..., Result], predicted: Any) -> None:
    flags = ("--output_fields=prediction,key", "--key_field=key")
    done = keyjoin("run", f"--input={BOSTON}/tutorial.jsonl", f"--model={BOSTON}/model", *flags)
    assert done.code == 0, done.err
    values = [row["prediction"][0] for row in done.rows()]
    assert done.lines() == [b'{"prediction": [%s], "key": %d}\n' % (str(v).encode(), i) for i, v in enumerate(values)]
    assert np.allclose(np.reshape(values, (-1, 1)), predicted(TEN), rtol=1e-6)


@pytest.mark.parametrize("stdin", [False, True])
def test_the_tutorials_online_call(
    keyjoin: Callable[..., Result], predicted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdin: bool
) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": [{**row, "key": row["key"] + 100} for row in TEN]}))
    flags = () if stdin else (f"--instances={request}",)
    with request.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        done = keyjoin("predict", f"--model={BOSTON}/model", *flags)
    assert (done.code, done.err) == (0, "")
    answer = json.loads(done.out)["predictions"]
    assert [list(prediction) for prediction in answer] == [["prediction", "key"]] * 10
    assert [prediction["key"] for prediction in answer] == list(range(100, 110))
    assert np.allclose([prediction["prediction"] for prediction in answer], predicted(TEN), rtol=1e-6)


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "maximum recursion depth"),
        ("[]", "no list of objects or values called instances"),
        ('{"instances": []}', "no list of objects or values called instances"),
        ('{"instances": [[1, 2]]}', "a list of 2 where 13 are expected (wrong_shape)"),
        ('{"instances": [{"feature": [1]}]}', "(did you mean feature?)"),
        (
            '{"instances": [{"features": [1, 2]}]}',
            "instance 0: field features: a list of 2 where 13 are expected (wrong_shape)",
        ),
        ('{"instances": [{"features": null}]}', "instance 0: field features: null (null)"),
    ],
)
def test_a_wrong_request_is_refused(
    keyjoin: Callable[..., Result], tmp_path: Path, request_text: str, message: str
) -> None:
    (tmp_path / "r.json").write_text(request_text)
    done = keyjoin("predict", f"--model={BOSTON}/model", f"--instances={tmp_path / 'r.json'}")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err


def test_a_model_of_the_keras_2_years_is_scored_inspected_and_wrapped(
    keyjoin: Callable[..., Result], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.array([row["features"] for row in ROWS], np.float32))
    paths = [str(tmp_path / name) for name in ("old", "y.npy", "x.npy")]
    subprocess.run([sys.executable, "-c", KERAS_2, *paths], check=True, capture_output=True)
    expected = np.load(tmp_path / "y.npy")
    # Why this test is needed: without Keras 2, TensorFlow's own loader refuses such a model.
    load = f"import sys; sys.modules['tf_keras'] = None; import tensorflow as tf; tf.saved_model.load({paths[0]!r})"
    refused = subprocess.run(
        [sys.executable, "-c", load],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "add_slot" in refused.stderr
    done = keyjoin("run", f"--input={BOSTON}/data", f"--model={paths[0]}")
    assert done.code == 0, done.err
    assert np.allclose([row["price"] for row in done.rows()], expected, rtol=1e-4, atol=1e-4)
    assert "price" in keyjoin("inspect", f"--model={paths[0]}").out
    assert keyjoin("wrap", f"--model={paths[0]}", f"--output={tmp_path / 'keyed'}").code == 0
    keyed = keyjoin("run", f"--input={BOSTON}/data", f"--model={tmp_path / 'keyed'}")
    assert [row["prediction"] for row in keyed.rows()] == [row["price"] for row in done.rows()]
    assert keyed.manifest()["model"]["key_outputs"] == {"key": False}


def test_inspect_shows_the_contract(keyjoin: Callable[..., Result]) -> None:
    shown = keyjoin("inspect", f"--model={BOSTON}/model")
    assert [line.split() for line in shown.out.splitlines()[6:]] == [
        ["input", "features", "float32", "[N,", "13]", "features"],
        ["key", "key", "int32", "[N]", "none:", "keyjoin", "numbers", "the", "rows", "of", "a", "batch"],
        ["prediction", "prediction", "float32", "[N,", "1]"],
        ["key", "echo", "key", "whole", "output"],
    ]
    document = json.loads(keyjoin("inspect", f"--model={BOSTON}/model", "--json").out)
    assert document["inputs"] == [{"name": "features", "dtype": "float32", "shape": [None, 13]}]
    assert document["predictions"] == [{"name": "prediction", "dtype": "float32", "shape": [None, 1]}]
    assert document["key"] == {"name": "key", "dtype": "int32", "shape": [None], "outputs": {"key": False}}
    assert len(document["sha256"]) == 64
    assert keyjoin("inspect", f"--model={BOSTON}/model", "--signature=x").code == 2
