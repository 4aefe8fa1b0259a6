"""Shapes that a model leaves open, and shapes without values."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import Result
from tests.support import models
from transforms import columns
from transforms.errors import RunError


def test_a_chunk_without_a_good_row_does_not_take_the_others_with_it(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    """The predictions of such a chunk have no shape, because the model is not called for it."""
    good = Path(lines({"x": [1, 2]}, {"x": [3, 4]}, name="a.jsonl"))
    lines({"x": "bad"}, name="b.jsonl")
    lines(name="c.jsonl")
    done = keyjoin(
        "run", f"--input={good.parent}", f"--model={model(models.echoing, tf.float32, None)}", "--max_bad_rows=1"
    )
    assert (done.code, done.complete()) == (0, True), done.err
    assert [row["y"] for row in done.rows()] == [[1, 2], [3, 4]]
    assert len(done.dead()) == 1


@pytest.mark.parametrize(("shape", "row"), [((None,), []), ((2, None), [[], []])])
def test_an_input_of_no_values_is_refused(
    keyjoin: Callable[..., Result], lines: Any, model: Any, shape: tuple[int | None, ...], row: Any
) -> None:
    path = lines(*[{"x": row}] * 3)
    done = keyjoin("check", f"--input={path}", f"--model={model(models.echoing, tf.float32, *shape)}")
    assert (done.code, "the model's input x (float32 [N, " in done.err) == (2, True), done.err
    assert ") would get no values: " in done.err


def test_a_prediction_of_no_values_is_reported(keyjoin: Callable[..., Result], lines: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a prediction of the shape \[2, 0\] has no values"):
        columns.from_array(np.zeros((3, 2, 0), np.float32))
    saved = models.save(tmp_path / "model", lambda x: {"y": x[:, : tf.size(x) * 0]}, models.spec("x", 2))
    done = keyjoin("run", f"--input={lines({'x': [1, 2]})}", f"--model={saved}")
    assert (done.code, done.complete()) == (1, False)
    assert "a prediction of the shape [0] has no values; export the model without it; no _SUCCESS" in done.err


def split(text: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns as many words as the longest text of the batch has."""
    return {"n": tf.strings.length(text), "words": tf.strings.split(text).to_tensor()}


