"""Rows that are JSON values, which AI Platform and Vertex AI accept as instances: `[1.0, 2.0]`, `31`, `"text"`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Result
from tests.support.blocks import block_of, read
from transforms.columns import to_array
from transforms.formats import jsonl
from transforms.formats.jsonl import diagnose
from transforms.mapping import feature_mapping
from transforms.records import Feature
from transforms.saved_model.model import Contract, Tensor

ARRAYS = [b"[1.0, 2, 3]", b" [4, 5, 6.50]\r", b"[7, 8]", b"", b'{"x": [1, 2, 3]}', b"null", b'["1", 2, 3]']


class Sums(tf.Module):  # type: ignore[misc]
    """Returns the sum of x, and with two outputs also its largest value."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    def call(self, x: Any) -> dict[str, Any]:
        found = {"sum": tf.reduce_sum(x, 1), "most": tf.reduce_max(x, 1)}
        return dict(list(found.items())[: self.outputs])


def saved(tmp_path: Path, outputs: int = 1) -> str:
    module, path = Sums(outputs), str(tmp_path / f"model-{outputs}")
    tf.saved_model.save(module, path, signatures=module.call)
    return path


def parts(result: Result) -> list[Any]:
    text = b"".join(path.read_bytes() for path in sorted(result.output.glob("[!_]*.jsonl")))
    return [line for line in text.split(b"\n") if line]


@pytest.fixture
def arrays(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(ARRAYS))
    return str(path)


def test_values_are_written_as_instance_and_prediction(
    keyjoin: Callable[..., Result], tmp_path: Path, arrays: str
) -> None:
    model = saved(tmp_path)
    done = keyjoin("run", f"--input={arrays}", f"--model={model}", "--max_bad_rows=1.0")
    assert done.code == 0, done.err
    assert parts(done) == [
        b'{"instance": [1.0, 2, 3], "prediction": 6.0}',
        b'{"instance": [4, 5, 6.50], "prediction": 15.5}',
        b'{"instance": ["1", 2, 3], "prediction": 6.0}',
    ]
    dead_letters = [
        json.loads(line) for line in next((done.output / "_keyjoin/dead_letters").iterdir()).read_text().splitlines()
    ]
    assert [(one["row"], one["reason"], one["message"]) for one in dead_letters] == [
        ("[7, 8]", "wrong_shape", "the value: a list of 2 where 3 are expected"),
        ('{"x": [1, 2, 3]}', "wrong_shape", "the value: an object where a list of 3 is expected"),
        ("null", "null", "the value: null"),
    ]
    verified = keyjoin("verify", f"--run={done.output}", f"--model={model}", "--rescore=3")
    assert verified.code == 0, verified.out


def test_bad_values_stand_in_the_parts_of_a_left_join_and_several_predictions_are_an_object(
    keyjoin: Callable[..., Result], tmp_path: Path, arrays: str
) -> None:
    path = Path(arrays)
    path.write_bytes(path.read_bytes() + b"\n[1,\n")
    flags = ("--max_bad_rows=1.0", "--bad_rows=null", "--output_fields=row,key")
    model = saved(tmp_path, 2)
    done = keyjoin("run", f"--input={arrays}", f"--model={model}", *flags)
    assert done.code == 0, done.err
    found = [json.loads(line) for line in parts(done)]
    assert found[0] == {
        "instance": [1.0, 2, 3],
        "prediction": {"most": 3.0, "sum": 6.0},
        "error": None,
        "key": f"{arrays}#0",
    }
    assert [row.get("instance", "none") for row in found] == [
        [1.0, 2, 3], [4, 5, 6.5], [7, 8], {"x": [1, 2, 3]}, None, ["1", 2, 3], "none",
    ]  # fmt: skip
    assert [row["prediction"] is None for row in found] == [False, False, True, True, True, False, True]
    assert (found[-1]["error"]["reason"], found[-1]["error"]["row"]) == ("not_json", "[1,")
    verified = keyjoin("verify", f"--run={done.output}", f"--model={model}", "--rescore=3")
    assert verified.code == 0, verified.out


def test_repaired_values_are_replayed_into_their_places(
    keyjoin: Callable[..., Result], tmp_path: Path, arrays: str
) -> None:
    done = keyjoin("run", f"--input={arrays}", f"--model={saved(tmp_path)}", "--max_bad_rows=1.0")
    place = Path(arrays).read_bytes().index(b"[7, 8]")
    repaired = tmp_path / "repaired"
    repaired.write_text(json.dumps({"key": f"{arrays}#{place}", "row": [7, 8, 9]}))
    again = keyjoin("replay", f"--run={done.output}", f"--rows={repaired}")
    assert again.code == 0, again.err
    assert parts(done)[2] == b'{"instance": [7, 8, 9], "prediction": 24.0}'
    assert len(parts(done)) == 4


@pytest.mark.parametrize("flag", ["--key_field=x", "--include_fields=x", "--exclude_fields=x", "--prediction_prefix=p_",
                                  "--features=x", "--input_map=x=y"])  # fmt: skip
def test_flags_that_name_fields_are_refused(
    keyjoin: Callable[..., Result], tmp_path: Path, arrays: str, flag: str
) -> None:
    asked = ["--output_fields=key"] if flag.startswith("--key_field") else []
    done = keyjoin("check", f"--input={arrays}", f"--model={saved(tmp_path)}", "--max_bad_rows=1.0", flag, *asked)
    assert done.code == 2
    assert "the rows are JSON values" in done.err
    assert done.err.count("\n") == 1


