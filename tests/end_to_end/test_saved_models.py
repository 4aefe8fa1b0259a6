"""keyjoin's predictions equal those of the model itself, for every kind of SavedModel and every way to save it."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.commands.wrap import wrap
from pipeline.model import add_key
from tests.conftest import ROOT, Result
from tests.support import models
from tests.support.resources import RESOURCES, holding
from tests.support.saved_models import (
    KEYS,
    MATRIX,
    MODULE,
    ROWS,
    SAVE,
    Arrays,
    Saved,
    half_saved,
    tf_keras,
    two_signatures,
    v1,
)
from transforms.saved_model import loader

TF_KERAS = {
    ("`tf_keras`, `Normalization`, its optimizer", "model.save"): "optimizer",
    ("`tf_keras`, `StringLookup`, `Embedding`, `LSTM`", "model.save"): "lookup",
}
ALL = [*MATRIX, *TF_KERAS]
# Models that have no key yet and whose graph contains their variables twice.
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
    """Renames a single input to the name in the signature, because Keras chooses that name."""
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
    model = loader.load(made.path)
    assert_equal(model(fed(made.rows, list(model.inputs))), made.expected)


def call_in_session(folder: str, rows: Arrays) -> Arrays:
    return loader.load(folder)(rows)


def call_saved(folder: str, rows: Arrays) -> Arrays:
    """Calls a signature loaded by `tf.saved_model.load`."""
    function = tf.saved_model.load(folder).signatures["serving_default"]
    answer = function(**{name: tf.constant(value) for name, value in rows.items()})
    return {name: value.numpy() for name, value in answer.items()}


def call_in_plain_session(folder: str, rows: Arrays, signature: str = "serving_default") -> Arrays:
    """Calls a signature in a plain session, as TensorFlow Serving does, without any code of keyjoin."""
    with v1.Session(graph=tf.Graph()) as session:
        definition = v1.saved_model.load(session, ["serve"], folder).signature_def[signature]
        feed = {definition.inputs[name].name: value for name, value in rows.items()}
        return session.run({name: info.name for name, info in definition.outputs.items()}, feed)


@pytest.mark.parametrize("case", TWICE, ids=" by ".join)
def test_wrapped_it_loads_anywhere_and_gives_the_same(
    case: tuple[str, str], saved: Callable[[tuple[str, str]], Saved], tmp_path: Path
) -> None:
    made, folder = saved(case), str(tmp_path / "keyed")
    names = list(loader.load(made.path).inputs)
    wrap(made.path, folder, "function")
    rows = {**fed(made.rows, names), "key": KEYS}
    expected = made.expected if len(made.expected) > 1 else {"prediction": next(iter(made.expected.values()))}
    for call in (call_in_session, call_in_plain_session, call_saved):
        assert_equal(call(folder, rows), {**expected, "key": KEYS})


def test_the_other_signatures_of_a_wrapped_copy_load_anywhere_too(tmp_path: Path) -> None:
    made, folder = two_signatures(tmp_path / "model"), str(tmp_path / "keyed")
    wrap(made.path, folder, "function")
    assert_equal(call_in_plain_session(folder, made.rows, "other"), made.expected)


@pytest.mark.parametrize("kind", range(len(RESOURCES)))
def test_each_kind_alone(kind: int, tmp_path: Path) -> None:
    x = np.arange(ROWS, dtype=np.float32)
    answer = call_in_session(holding(tmp_path / "model", [kind, kind], nested=False), {"x": x})
    assert [values.tolist() for _, values in sorted(answer.items())] == [(x + 1).tolist(), (x + 2).tolist()]


@given(st.lists(st.integers(0, len(RESOURCES) - 1), min_size=1, max_size=8), st.booleans())
@settings(max_examples=8)
def test_each_variable_and_table_keeps_its_own_value(kinds: list[int], nested: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = holding(Path(folder, "model"), kinds, nested=nested)
        wrap(path, f"{folder}/keyed", "function")
        x = np.arange(ROWS, dtype=np.float32)
        expected = [(x + number).tolist() for number in range(1, len(kinds) + 1)]
        answers = [call_in_session(path, {"x": x})]
        answers += [call(f"{folder}/keyed", {"x": x, "key": KEYS}) for call in (call_in_plain_session, call_saved)]
    for answer in answers:
        answer.pop("key", None)
        assert [answer[name].tolist() for name in sorted(answer)] == expected


# Damaged models are refused before the run


def damage(folder: Path, source: str, how: str) -> str:
    """Copies a model, and damages the copy."""
    shutil.copytree(source, folder)
    index = folder / "variables" / "variables.index"
    if how == "no checkpoint":
        index.unlink()
    elif how == "damaged checkpoint":
        index.write_bytes(b"x" * 100)
    else:
        saved = add_key.read(str(folder))
        saved.meta_graphs[0].ClearField("object_graph_def")
        add_key.write(saved, str(folder))
    return str(folder)


NO_VALUE = "the signature serving_default reads the variable .*, which neither the checkpoint nor an initializer gives a value; "
DAMAGED = {
    "no checkpoint": f"{NO_VALUE}there is no .*variables.index: copy the whole folder",
    "damaged checkpoint": "the checkpoint .*variables cannot be read: .*; copy the whole folder",
    "no object graph": f'{NO_VALUE}save the model again where it was made, a Keras model with model.export\\("FOLDER"\\)',
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_variable_without_a_value_is_refused_by_name(
    how: str, saved: Callable[[tuple[str, str]], Saved], keyjoin: Callable[..., Result], lines: Any, tmp_path: Path
) -> None:
    path = damage(tmp_path / "model", saved(TWICE[0]).path, how)
    flags = (f"--model={path}", f"--input={lines({'x': [1, 2, 3]})}")
    commands = [
        ("inspect", flags[0]),
        ("check", *flags),
        ("run", *flags),
        ("wrap", flags[0], f"--output={tmp_path / 'keyed'}"),
    ]
    for command in commands:
        done = keyjoin(*command)
        assert done.code == 2
        assert re.search(DAMAGED[how], done.err)
        assert len(done.err.splitlines()) == 1


def test_a_table_without_an_initializer_is_refused_by_name(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    flags = (f"--model={model(models.without_initializer)}", f"--input={lines({'x': [1, 2, 3]})}")
    for command in ("check", "run"):
        done = keyjoin(command, *flags)
        assert done.code == 2
        assert "output prediction reads the table HashTableV2, which has no value" in done.err
        assert not done.output.exists()
    done = keyjoin("run", *flags, "--output_fields=row,same")
    assert (done.code, done.rows()) == (0, [{"x": [1, 2, 3], "same": 1.0}])


def test_outputs_that_can_be_computed_are_written(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    flags = (f"--model={model(half_saved)}", f"--input={lines({'x': 4})}")
    done = keyjoin("run", *flags)
    assert done.code == 2
    assert "output z reads the variable lost, which has no value" in done.err
    done = keyjoin("run", *flags, "--output_fields=row,y")
    assert (done.code, done.rows()) == (0, [{"x": 4, "y": 8.0}])
    assert "reads the variable lost" in keyjoin("inspect", flags[0]).out


# The command line


def test_every_command_takes_a_model_whose_graph_has_its_variables_twice(
    saved: Callable[[tuple[str, str]], Saved], keyjoin: Callable[..., Result], lines: Any, tmp_path: Path
) -> None:
    made = saved(("a function that adds a key", MODULE))
    rows = [{"features": row} for row in made.rows["features"].tolist()]
    expected = made.expected["prediction"]
    model = f"--model={made.path}"
    assert "key echo" in keyjoin("inspect", model).out
    for flags in ((), ("--isolate",)):
        run = keyjoin("run", model, f"--input={lines(*rows, {'features': [1, 2]})}", "--max_bad_rows=1", *flags)
        assert run.code == 0
        np.testing.assert_allclose([row["prediction"] for row in run.rows()], expected, rtol=1e-5, atol=1e-6)
    assert keyjoin("verify", f"--run={run.output}", model, "--rescore=6").code == 0
    repaired = tmp_path / "repaired.jsonl"
    key = run.dead()[0]["key"]
    repaired.write_text(json.dumps({"key": key, "row": json.dumps(rows[0])}) + "\n")
    done = keyjoin("replay", f"--run={run.output}", model, f"--rows={repaired}")
    assert done.code == 0, done.err
    request = tmp_path / "request.json"
    instances = [{**row, "key": key} for row, key in zip(rows, made.rows["key"].tolist(), strict=True)]
    request.write_text(json.dumps({"instances": instances}))
    answer = json.loads(keyjoin("predict", model, f"--instances={request}").out)["predictions"]
    assert [row["key"] for row in answer] == made.rows["key"].tolist()
    np.testing.assert_allclose([row["prediction"] for row in answer], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_workers_of_a_remote_runner_take_it_too(
    saved: Callable[[tuple[str, str]], Saved], keyjoin: Callable[..., Result], lines: Any
) -> None:
    made = saved(("a function that adds a key", SAVE))
    rows = [{"features": row} for row in made.rows["features"].tolist()]
    flags = (f"--model={made.path}", f"--input={lines(*rows)}")
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    here, there = keyjoin("run", *flags), keyjoin("run", *flags, *prism)
    assert (here.code, there.code) == (0, 0), there.err
    assert there.rows() == here.rows()
