"""Chunks end after a number of bytes or rows, at the same positions in every run."""

import doctest
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.plan import chunk_size
from pipeline.plan.chunk_size import CHUNK_BYTES, PREDICTION_BYTES, choose, row_bytes
from tests.conftest import Result
from tests.support import models
from tests.support.blocks import cut
from tests.support.examples import written
from transforms.formats import jsonl, tfrecord
from transforms.formats.jsonl import split
from transforms.formats.tfrecord import split as framing
from transforms.records import Feature
from transforms.saved_model.loader import load
from transforms.saved_model.model import Tensor

X = (Feature("x", "float32", (3,), ("x",)),)


def expected(ends: list[int], chunk_bytes: int, chunk_rows: int | None) -> list[int]:
    """A naive version: the ends of chunks, for rows that end at `ends`."""
    cuts, start, rows = [], 0, 0
    for end in ends:
        rows += 1
        if end - start >= chunk_bytes or rows == chunk_rows:
            cuts.append(end)
            start, rows = end, 0
    return cuts if cuts[-1:] == ends[-1:] else [*cuts, ends[-1]]


rows_of_a_chunk = st.none() | st.integers(1, 12)


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), min_size=1), st.booleans(),
       st.integers(1, 200), rows_of_a_chunk, st.integers(1, 30))  # fmt: skip
@example([b"a", b"b"], True, 2, 1, 1)
def test_lines_are_cut_after_so_many_bytes_or_rows(
    lines: list[bytes], ended: bool, chunk_bytes: int, chunk_rows: int | None, block: int
) -> None:
    data = b"\n".join(lines) + b"\n" * ended
    ends = np.cumsum([len(line) for line in io.BytesIO(data)]).tolist() or [0]
    with mock.patch.object(split, "SEARCH_BYTES", block):
        assert cut(jsonl.FORMAT, data, chunk_bytes, chunk_rows) == expected(ends, chunk_bytes, chunk_rows)


@given(st.lists(st.binary(max_size=40), min_size=1), st.integers(1, 200), rows_of_a_chunk, st.integers(12, 90))
def test_records_are_cut_after_so_many_bytes_or_rows(
    records: list[bytes], chunk_bytes: int, chunk_rows: int | None, block: int
) -> None:
    data = written(records)
    ends = np.cumsum([len(record) + 16 for record in records]).tolist()
    with mock.patch.object(framing, "BLOCK_BYTES", block):
        assert cut(tfrecord.FORMAT, data, chunk_bytes, chunk_rows) == expected(ends, chunk_bytes, chunk_rows)


@given(st.integers(1, 1 << 40), st.none() | st.integers(1, 1 << 30))
def test_a_chunks_predictions_are_bounded(row: int, chunk_bytes: int | None) -> None:
    found = choose(chunk_bytes, row, 0, jsonl.FORMAT.reader, X)
    assert found.bytes == (chunk_bytes or CHUNK_BYTES)
    rows = found.rows if found.rows is not None else found.bytes // jsonl.FORMAT.reader.least_bytes(X)
    assert rows * row <= max(PREDICTION_BYTES, row)
    assert 2 * rows * row > PREDICTION_BYTES or rows * row > PREDICTION_BYTES - 96 * row or found.rows is None
    assert rows < 96 or rows % 96 == 0 or found.rows is None


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(chunk_size) == (0, 2)


def test_sizes_that_nobody_knows_are_guessed() -> None:
    tensor = Tensor("y", "float32", (None, 3), "")
    assert row_bytes([tensor]) == 4 * 256 * 3
    assert row_bytes([tensor._replace(shape=None)]) == 4 * 256
    assert row_bytes([tensor._replace(shape=()), tensor._replace(dtype="bool", shape=(5,))]) == 4 + 5


def wide(folder: Path, width: int | None = 64) -> str:
    """A model that predicts 64 numbers a row; with `width` None, its signature does not state the 64."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        y = tf.tile(x[:, :1], [1, 64])
        return {"y": y if width else tf.reshape(y, tf.stack([tf.shape(x)[0], tf.size(y) // tf.shape(x)[0]]))}

    return models.save(folder, call, models.spec("x", 3))


@pytest.fixture
def small_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits a chunk to 20 rows of 64 floats."""
    monkeypatch.setattr(chunk_size, "PREDICTION_BYTES", 20 * 256)


ROWS = [{"x": [n, 0, 1]} for n in range(50)]


