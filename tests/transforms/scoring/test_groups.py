"""Rows of different lengths: one call for each shape, without padding; each row gets its own prediction."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from keyjoin import KeyedPredict
from tests.conftest import Result
from tests.support import models
from tests.support.blocks import block_of
from tests.support.examples import example, features_of, floats, ints, read_back, written
from transforms import columns
from transforms.errors import ModelError, RunError
from transforms.formats import jsonl, load
from transforms.formats.base import Format
from transforms.formats.jsonl.encode import encode
from transforms.mapping.nested import row_shapes
from transforms.predict import KeyedChunkHandler, from_ipc
from transforms.records import Feature, Features, unpack_bad
from transforms.saved_model.model import Contract, Model, Tensor

FAILING = 99
SHAPES: list[tuple[int | None, ...]] = [(None,), (None, 2), (2, None), (None, None), (None, 2, None)]


def nested(sizes: list[int], start: int = 0) -> Any:
    """Returns nested lists of these sizes that hold whole numbers, the first one being `start`."""
    return (np.arange(np.prod(sizes)) % 7 + start).reshape(sizes).tolist()


class Recorded:
    """Records its calls. Returns x, its sum, and an output whose size depends on the first size of x."""

    def __init__(self, rank: int) -> None:
        self.shapes, self.lock = list[tuple[int, ...]](), threading.Lock()
        x = Tensor("x", "int32", (None,) * rank, "x:0")
        outputs = (x._replace(name="same"), Tensor("sum", "int64", (), ""), Tensor("wide", "int64", (None, 2), ""))
        self.contract = Contract("s", (x,), outputs)
        self.model = Model({"x": x}, {t.name: t for t in outputs}, self._call)

    def _call(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        with self.lock:
            self.shapes.append(x.shape)
        if FAILING in x:
            raise ModelError("a failing row")
        wide = np.repeat(x.reshape(len(x), -1).sum(1), 2 * (x.shape[1] + 1)).reshape(len(x), -1, 2)
        return x, x.reshape(len(x), -1).sum(1), wide


def score(data: bytes, feature: Feature, batch_size: int, fmt: Format) -> tuple[Recorded, list[Any], list[int]]:
    """Returns the recorded model, each row's prediction or None, and the number of rows of each call."""
    called = Recorded(len(feature.shape))
    handler = KeyedChunkHandler(lambda: called.model, called.contract, (feature,), batch_size)
    block = block_of(fmt, data)
    inputs, unread = block.inputs((feature,))
    (result,) = handler.run_inference([Features("k", inputs)], called.model)
    made = result.inference
    found: list[Any] = [None] * len(block.positions)
    read_ = np.delete(np.arange(len(found)), [bad.row for bad in unread])
    scored = np.delete(read_, [bad.row for bad in unpack_bad(made.bad)])
    batch = from_ipc(made.columns)
    texts = {name: encode(batch[name]).to_pylist() for name in batch.schema.names}
    for place, row in enumerate(scored):
        found[row] = {name: json.loads(text[place]) for name, text in texts.items()}
    return called, found, [shape[0] for shape in called.shapes]


@st.composite
def ragged(draw: st.DrawFn) -> tuple[tuple[int | None, ...], list[Any], list[bool]]:
    """Draws a shape, rows, and for each row whether it is an array of that shape."""
    shape = draw(st.sampled_from(SHAPES))
    sizes = st.tuples(*[st.integers(0, 3) if size is None else st.just(size) for size in shape])
    rows, good = [], []
    for _ in range(draw(st.integers(0, 25))):
        row = nested(list(draw(sizes)), draw(st.integers(0, 5)))
        wrong = draw(st.sampled_from(["", "", "", "longer", "deeper", "null", "failing"]))
        is_list = bool(row) and len(shape) > 1
        if wrong == "longer" and is_list and len(row) > 1:
            row[-1] = [*row[-1], *(row[-1][:1] or [1])] if row[-1] else [[1]] if len(shape) > 2 else [1]
        elif wrong == "deeper":
            row = [row]
        elif wrong == "null":
            row = None
        elif wrong == "failing" and np.asarray(row).size:
            row = np.where(np.arange(np.asarray(row).size).reshape(np.asarray(row).shape) == 0, FAILING, row).tolist()
        rows.append(row)
        good.append(_is_array(row, shape))
    return shape, rows, good


