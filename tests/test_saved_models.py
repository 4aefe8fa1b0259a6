"""SavedModels of every kind, however they were saved, give what the model itself gives."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.wrap import wrap
from tests.conftest import ROOT
from tests.saved_models import KEYS, MATRIX, MODULE, SAVE, Arrays, Saved, tf_keras, v1
from transforms import saved_model

TF_KERAS = {
    ("`tf_keras`, `Normalization`, its optimizer", "model.save"): "optimizer",
    ("`tf_keras`, `StringLookup`, `Embedding`, `LSTM`", "model.save"): "lookup",
}
ALL = [*MATRIX, *TF_KERAS]
# The graph has their variables twice, and they have no key yet.
TWICE = [case for case in MATRIX if case[1] in (SAVE, MODULE) and "key" not in case[0]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, str]], Saved]:
    folder, made = tmp_path_factory.mktemp("models"), {}

    def get(case: tuple[str, str]) -> Saved:
        if case in TF_KERAS and case not in made:
            found = tf_keras(folder / "tf_keras")
            made.update({case: found[name] for case, name in TF_KERAS.items()})
        elif case not in made:
            made[case] = MATRIX[case](folder / str(len(made)))
        return made[case]

    return get


def fed(rows: Arrays, inputs: list[str]) -> Arrays:
    """Rows by the names of a signature's inputs: Keras names a single one as it likes."""
    return rows if set(rows) == set(inputs) else dict(zip(inputs, rows.values(), strict=True))


def assert_equal(answer: Arrays, expected: Arrays) -> None:
    names = dict(zip(expected, answer, strict=True)) if len(expected) == 1 else {name: name for name in expected}
    assert set(names.values()) == set(answer)
    for name, values in expected.items():
        got = answer[names[name]]
        assert got.shape == values.shape
        if values.dtype == object:
            assert got.tolist() == values.tolist()
        else:
            np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-6)


def test_the_docs_have_each_model_and_each_way_to_save_it() -> None:
    text = (ROOT / "docs" / "models.md").read_text().partition("| model | saved by |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    assert {(name, way) for name, ways in rows for way in re.findall("`(.*?)`", ways)} == set(ALL)


@pytest.mark.parametrize("case", ALL, ids=" by ".join)
def test_gives_what_the_model_itself_gives(case: tuple[str, str], saved: Callable[[tuple[str, str]], Saved]) -> None:
    made = saved(case)
    model = saved_model.load(made.path)
    assert_equal(model(fed(made.rows, list(model.inputs))), made.expected)


def call_in_session(folder: str, rows: Arrays) -> Arrays:
    return saved_model.load(folder)(rows)


def call_saved(folder: str, rows: Arrays) -> Arrays:
    """Calls a signature as `tf.saved_model.load` gives it."""
    function = tf.saved_model.load(folder).signatures["serving_default"]
    answer = function(**{name: tf.constant(value) for name, value in rows.items()})
    return {name: value.numpy() for name, value in answer.items()}


def call_in_plain_session(folder: str, rows: Arrays) -> Arrays:
    """Calls a signature in a session, as TensorFlow Serving does: nothing of keyjoin is between."""
    with v1.Session(graph=tf.Graph()) as session:
        definition = v1.saved_model.load(session, ["serve"], folder).signature_def["serving_default"]
        feed = {definition.inputs[name].name: value for name, value in rows.items()}
        return session.run({name: info.name for name, info in definition.outputs.items()}, feed)


@pytest.mark.parametrize("case", TWICE, ids=" by ".join)
def test_wrapped_it_loads_anywhere_and_gives_the_same(
    case: tuple[str, str], saved: Callable[[tuple[str, str]], Saved], tmp_path: Path
) -> None:
    made, folder = saved(case), str(tmp_path / "keyed")
    names = list(saved_model.load(made.path).inputs)
    wrap(made.path, folder, "function")
    rows = {**fed(made.rows, names), "key": KEYS}
    expected = made.expected if len(made.expected) > 1 else {"prediction": next(iter(made.expected.values()))}
    for call in (call_in_session, call_in_plain_session, call_saved):
        assert_equal(call(folder, rows), {**expected, "key": KEYS})
