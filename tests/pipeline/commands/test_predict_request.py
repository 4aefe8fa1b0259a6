"""The request of `keyjoin predict`: keyjoin uses each member of it, or refuses the request."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands import predict
from pipeline.options.command_options import PredictOptions
from pipeline.options.flag import flags_of
from tests.conftest import Result
from tests.support import models
from tests.transforms.saved_model.test_contract import with_unwanted
from transforms.errors import UsageError


def two_signatures(folder: Path) -> str:
    """`serving_default` doubles x, `half` halves it."""
    module = tf.Module()
    for name, factor in (("double", 2.0), ("half", 0.5)):
        function = tf.function(lambda x, factor=factor: {"y": x * factor}, input_signature=[models.spec("x")])
        setattr(module, name, function)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.double, "half": module.half})
    return str(folder)


@pytest.fixture
def ask(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> Callable[..., Result]:
    """Sends a request to the model with two signatures."""

    def call(request: dict[str, Any], *flags: str) -> Result:
        (tmp_path / "r.json").write_text(json.dumps(request))
        return keyjoin("predict", f"--model={model(two_signatures)}", f"--instances={tmp_path / 'r.json'}", *flags)

    return call


@pytest.mark.parametrize(
    ("more", "flags", "y"),
    [
        ({}, (), 8.0),
        ({"signature_name": "serving_default"}, (), 8.0),
        ({"signature_name": "half"}, (), 2.0),
        ({"signature_name": "half"}, ("--signature=half",), 2.0),
        ({}, ("--signature=half",), 2.0),
        ({"parameters": None}, (), 8.0),
        ({"parameters": {}}, (), 8.0),
    ],
)
def test_the_signature_that_a_request_names_is_called(ask: Any, more: Any, flags: Any, y: float) -> None:
    done = ask({"instances": [{"x": 4.0}], **more}, *flags)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {"predictions": [{"y": y}]}


@pytest.mark.parametrize(
    ("more", "flags", "message"),
    [
        ({"signature_name": "hlaf"}, (), "has no signature hlaf (did you mean half?)"),
        ({"signature_name": 1}, (), "signature_name is no text"),
        (
            {"signature_name": "serving_default"},
            ("--signature=half",),
            "the request's signature_name is serving_default",
        ),
        ({"parameters": {"a": 1}}, (), "takes no parameters"),
        ({"signature": "half"}, (), "unknown signature in it (did you mean signature_name?)"),
        ({"inputs": {"x": [4.0]}}, (), "inputs is the columnar format"),
    ],
)
def test_what_is_not_used_is_refused(ask: Any, more: Any, flags: Any, message: str) -> None:
    done = ask({"instances": [{"x": 4.0}], **more}, *flags)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err


names = st.text(max_size=3)
objects = st.lists(st.tuples(names, st.integers()), max_size=4)


def written(pairs: list[tuple[str, Any]]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs) + "}"


@given(st.lists(objects, min_size=1, max_size=3))
def test_an_instance_is_read_whole_or_the_request_is_refused(
    tmp_path_factory: pytest.TempPathFactory, instances: list[list[tuple[str, int]]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text('{"instances": [' + ", ".join(map(written, instances)) + "]}")
    if all(len(dict(pairs)) == len(pairs) for pairs in instances):
        read, _ = predict.read_request(str(path), "serving_default")
        assert read == [dict(pairs) for pairs in instances]
    else:
        with pytest.raises(UsageError, match="times in an object"):
            predict.read_request(str(path), "serving_default")


@pytest.mark.parametrize("case", ["a constant", "one for all"])
def test_the_remedy_for_an_output_that_is_not_one_a_row_is_one_of_the_command(
    case: str, keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"instances": [{"x": 1.0}, {"x": 2.0}]}))
    folder = f"--model={model(with_unwanted, case)}"
    predicted = keyjoin("predict", folder, f"--instances={tmp_path / 'r.json'}")
    flags = {f"--{name}" for name in flags_of(PredictOptions)}
    assert set(re.findall(r"--\w+", predicted.err)) <= flags
    run = keyjoin("run", folder, f"--input={lines({'x': 1.0}, {'x': 2.0})}")
    for done in (predicted, run):
        assert (done.code, "export the model without it" in done.err) == (2, True), done.err
    (remedy,) = re.findall(r"--output_fields (\S+)", run.err)
    assert keyjoin("run", folder, f"--input={lines({'x': 1.0})}", f"--output_fields={remedy}").code == 0


ROWS: list[dict[str, Any]] = [
    {"r": {"a": 1}, "b": "2", "x": [1, 2, 3], "n": 5},
    {"r": {"a": 2}, "b": None, "x": [1, 2, 4], "n": 6},
]
FLAGS: list[tuple[str, ...]] = [
    ("--features=r.a,b,n", "--missing", "b=1"),
    ("--features", '["n", ["r", "a"], "n"]'),
    ("--input_map", "x=x"),
    ("--input_map", '{"x": ["x"]}', "--strict_types"),
]


@pytest.mark.parametrize("build", [models.plain, models.keyed])
@pytest.mark.parametrize("flags", FLAGS)
def test_what_feeds_the_inputs_is_said_as_in_a_run(
    build: Any, flags: tuple[str, ...], keyjoin: Any, lines: Any, model: Any, tmp_path: Path
) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"instances": ROWS}))
    predicted = keyjoin("predict", f"--model={model(build)}", f"--instances={tmp_path / 'r.json'}", *flags)
    run = keyjoin("run", f"--model={model(build)}", f"--input={lines(*ROWS)}", *flags)
    assert (predicted.code, run.code) == (0, 0), predicted.err + run.err
    answers = json.loads(predicted.out)["predictions"]
    assert [answer["prediction"] for answer in answers] == [row["prediction"] for row in run.rows()]
    assert [answer.get("key", number) for number, answer in enumerate(answers)] == [0, 1]


@pytest.mark.parametrize(
    ("instances", "flags", "message"),
    [
        (ROWS, ("--features=r.a,b,n",), "instance 1: field b: null (null)"),
        (ROWS, ("--features=r.a,b,n", "--strict_types"), 'instance 0: field b: the string "2", not a number'),
        (ROWS, ("--input_map", "y=x"), "--input_map names y, but the model's inputs are ['x']"),
        (ROWS, ("--features=r.a,r.b,n",), "the rows have no field r.b"),
        (ROWS, ("--missing", "q=1"), "--missing names the field q, which feeds no input of the model"),
        (ROWS, ("--input_map", "x=x", "x=n"), "--input_map names the model input x twice"),
        ([[1, 2, 3]], ("--features=a,b,c",), "the rows are JSON values without any, such as [1, 2, 3]"),
        ([[1, 2, 3]], ("--input_map=x=a",), "the rows are JSON values without any, such as [1, 2, 3]"),
        ([["1", 2, 3]], ("--strict_types",), 'instance 0: field x: the string "1", not a number'),
    ],
)
def test_flags_that_do_not_fit_the_instances_are_refused(
    instances: Any, flags: tuple[str, ...], message: str, keyjoin: Any, model: Any, tmp_path: Path
) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"instances": instances}))
    done = keyjoin("predict", f"--model={model(models.plain)}", f"--instances={tmp_path / 'r.json'}", *flags)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert message in done.err


def test_a_key_is_taken_from_a_field_of_another_name(keyjoin: Any, model: Any, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"instances": ROWS}))
    flags = (f"--model={model(models.keyed)}", f"--instances={tmp_path / 'r.json'}", "--input_map", "key=n")
    answers = json.loads(keyjoin("predict", *flags).out)["predictions"]
    assert [answer["key"] for answer in answers] == [5, 6]