def _is_array(row: Any, shape: tuple[int | None, ...]) -> bool:
    if row is None or FAILING in np.ravel(np.asarray(row, object)):
        return False

    def sizes(value: Any, depth: int) -> set[tuple[int, ...]]:
        if not isinstance(value, list):
            return {()} if depth == 0 else set()
        if depth == 0:
            return set()
        if not value:
            return {(0,)}
        inner: set[tuple[int, ...]] = set()
        for item in value:
            found = sizes(item, depth - 1)
            if not found:
                return set()
            inner |= found
        return {(len(value), *one) for one in inner}

    found = sizes(row, len(shape))
    return len(found) == 1 and all(size in (None, has) for size, has in zip(shape, next(iter(found)), strict=False))


@given(ragged(), st.integers(1, 12))
def test_each_row_gets_its_own_prediction_from_calls_of_one_shape(case: Any, batch_size: int) -> None:
    shape, rows, good = case
    data = b"".join(json.dumps({"x": row}).encode() + b"\n" for row in rows)
    called, found, sizes = score(data, Feature("x", "int32", shape, ("x",)), batch_size, jsonl.FORMAT)
    assert [one is not None for one in found] == good
    for row, one in zip(rows, found, strict=True):
        if one is not None:
            total = int(np.asarray(row, np.int64).sum())
            assert one == {"same": row, "sum": total, "wide": [[total, total]] * (len(row) + 1)}
    assert max(sizes, default=0) <= batch_size
    assert {len(shape) for shape in called.shapes} <= {1 + len(shape)}


@pytest.mark.parametrize("count", [1, 5, 700])
def test_rows_of_one_shape_are_called_together_wherever_they_stand(count: int) -> None:
    data = b"".join(json.dumps({"x": [1] * (1 + n % 3)}).encode() + b"\n" for n in range(3 * count))
    called, found, _ = score(data, Feature("x", "int32", (None,), ("x",)), 960, jsonl.FORMAT)
    assert sorted(shape[1] for shape in called.shapes) == [1, 2, 3]
    assert [one["sum"] for one in found] == [1 + n % 3 for n in range(3 * count)]


@given(st.lists(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=3), max_size=9), st.integers(0, 4))
def test_shapes_of_nested_lists_are_those_of_their_rows(rows: list[list[list[int]]], skipped: int) -> None:
    array = pa.array(rows, pa.list_(pa.list_(pa.int64())))[skipped:]
    found = row_shapes(array, (None, None))
    for row, shape, regular in zip(rows[skipped:], found.shapes.tolist(), found.regular, strict=True):
        lengths = {len(inner) for inner in row}
        assert regular == (len(lengths) <= 1)
        if regular:
            assert shape == [len(row), *(lengths or {0})]


@pytest.mark.parametrize("shape", [(None,), (None, 3), (3, None), (1, None, 2)])
def test_flat_lists_of_examples_settle_the_open_size(shape: tuple[int | None, ...]) -> None:
    per = int(np.prod([size for size in shape if size is not None]))
    counts = [2, 0, 1, 2, 4, 1] * 3
    records = [example(x=ints(*range(n * per))) for n in counts]
    records += [example(y=ints(1)), example(x=floats(1.0))]
    if per > 1:
        records.append(example(x=ints(*range(per + 1))))
    feature = Feature("x", "int32", shape, ("x",))
    called, found, _ = score(written(records), feature, 96, load("tfrecord"))
    for n, one in zip(counts, found, strict=False):
        sizes = [n if size is None else size for size in shape]
        assert one["same"] == np.arange(n * per).reshape(sizes).tolist()
    assert found[len(counts) :] == [None] * (len(records) - len(counts))
    assert len(called.shapes) == len(set(counts))