@pytest.mark.usefixtures("small_predictions")
@pytest.mark.parametrize("width", [64, None])
@pytest.mark.parametrize("flags", [(), ("--batch_size=3",), ("--wave_bytes=1",), ("--chunk_bytes=1000000",)])
def test_a_part_has_as_many_rows_as_predictions_allow(
    keyjoin: Callable[..., Result], lines: Any, model: Any, width: int | None, flags: tuple[str, ...]
) -> None:
    path = Path(lines(*ROWS, name="a.jsonl"))
    (path.parent / "b.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    done = keyjoin("run", f"--input={path.parent}", f"--model={model(wide, width)}", *flags)
    assert done.complete(), done.err
    assert [len(p.read_bytes().splitlines()) for p in done.parts() if p.suffix == ".jsonl"] == [20, 20, 10]
    packed = [len(gzip.decompress(p.read_bytes()).splitlines()) for p in done.parts() if p.suffix == ".gz"]
    assert packed == [20, 20, 10]
    assert done.manifest()["model"]["chunk_rows"] == 20


@pytest.mark.usefixtures("small_predictions")
def test_a_resumed_run_cuts_as_the_first_one_did(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (f"--input={lines(*ROWS)}", f"--model={model(wide)}")
    done = keyjoin("run", *flags)
    parts = {path.name: path.read_bytes() for path in done.parts()}
    done.parts()[1].unlink()
    monkeypatch.setattr(chunk_size, "PREDICTION_BYTES", 1 << 30)
    monkeypatch.setattr(chunk_size, "CHUNK_BYTES", 50)
    again = keyjoin("run", *flags, f"--output={done.output}")
    assert again.complete(), again.err
    assert {path.name: path.read_bytes() for path in again.parts()} == parts
    assert again.manifest()["model"]["chunk_rows"] == 20
    refused = keyjoin("run", *flags, f"--output={done.output}", "--chunk_bytes=67108864")
    assert (refused.code, "--chunk_bytes was not given, is now 67108864" in refused.err) == (2, True)


def test_small_predictions_are_not_counted(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    done = keyjoin("run", f"--input={lines(*ROWS)}", f"--model={model(models.keyed)}")
    found = done.manifest()["model"]
    assert (found["chunk_bytes"], found["chunk_rows"]) == (64 << 20, None)
    assert json.loads((done.output / "_keyjoin/manifest.json").read_text())["options"]["chunk_bytes"] is None


def weighed(folder: Path, call: Callable[..., Any], *variables: tf.Variable) -> int:
    module = tf.Module()
    module.variables_ = variables
    module.call = tf.function(call, input_signature=[models.spec("x", 4)])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})
    return load(str(folder)).weights


def test_variables_that_are_read_whole_are_weighed_and_tables_are_not(tmp_path: Path) -> None:
    dense, table, unused = (tf.Variable(tf.ones(shape)) for shape in ([4, 7], [1000, 3], [50, 50]))
    inner = tf.function(lambda x: x @ dense)

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.nn.embedding_lookup(table, tf.cast(x[:, 0], tf.int32))
        twice = tf.cond(x[0, 0] > 0, lambda: inner(x), lambda: inner(-x)) + inner(x)
        looped = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y + inner(x)), [0, twice])[1]
        return {"y": tf.concat([rows, looped], axis=1)}

    assert weighed(tmp_path / "m", call, dense, table, unused) == 4 * 4 * 7


def test_a_model_that_computes_much_gets_chunks_of_fewer_rows(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = tf.Variable(tf.ones([4, 250]))
    model = tmp_path / "m"
    assert weighed(model, lambda x: {"y": tf.reduce_sum(x @ dense, axis=1)}, dense) == 4000
    flags = (f"--input={lines(*[{'x': [n, 0, 1, 2]} for n in range(25)])}", f"--model={model}")
    monkeypatch.setattr(chunk_size, "WEIGHT_BYTES", 40_000)
    done = keyjoin("run", *flags)
    assert [len(part.read_bytes().splitlines()) for part in done.parts()] == [10, 10, 5], done.err
    monkeypatch.setattr(chunk_size, "WEIGHT_BYTES", 1 << 40)
    assert keyjoin("run", *flags, f"--output={done.output}").complete()  # and keeps its chunks
    monkeypatch.setattr(chunk_size, "WEIGHT_BYTES", 40_000)
    assert len(keyjoin("run", *flags, "--chunk_bytes=67108864").parts()) == 1
