"""`{"b64": …}` holds bytes in JSON, as a value or as a whole row; keyjoin reads it as TensorFlow Serving does."""

import base64
import json
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

from keyjoin import KeyedPredict
from tests.conftest import Result, raw_of
from tests.support import models
from transforms import columns

WORDS = [b"hello", b"hi", b"", b"\xff\x00" * 40]


def encoded(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def sizes(folder: Path, name: str = "data", *shape: int) -> str:
    """A model that returns the length of its string."""
    x = models.spec(name, *shape, dtype=tf.string)
    signature = tf.function(lambda x: {"n": tf.strings.length(x)}, input_signature=[x])
    module = tf.Module()
    tf.saved_model.save(module, str(folder), {"serving_default": signature})
    return str(folder)


def keyed_sizes(folder: Path) -> str:
    def call(data: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"n": tf.strings.length(data), "key": tf.identity(key)}

    return models.save(folder, call, models.spec("data", dtype=tf.string), models.spec("key", dtype=tf.int64))


def two(folder: Path) -> str:
    def call(data: tf.Tensor, other: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"n": tf.strings.length(data) + tf.strings.length(other)}

    return models.save(folder, call, models.spec("data", dtype=tf.string), models.spec("other", dtype=tf.string))


@given(st.binary(max_size=200), st.text(" \t\n\v\f\r", max_size=3), st.integers(1, 90), st.booleans())
def test_white_space_and_missing_padding_change_nothing(value: bytes, space: str, every: int, padded: bool) -> None:
    text = base64.b64encode(value).decode()
    text = text if padded else text.rstrip("=")
    spread = space.join(text[at : at + every] for at in range(0, len(text), every))
    assert columns.unbase64(space + spread + space) == value


@pytest.mark.parametrize(
    "text",
    ["a", "=", "aGk==", "aG=k", "aGk=aGk=", "_-8=", "aGk.", "aGk\0", "aGk,aGk=", "aé==", "aGk\u2003=", "aGk\xa0="],
)
def test_what_is_not_base64_is_no_other_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"base64|padding|ASCII"):
        columns.unbase64(text)


@pytest.mark.parametrize("build", [sizes, keyed_sizes, lambda folder: sizes(folder, "data", 1)])
def test_a_row_is_the_value_of_the_only_input(
    keyjoin: Callable[..., Result], lines: Callable[..., str], tmp_path: Path, build: Any
) -> None:
    model = build(tmp_path / "model")
    flags = (f"--input={lines(*map(encoded, WORDS))}", f"--model={model}")
    for flag in ("--chunk_bytes=10", "--isolate"):
        done = keyjoin("run", *flags, flag)
        assert done.code == 0, done.err
        assert np.ravel([row["n"] for row in done.rows()]).tolist() == [len(word) for word in WORDS]
        assert '<- the row itself, {"b64": …}' in done.out
        again = keyjoin("verify", f"--run={done.output}", "--read_data=100%", "--rescore=9", f"--model={model}")
        assert again.code == 0, again.out + again.err


def test_a_row_whose_base64_is_damaged_is_a_dead_letter_and_repaired_by_replay(
    keyjoin: Callable[..., Result], lines: Callable[..., str], tmp_path: Path
) -> None:
    wrong = [{"b64": "aGk=="}, {"b64": 5}, {"b64": None}, {"data": "hi"}, {"b64": {"b64": "aGk="}}, {"b64": ["aGk="]}]
    good = [encoded(word) for word in WORDS * 3]
    path = lines(*good, *wrong, b'{"b64": "aGk=", "b64": "aGk="}')
    done = keyjoin("run", f"--input={path}", f"--model={sizes(tmp_path / 'model')}", "--max_bad_rows=1.0")
    assert [row["n"] for row in done.rows()] == [len(word) for word in WORDS * 3]
    (_, first), *others = [(letter["reason"], letter["message"]) for letter in done.dead()]
    assert first.startswith("field b64: not base64: ")
    assert others == [
        ("wrong_type", "field b64: the number 5, not base64"),
        ("null", "field b64: null"),
        ("missing", "field b64: not in the row"),
        ("wrong_type", "field b64: an object, not base64"),
        ("wrong_type", "field b64: a list of 1, not base64"),
        ("duplicate_name", "field b64: given 2 times"),
    ]
    assert [json.loads(raw_of(letter)) for letter in done.dead()[:6]] == wrong
    rows = tmp_path / "repaired.jsonl"
    rows.write_text(json.dumps({**done.dead()[0], "row": json.dumps(encoded(b"repaired"))}) + "\n")
    replayed = keyjoin("replay", f"--run={done.output}", f"--rows={rows}")
    assert replayed.code == 0, replayed.err
    assert [row["n"] for row in done.rows()] == [*(len(word) for word in WORDS * 3), len(b"repaired")]