def tag(tokens: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns two values a token, which depend on the row's length, and a sum a row."""
    size = tf.cast(tf.shape(tokens)[1], tf.float32)
    value = tf.cast(tokens, tf.float32)
    return {"tags": tf.stack([value * size, value], 2), "total": tf.reduce_sum(tokens, 1)}


TOKENS = models.spec("tokens", None, dtype=tf.int32)
LENGTHS = [3, 5, 3, 4, 1, 0, 5]


def tags(n: int) -> list[list[float]]:
    return [[float(token * n), float(token)] for token in range(n)]


@pytest.fixture(scope="module")
def tagging(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of sequences."""
    return models.save(tmp_path_factory.mktemp("tagging") / "model", tag, TOKENS)


def test_a_run_keeps_the_order_and_each_rows_own_length(
    keyjoin: Callable[..., Result], lines: Any, tagging: str
) -> None:
    path = lines(*[{"id": k, "tokens": list(range(n))} for k, n in enumerate(LENGTHS)], {"id": 7, "tokens": 3})
    done = keyjoin("run", f"--input={path}", f"--model={tagging}", "--max_bad_rows=1", "--chunk_bytes=100")
    assert (done.code, done.complete()) == (0, True), done.err
    assert done.rows() == [
        {"id": k, "tokens": list(range(n)), "tags": tags(n), "total": sum(range(n))} for k, n in enumerate(LENGTHS)
    ]
    assert [letter["error"]["message"] if "error" in letter else letter["message"] for letter in done.dead()] == [
        "field tokens: the number 3 where a list is expected"
    ]
    assert done.manifest()["model"]["inputs"]["tokens"]["shape"] == [None]
    assert done.manifest()["model"]["output_shapes"]["tags"] == [None, 2]
    assert "grouped by shape" in done.out
    again = keyjoin("verify", f"--run={done.output}", "--rescore=8", f"--model={tagging}")
    assert again.code == 0, again.err


def test_predict_answers_instances_of_different_lengths(
    keyjoin: Callable[..., Result], tagging: str, tmp_path: Path
) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": [{"tokens": list(range(n))} for n in LENGTHS]}))
    done = keyjoin("predict", f"--model={tagging}", f"--instances={request}")
    assert done.code == 0, done.err
    assert [one["tags"] for one in json.loads(done.out)["predictions"]] == [tags(n) for n in LENGTHS]


def test_keyed_predict_takes_rows_of_different_lengths(tagging: str) -> None:
    with beam.Pipeline() as pipeline:
        rows = pipeline | beam.Create([{"id": k, "tokens": list(range(n))} for k, n in enumerate(LENGTHS)])
        joined, _ = rows | KeyedPredict(tagging)
        found = joined | beam.Map(lambda row: (row["id"], row["tags"]))
        assert_that(found, equal_to([(k, tags(n)) for k, n in enumerate(LENGTHS)]))


def test_examples_get_predictions_of_their_own_length(
    keyjoin: Callable[..., Result], tagging: str, tmp_path: Path
) -> None:
    path = tmp_path / "in.tfrecord"
    path.write_bytes(written([example(tokens=ints(*range(n))) for n in LENGTHS]))
    done = keyjoin("run", f"--input={path}", f"--model={tagging}")
    assert (done.code, done.complete()) == (0, True), done.err
    found = [features_of(record) for record in read_back([part.read_bytes() for part in done.parts()])]
    assert [one["tags"] for one in found] == [[float(v) for pair in tags(n) for v in pair] for n in LENGTHS]


def stripped(tokens: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns an output as wide as the longest row of the batch without its trailing zeros."""
    size = tf.reduce_max(tf.reduce_sum(tf.cast(tokens > 0, tf.int32), 1))
    return {"y": tokens[:, :size]}


@pytest.mark.parametrize("later", [0, 1200])
def test_a_width_that_depends_on_rows_of_the_same_shape_is_refused(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, later: int
) -> None:
    """keyjoin refuses it before the run if the sampled rows show it, otherwise during the run."""
    saved = models.save(tmp_path / "model", stripped, TOKENS)
    rows = [{"tokens": [1, 2, 0]}] * later + [{"tokens": [1, 2, 0]}] * 96 + [{"tokens": [1, 0, 0]}] * 96
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={saved}", "--batch_size=96")
    assert (done.code, done.complete()) == (1 if later else 2, False), done.err
    assert "its size depends on the rows of the batch" in done.err


def test_an_output_without_values_of_a_fixed_size_is_refused_as_ever() -> None:
    with pytest.raises(RunError, match="has no values"):
        columns.from_array(np.zeros((3, 0), np.float32))
    assert columns.from_array(np.zeros((3, 0), np.float32), is_open=True).to_pylist() == [[], [], []]


def test_strings_of_any_length_in_text_and_base64_are_grouped(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path
) -> None:
    def join(words: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"joined": tf.strings.reduce_join(words, 1, separator="-"), "sizes": tf.strings.length(words)}

    saved = models.save(tmp_path / "model", join, models.spec("words", None, dtype=tf.string))
    rows: list[list[Any]] = [["a", "bc"], [], [{"b64": "ZGVm"}], ["\u00e9"], [{"b64": "YQ=="}, {"b64": "YmM="}]] * 30
    done = keyjoin("run", f"--input={lines(*[{'words': row} for row in rows])}", f"--model={saved}")
    assert (done.code, done.dead()) == (0, []), done.err
    assert [row["words"] for row in done.rows()] == rows
    assert [row["joined"] for row in done.rows()] == ["a-bc", "", "def", "\u00e9", "a-bc"] * 30
    assert [row["sizes"] for row in done.rows()] == [[1, 2], [], [3], [2], [1, 2]] * 30