def wide(text: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns as many columns as the longest text of the batch has characters, with two values each."""
    size = tf.reduce_max(tf.strings.length(text))
    return {"y": tf.zeros([tf.shape(text)[0], size, 2])}


def with_key(compute: Callable[..., dict[str, tf.Tensor]]) -> Callable[..., dict[str, tf.Tensor]]:
    return lambda text, key: {**compute(text), "key": tf.identity(key)}


def in_columns(text: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the key in the last column, after one column for each character of the longest text."""
    size = tf.maximum(tf.reduce_max(tf.strings.length(text)), 1)
    column = tf.cast(key, tf.float32)[:, None]
    return {"y": tf.concat([tf.zeros([tf.shape(text)[0], size]), column], 1)}


OF_THE_BATCH = {
    "words": (split, "words"),
    "inside": (wide, "y"),
    "with a key": (with_key(split), "words"),
    "key in a column": (in_columns, "y"),
}


@pytest.fixture
def texts(keyjoin: Callable[..., Result], lines: Any, tmp_path: Path) -> Callable[..., Result]:
    """Runs a model on texts."""

    def call(compute: Callable[..., Any], rows: list[str], *flags: str) -> Result:
        specs = [models.spec("text", dtype=tf.string), models.spec("key", dtype=tf.int64)]
        folder = tmp_path / "model"
        if not folder.exists():
            models.save(folder, compute, *specs[: compute.__code__.co_argcount])
        path = lines(*[{"text": row} for row in rows])
        return keyjoin("run", f"--input={path}", f"--model={folder}", "--batch_size=96", *flags)

    return call


@pytest.mark.parametrize("case", OF_THE_BATCH)
@pytest.mark.parametrize("flags", [(), ("--chunk_bytes=1536",), ("--batch_dependence=allow",)])
def test_a_width_that_depends_on_the_batch_is_refused(
    texts: Callable[..., Result], case: str, flags: tuple[str, ...]
) -> None:
    compute, output = OF_THE_BATCH[case]
    done = texts(compute, ["a b"] * 96 + ["a b c"] * 96, *flags)
    assert (done.code, done.output.exists()) == (2, False), done.err
    assert f"output {output} has the shape " in done.err
    assert "for one sampled row" in done.err
    assert "leave it out with --output_fields" in done.err


@pytest.mark.parametrize("case", OF_THE_BATCH)
@pytest.mark.parametrize("later", ["a b c d", "a"])
def test_another_width_than_was_sampled_ends_the_run(texts: Callable[..., Result], case: str, later: str) -> None:
    compute, output = OF_THE_BATCH[case]
    done = texts(compute, ["a b"] * 1200 + [later] * 1200, "--chunk_bytes=1536")
    assert (done.code, done.complete()) == (1, False)
    assert re.search(rf"in.jsonl\S*: output {output} has the shape \[.* in the sampled rows", done.err), done.err
    assert not any(part.stat().st_size and later.encode() + b'"' in part.read_bytes() for part in done.parts())


@pytest.mark.parametrize("case", OF_THE_BATCH)
def test_an_open_width_that_is_the_same_for_all_rows_is_kept(texts: Callable[..., Result], case: str) -> None:
    compute, output = OF_THE_BATCH[case]
    done = texts(compute, ["a b", "c d"] * 100, "--chunk_bytes=1536")
    assert (done.code, done.err) == (0, "")
    shapes = done.manifest()["model"]["output_shapes"]
    assert shapes[output] == {"words": [2], "y": [3, 2] if compute is wide else [3]}[output]


def test_a_run_is_not_resumed_with_another_width(texts: Callable[..., Result]) -> None:
    first = texts(split, ["a b"] * 4)
    (first.output / "_SUCCESS").unlink()
    manifest = first.output / "_keyjoin/manifest.json"
    manifest.write_text(manifest.read_text().replace('"words": [\n    2\n   ]', '"words": [\n    3\n   ]'))
    again = texts(split, ["a b"] * 4, f"--output={first.output}")
    assert (again.code, "the model's output_shapes was " in again.err) == (2, True), again.err


def test_where_no_row_shows_a_width_the_model_is_refused(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path
) -> None:
    saved = models.save(tmp_path / "model", split, models.spec("text", dtype=tf.string))
    done = keyjoin("run", f"--input={lines({'text': 1}, {'text': 2})}", f"--model={saved}", "--max_bad_rows=1.0")
    assert (done.code, "output words has no fixed size, and none of the first rows" in done.err) == (2, True), done.err
    done = keyjoin("run", f"--input={lines()}", f"--model={saved}")
    assert (done.code, done.complete()) == (0, True), done.err


def large(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(x) > 1e6


def other_rank(other: Callable[[tf.Tensor], tf.Tensor]) -> Callable[..., dict[str, tf.Tensor]]:
    """Returns two values a row, but an output of another rank if the batch has a large row."""
    return lambda x: {"y": tf.cond(large(x), lambda: other(x), lambda: tf.stack([x, x + 1.0], 1))}


def other_rank_with_key(x: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
    pair = tf.stack([x, tf.cast(key, tf.float32)], 1)
    return {"y": tf.cond(large(x), lambda: x, lambda: pair)}


def beside_key(x: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"y": tf.cond(large(x), lambda: x[:, None], lambda: x), "key": tf.identity(key)}


def scalar_key(x: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"y": x, "key": tf.cond(large(x), lambda: key[0], lambda: key)}


OTHER_RANK = {
    "a value": other_rank(lambda x: x),
    "a scalar": other_rank(tf.reduce_sum),
    "a matrix": other_rank(lambda x: x[:, None, None]),
    "no rows": other_rank(lambda x: x[1:]),
    "key in a column": other_rank_with_key,
    "beside the key": beside_key,
}


@pytest.mark.parametrize("flags", [(), ("--batch_size=4",)])
@pytest.mark.parametrize("first", [4, 60])
@pytest.mark.parametrize("case", OTHER_RANK)
def test_an_output_of_another_rank_costs_its_row_alone(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, case: str, first: int, flags: tuple[str, ...]
) -> None:
    compute = OTHER_RANK[case]
    specs = [models.spec("x"), models.spec("key", dtype=tf.int64)][: compute.__code__.co_argcount]
    saved = models.save(tmp_path / "model", compute, *specs)
    rows = [{"x": 2e6 if number == first else float(number)} for number in range(70)]
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={saved}", "--max_bad_rows=1.0", *flags)
    assert (done.code, done.complete()) == (0, True), done.err
    assert [row["x"] for row in done.rows()] == [row["x"] for row in rows if row["x"] < 1e6]
    assert [letter["reason"] for letter in done.dead()] in (["output_shape"], ["key_missing"])


@pytest.mark.parametrize("first", [4, 60])
def test_a_row_that_is_distinguished_in_a_call_of_its_own_gets_its_prediction(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, first: int
) -> None:
    saved = models.save(tmp_path / "model", scalar_key, models.spec("x"), models.spec("key", dtype=tf.int64))
    rows = [{"x": 2e6 if number == first else float(number)} for number in range(70)]
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={saved}", "--max_bad_rows=1.0")
    assert [row["y"] for row in done.rows()] == [row["x"] for row in rows]