values = st.sampled_from(
    ["1", "-2.5", "1e3", '"1"', "[1]", "[]", "null", "true", "{}", '{"instance": 1}', '1, "x": 2', '1, "instance": 2',
     '1} {"instance": 2', '1}, {"instance": 2', "1 2", "1,", "[1", '"a', "NaN", "1e999", "1 // x", '"\\ud800"', "\u0661"]
)  # fmt: skip


@given(st.lists(values, max_size=8))
def test_a_value_is_read_only_if_the_line_is_one_json_value(lines: list[str]) -> None:
    feature = Feature("x", "float32", (), ())
    data = "".join(f"{line}\n" for line in lines).encode()
    inputs, bad = read(jsonl.FORMAT, data, [feature])
    numbers = {"1": 1.0, "-2.5": -2.5, "1e3": 1000.0, '"1"': 1.0}
    assert to_array(inputs["x"], feature).tolist() == [numbers[line] for line in lines if line in numbers]
    assert [one.row for one in bad] == [row for row, line in enumerate(lines) if line not in numbers]
    for one in bad:
        is_json = diagnose.syntax(lines[one.row].encode()) is None
        assert (one.reason == "not_json") != is_json or lines[one.row] in ("1e999", '"\\ud800"')


def test_most_of_the_first_rows_decide_what_rows_are() -> None:
    def sample(data: bytes) -> list[dict[str, Any]]:
        return block_of(jsonl.FORMAT, data).values()

    assert sample(b"[1]\n[2]\n{}\n") == [{"instance": [1]}, {"instance": [2]}]
    assert sample(b'[1]\n{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]
    assert sample(b'[{"x": 1}]\n') == []
    assert sample(b"[\n[1],\n[2]\n]\n") == []
    assert sample(b"[1, 2]\n[3, ") == [{"instance": [1, 2]}]


@pytest.mark.parametrize("instances", [[[1, 2, 3], [4, 5, 6]], [{"x": [1, 2, 3]}, [4, 5, 6]]])
def test_a_request_may_hold_values(keyjoin: Callable[..., Result], tmp_path: Path, instances: list[Any]) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": instances}))
    done = keyjoin("predict", f"--model={saved(tmp_path)}", f"--instances={request}")
    assert json.loads(done.out) == {"predictions": [{"sum": 6.0}, {"sum": 15.0}]}, done.err


def test_values_of_a_model_with_several_inputs_are_refused_with_the_form_to_write(
    keyjoin: Callable[..., Result], tmp_path: Path, arrays: str
) -> None:
    inputs = [tf.TensorSpec([None, 3], tf.float32, "a"), tf.TensorSpec([None, 3], tf.float32, "b")]
    module = tf.Module()
    module.call = tf.function(lambda a, b: {"y": a + b}, input_signature=inputs)
    tf.saved_model.save(module, str(tmp_path / "two"), signatures=module.call)
    done = keyjoin("check", f"--input={arrays}", f"--model={tmp_path / 'two'}")
    assert done.code == 2
    assert """['a', 'b']; write each row as an object, {"a": …, "b": …}""" in done.err


@pytest.mark.parametrize(
    ("dtype", "shape", "lines", "found"),
    [
        ("string", (), '"a"\n{"b64": "/w=="}\n"\\u00e9"\n', [b"a", b"\xff", "é".encode()]),
        ("string", (1,), '"a"\n["b"]\n"c"\n', [[b"a"], [b"b"], [b"c"]]),
        ("bool", (), "true\nfalse\n", [True, False]),
        ("int64", (), '31\n"9007199254740993"\n3.1e1\n', [31, 9007199254740993, 31]),
        ("float32", (2, 1), "[[1], [2]]\n", [[[1.0], [2.0]]]),
        ("float32", (None,), "[1]\n[1, 2]\n", [[1.0], [1.0, 2.0]]),
    ],
)
def test_values_of_all_dtypes_and_shapes_feed_the_only_input(
    dtype: str, shape: tuple[int | None, ...], lines: str, found: list[Any]
) -> None:
    data = lines.encode()
    contract = Contract("s", (Tensor("x", dtype, shape, "x:0"),), ())
    (feature,) = feature_mapping.map_inputs(contract, block_of(jsonl.FORMAT, data).values())
    assert feature.fields == ()
    inputs, bad = read(jsonl.FORMAT, data, [feature])
    assert (inputs["x"].to_pylist(), bad) == (found, [])
    assert jsonl.FORMAT.reader.least_bytes([feature]) <= min(map(len, lines.splitlines())) + 1


def test_values_go_through_models_with_a_key_and_join_later_files(
    keyjoin: Callable[..., Result], tmp_path: Path
) -> None:
    specs = [tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([None], tf.int64, "key")]
    module = tf.Module()
    module.call = tf.function(lambda x, key: {"y": tf.reduce_sum(x, 1), "key": key}, input_signature=specs)
    model, rows = str(tmp_path / "keyed"), tmp_path / "in"
    tf.saved_model.save(module, model, signatures=module.call)
    rows.mkdir()
    (rows / "a.jsonl").write_text("[1, 2]\n[3, 4]\n")
    done = keyjoin("run", f"--input={rows}", f"--model={model}")
    assert done.code == 0, done.err
    (rows / "b.jsonl").write_text("[5, 6]\n")
    more = keyjoin("run", f"--input={rows}", f"--model={model}", f"--output={done.output}", "--incremental")
    assert more.code == 0, more.err
    assert parts(done) == [
        b'{"instance": [1, 2], "prediction": 3.0}',
        b'{"instance": [3, 4], "prediction": 7.0}',
        b'{"instance": [5, 6], "prediction": 11.0}',
    ]
