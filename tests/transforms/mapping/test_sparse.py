"""Sparse rows written as objects of indices and values reach the model as TensorFlow's own tensors, or are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.support import blocks, models
from transforms.formats import jsonl
from transforms.records import Feature
from transforms.saved_model.composites import Composite
from transforms.saved_model.model import SPARSE
from transforms.scoring.groups import by_shape

RUN = ["--isolate", "--batch_size=2", "--batch_size=1", "--strict_types"]


def listed(folder: Path) -> str:
    """Returns all entries of a sparse x of ten columns as text, zeros too, and its sizes."""
    return _entries(folder, tf.SparseTensorSpec([None, 10], tf.float32))


def matrix(folder: Path) -> str:
    """Returns the same for a sparse x with two open sizes."""
    return _entries(folder, tf.SparseTensorSpec([None, None, None], tf.int64))


def _entries(folder: Path, spec: tf.SparseTensorSpec) -> str:
    def call(x: tf.SparseTensor) -> dict[str, tf.Tensor]:
        places = tf.strings.reduce_join(tf.strings.as_string(x.indices[:, 1:]), 1, separator="-")
        entries = tf.strings.join([places, tf.strings.as_string(tf.cast(x.values, tf.int64))], ":")
        rows = tf.RaggedTensor.from_value_rowids(entries, x.indices[:, 0], x.dense_shape[0])
        sizes = tf.strings.reduce_join(tf.strings.as_string(x.dense_shape[1:]), separator="-")
        text = tf.strings.reduce_join(rows, 1, separator=" ")
        return {"y": text, "sizes": tf.repeat(sizes[None], x.dense_shape[0])}

    return models.save(folder, call, spec)


def row(indices: list[Any], values: list[Any], shape: Any = ()) -> dict[str, Any]:
    return {"x": {"indices": indices, "values": values, **({} if shape == () else {"dense_shape": shape})}}


GOOD = [
    (row([[0], [5]], [1.0, 2]), "0:1 5:2"),
    (row([[5], [0]], [2.0, 0.0]), "0:0 5:2"),  # indices in any order; a zero is kept
    (row([], []), ""),
    (row([[9]], [-3], [10]), "9:-3"),
    (row([[1], [2], [3]], [1, 2, 3], None), "1:1 2:2 3:3"),
]
BAD = [
    (row([[10]], [1]), "out_of_range", "field x: the index [10] is not within the shape [10]"),
    (row([[-1]], [1]), "out_of_range", "field x: the index [-1] is not within the shape [10]"),
    (row([[1], [1]], [1, 2]), "wrong_shape", "field x: the index [1] is given twice"),
    (row([[1], [2]], [1]), "wrong_shape", "field x: 2 indices and 1 values"),
    (row([[1, 2]], [1]), "wrong_shape", "field x: indices: a list of 2 where 1 are expected"),
    (row([1], [1]), "wrong_shape", "field x: indices: the number 1 where a list of 1 is expected"),
    (row([[1]], [None]), "null", "field x: values: null"),
    (row([[None]], [1]), "null", "field x: indices: null"),
    (row([[1.5]], [1]), "fraction", "field x: indices: 1.5 for an int64 input"),
    (row([[1]], ["a"]), "wrong_type", 'field x: values: the string "a", not a number'),
    (row([[1]], [1e300]), "out_of_range", "field x: values: 1e+300 does not fit float32"),
    (row([[1]], [1], [11]), "wrong_shape", "field x: dense_shape is [11] where [10] is expected"),
    (row([[1]], [1], [10, 1]), "wrong_shape", "field x: dense_shape: a list of 2 where 1 are expected"),
    ({"x": {"values": [1]}}, "missing", "field x: no indices in it; write {"),
    ({"x": [1, 2]}, "wrong_type", "field x: a list of 2, not {"),
    ({"x": None}, "null", "field x: null"),
    ({}, "missing", "field x: not in the row"),
]


@pytest.mark.parametrize("flags", [(), *((flag,) for flag in RUN)])
def test_rows_of_indices_and_values(keyjoin: Any, lines: Any, model: Any, flags: tuple[str, ...]) -> None:
    rows = [one for pair in zip([g for g, _ in GOOD] * 4, [b for b, *_ in BAD], strict=False) for one in pair]
    rows += [g for g, _ in GOOD] * 2
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(listed)}", "--max_bad_rows=1.0", *flags)
    assert done.code == 0, done.err
    expected = {json.dumps(one): text for one, text in GOOD}
    assert [one["y"] for one in done.rows()] == [expected[json.dumps(r)] for r in rows if json.dumps(r) in expected]
    assert [
        (one["reason"], one["message"].startswith(said)) for one, (_, _, said) in zip(done.dead(), BAD, strict=True)
    ] == [(reason, True) for _, reason, _ in BAD]
    assert "x (sparse float32 [N, 10]) <- x" in done.out
    rescored = keyjoin("verify", f"--run={done.output}", f"--model={model(listed)}", "--rescore=5")
    assert rescored.code == 0, rescored.out


def test_open_sizes_are_said_by_the_row(keyjoin: Any, lines: Any, model: Any, tmp_path: Path) -> None:
    rows = [row([[1, 0], [0, 1]], [7, 8], [2, 2]), row([[0, 2]], [5], [1, 3]), row([], [], [2, 2]), row([], [], [0, 4])]
    done = keyjoin("run", f"--input={lines(*rows, row([[0, 0]], [1]))}", f"--model={model(matrix)}", "--max_bad_rows=1")
    assert done.code == 0, done.err
    assert [(one["y"], one["sizes"]) for one in done.rows()] == [
        ("0-1:8 1-0:7", "2-2"), ("0-2:5", "1-3"), ("", "2-2"), ("", "0-4")
    ]  # fmt: skip
    assert [one["message"] for one in done.dead()] == ["field x: no dense_shape, and the model leaves a size open"]
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": rows[:2]}))
    answers = json.loads(keyjoin("predict", f"--instances={request}", f"--model={model(matrix)}").out)["predictions"]
    assert [one["y"] for one in answers] == ["0-1:8 1-0:7", "0-2:5"]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--missing=x=[0]", "write an empty object into rows without a value"),
        ("--pad=x=0", "sparse rows are not padded"),
    ],
)
def test_flags_about_lists_are_refused(keyjoin: Any, lines: Any, model: Any, flag: str, said: str) -> None:
    rows = lines(row([[0, 2]], [5], [1, 3]))
    refused = keyjoin("check", f"--input={rows}", f"--model={model(matrix)}", *flag.split("=", 1))
    assert (refused.code, said in refused.err) == (2, True), refused.err


def drawn(rank: int) -> st.SearchStrategy[Any]:
    index = st.lists(st.integers(-1, 3), min_size=rank, max_size=rank)
    entries = st.lists(st.tuples(index, st.integers(0, 9)), max_size=4)
    return st.tuples(entries, st.lists(st.integers(0, 4), min_size=rank, max_size=rank))


@given(st.data(), st.integers(1, 2))
def test_a_row_reaches_the_model_as_tensorflow_makes_it_or_is_bad(data: st.DataObject, rank: int) -> None:
    rows = data.draw(st.lists(drawn(rank), min_size=1, max_size=8))
    lines = b"".join(
        json.dumps(row([i for i, _ in entries], [v for _, v in entries], sizes)).encode() + b"\n"
        for entries, sizes in rows
    )
    feature = Feature("x", "int64", (None,) * rank, ("x",), is_sparse=True)
    inputs, bad = blocks.read(jsonl.FORMAT, lines, [feature])
    fits = [
        all(0 <= at < size for i, _ in entries for at, size in zip(i, sizes, strict=True))
        and len({tuple(i) for i, _ in entries}) == len(entries)
        for entries, sizes in rows
    ]
    assert [one.row for one in bad] == [number for number, fit in enumerate(fits) if not fit]
    assert all(one.message.startswith("field x: the index") for one in bad)
    good = [one for one, fit in zip(rows, fits, strict=True) if fit]
    composite, seen = Composite("x", SPARSE, "int64", (None,) * (rank + 1), (), ()), []
    for group in by_shape(inputs, [feature]) if good else ():
        indices, values, shape = composite.tensors(group.whole["x"])
        some = [good[number] for number in group.numbers]
        flat = [([n, *i], v) for n, (entries, _) in enumerate(some) for i, v in entries]
        places = np.array([i for i, _ in flat], np.int64).reshape(-1, rank + 1)
        expected = tf.sparse.reorder(tf.SparseTensor(places, np.array([v for _, v in flat], np.int64), shape))
        assert indices.tolist() == expected.indices.numpy().tolist()
        assert values.tolist() == expected.values.numpy().tolist()
        assert shape.tolist() == [len(some), *some[0][1]]
        assert all(sizes == some[0][1] for _, sizes in some)
        seen += group.numbers.tolist()
    assert sorted(seen) == list(range(len(good)))


def test_texts() -> None:
    rows = [row([[2], [0]], ["é", "a"], [3]), row([], [], [3]), row([[1]], [""], [3]), row([[0]], [1], [3])]
    lines = "".join(f"{json.dumps(one)}\n" for one in rows).encode()
    feature = Feature("x", "string", (3,), ("x",), is_sparse=True)
    inputs, bad = blocks.read(jsonl.FORMAT, lines, [feature])
    assert [(one.row, one.reason) for one in bad] == [(3, "wrong_type")]
    (group,) = by_shape(inputs, [feature])
    indices, values, shape = Composite("x", SPARSE, "string", (None, 3), (), ()).tensors(group.whole["x"])
    entries = sorted(zip(group.numbers[indices[:, 0]].tolist(), indices[:, 1].tolist(), values.tolist(), strict=True))
    assert entries == [(0, 0, b"a"), (0, 2, "é".encode()), (2, 1, b"")]
    assert shape.tolist() == [3, 3]