def test_base64_with_line_ends_inside_of_a_field_and_in_lists(
    keyjoin: Callable[..., Result], lines: Callable[..., str], tmp_path: Path
) -> None:
    long = {"b64": base64.encodebytes(b"a" * 60).decode()}
    path = lines({"data": long}, {"data": {"b64": "aGk"}}, {"data": "aGk="})
    done = keyjoin("run", f"--input={path}", f"--model={sizes(tmp_path / 'model')}")
    assert [row["n"] for row in done.rows()] == [60, 2, 4]
    pairs = lines({"data": [long, {"b64": " a G k "}]}, {"data": ["aGk=", "x"]}, name="pairs.jsonl")
    done = keyjoin("run", f"--input={pairs}", f"--model={sizes(tmp_path / 'pairs', 'data', 2)}")
    assert [row["n"] for row in done.rows()] == [[60, 2], [4, 1]]


class TestWhereARowIsNoValue:
    """A field named b64 in a row. It is taken as text only if a flag says so; nothing is guessed."""

    def test_a_field_called_b64_is_text_where_it_is_named(
        self, keyjoin: Callable[..., Result], lines: Callable[..., str], tmp_path: Path
    ) -> None:
        flags = (f"--input={lines(*map(encoded, WORDS))}", f"--model={sizes(tmp_path / 'model')}")
        done = keyjoin("run", *flags, "--input_map", "data=b64")
        assert [row["n"] for row in done.rows()] == [len(encoded(word)["b64"]) for word in WORDS]

    def test_beside_other_fields_it_is_ambiguous(
        self, keyjoin: Callable[..., Result], lines: Callable[..., str], tmp_path: Path
    ) -> None:
        rows = [{**encoded(word), "id": at} for at, word in enumerate(WORDS)]
        done = keyjoin("run", f"--input={lines(*rows)}", f"--model={sizes(tmp_path / 'model')}")
        assert (done.code, "--input_map data=b64" in done.err, '{"data": {"b64": …}}' in done.err) == (2, True, True)

    def test_an_input_called_b64(
        self, keyjoin: Callable[..., Result], lines: Callable[..., str], tmp_path: Path
    ) -> None:
        model = sizes(tmp_path / "model", "b64")
        whole, field = lines(*map(encoded, WORDS)), lines({"b64": "aGk=", "id": 1}, name="field.jsonl")
        inner = lines({"b64": {"b64": "aGk="}}, name="inner.jsonl")
        found = [
            [row["n"] for row in keyjoin("run", f"--input={path}", f"--model={model}", *flags).rows()]
            for path, *flags in ((whole,), (whole, "--input_map=b64=b64"), (field,), (inner,))
        ]
        assert found == [[len(w) for w in WORDS], [len(encoded(w)["b64"]) for w in WORDS], [4], [2]]

    @pytest.mark.parametrize("build", [two, lambda folder: sizes(folder, "data", 2)])
    def test_a_model_that_takes_more_than_one_value(
        self, keyjoin: Callable[..., Result], lines: Callable[..., str], tmp_path: Path, build: Any
    ) -> None:
        done = keyjoin("run", f"--input={lines(*map(encoded, WORDS))}", f"--model={build(tmp_path / 'model')}")
        assert (done.code, "no field of the rows feeds the model's input" in done.err) == (2, True)


@pytest.mark.parametrize("build", [sizes, keyed_sizes, lambda folder: sizes(folder, "b64")])
def test_online(keyjoin: Callable[..., Result], tmp_path: Path, build: Any) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": [encoded(word) for word in WORDS]}))
    done = keyjoin("predict", f"--model={build(tmp_path / 'model')}", f"--instances={request}")
    assert done.code == 0, done.err
    assert [answer["n"] for answer in json.loads(done.out)["predictions"]] == [len(word) for word in WORDS]
    request.write_text(json.dumps({"instances": [encoded(b"hi"), {"b64": "a"}]}))
    done = keyjoin("predict", f"--model={tmp_path / 'model'}", f"--instances={request}")
    assert (done.code, "instance 1:" in done.err, "not base64" in done.err) == (2, True, True)


def test_in_a_pipeline_of_ones_own(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"b64": "aGk="}, {"data": b"hello"}, {"b64": "a"}, {"data": "aGk="}]
    with beam.Pipeline("FnApiRunner") as root:
        scored = root | beam.Create(rows) | KeyedPredict(sizes(tmp_path / "model"))
        expected = [{**row, "n": n} for row, n in zip((rows[0], rows[1], rows[3]), (2, 5, 4), strict=True)]
        assert_that(scored.joined, equal_to(expected), label="Joined")
        dead = scored.dead_letters | beam.Map(lambda d: (d.row, d.reason))
        assert_that(dead, equal_to([(rows[2], "wrong_type")]), label="Dead")
