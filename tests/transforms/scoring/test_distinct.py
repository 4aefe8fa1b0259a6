"""Rows with equal inputs are scored once, and each gets the prediction that it would get alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Result
from tests.support import models
from transforms.records import BadRow, Feature
from transforms.scoring import distinct

FLOATS = st.sampled_from([0.0, -0.0, 1.0, float("nan"), float("inf")])
TEXTS = st.sampled_from([b"", b"a", b"aa", b"\xff"])
# Kind of a column -> its type, the feature, and values of a row.
KINDS: dict[str, tuple[pa.DataType, tuple[int | None, ...], str, st.SearchStrategy[Any]]] = {
    "scalar": (pa.float32(), (), "float32", FLOATS),
    "vector": (pa.list_(pa.float32(), 2), (2,), "float32", st.lists(FLOATS, min_size=2, max_size=2)),
    "matrix": (
        pa.list_(pa.list_(pa.int64(), 1), 2),
        (2, 1),
        "int64",
        st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=1), min_size=2, max_size=2),
    ),
    "bool": (pa.bool_(), (), "bool", st.booleans()),
    "text": (pa.binary(), (), "string", TEXTS),
    "texts": (pa.list_(pa.binary(), 2), (2,), "string", st.lists(TEXTS, min_size=2, max_size=2)),
    "open": (pa.list_(pa.int64()), (None,), "int64", st.lists(st.integers(0, 1), max_size=3)),
    "open texts": (pa.list_(pa.binary()), (None,), "string", st.lists(TEXTS, max_size=2)),
    "empty": (pa.list_(pa.float32(), 0), (0,), "float32", st.just([])),
}


@st.composite
def batches(draw: st.DrawFn) -> tuple[pa.RecordBatch, list[Feature]]:
    names = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3, unique=True))
    rows = draw(st.integers(0, 12))
    arrays, features = [], []
    for name in names:
        kind, shape, dtype, values = KINDS[name]
        arrays.append(pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind))
        features.append(Feature(name, dtype, shape, (name,)))
    return pa.RecordBatch.from_arrays(arrays, names), features


def bits(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(bits, value))
    return np.float32(value).tobytes() if isinstance(value, float) else value


@given(batches())
def test_rows_are_of_one_kind_if_all_their_values_have_the_same_bits(
    found: tuple[pa.RecordBatch, list[Feature]],
) -> None:
    batch, features = found
    rows = [tuple(bits(value) for value in row.values()) for row in batch.to_pylist()]
    made = distinct.find(batch, features)
    if made is None:
        assert len(set(rows)) == len(rows)
        return
    assert len(made.first) == len(set(rows)) < len(rows)
    assert [rows.index(row) for row in rows] == made.first[made.kinds].tolist()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.sets(st.integers(0, 3)))
def test_all_rows_of_a_kind_get_its_prediction_or_its_error(values: list[int], bad: set[int]) -> None:
    values = [*values, values[0]]
    made = distinct.find(pa.record_batch({"x": pa.array(values)}), [Feature("x", "int64", (), ("x",))])
    assert made is not None
    kinds = [values[row] for row in made.first.tolist()]
    scored = pa.record_batch({"y": pa.array([value for value in kinds if value not in bad], pa.int64())})
    refused = [BadRow(kinds.index(value), "predict", "model_error", str(value)) for value in kinds if value in bad]
    batch, rows = distinct.fan_out(scored, refused, made)
    assert batch["y"].to_pylist() == [value for value in values if value not in bad]
    assert [(one.row, one.message) for one in rows] == [(at, str(v)) for at, v in enumerate(values) if v in bad]


def test_a_nested_list_of_open_sizes_is_scored_row_by_row() -> None:
    kind = pa.list_(pa.list_(pa.int64()))
    batch = pa.record_batch({"x": pa.array([[[1], []], [[], [1]]], kind)})
    assert distinct.find(batch, [Feature("x", "int64", (None, None), ("x",), ragged_rank=2)]) is None


@pytest.mark.parametrize("more", [(), ("--chunk_bytes=100",), ("--bad_rows=null",)])
def test_the_output_is_the_same_and_the_saved_work_is_counted(
    keyjoin: Callable[..., Result], lines: Any, model: Any, more: tuple[str, ...]
) -> None:
    rows = [{"x": [n % 3, 1, 2], "id": n} for n in range(30)] + [{"x": [666, 0, 0]}] * 2 + [b"bad", {"x": [7, 7, 7]}]
    flags = (f"--input={lines(*rows)}", f"--model={model(models.raising)}", "--max_bad_rows=9", *more)
    plain, deduped = keyjoin("run", *flags), keyjoin("run", *flags, "--dedup")
    assert (plain.code, deduped.code) == (0, 0), deduped.err
    assert [part.read_bytes() for part in deduped.parts()] == [part.read_bytes() for part in plain.parts()]
    assert deduped.dead() == plain.dead()
    saved = deduped.manifest()["totals"]["saved"]
    assert saved == (28 if "--chunk_bytes=100" not in more else saved) > 0
    assert f"equal inputs      {saved}  rows that another row was scored for" in deduped.out
    assert plain.manifest()["totals"]["saved"] == 0
    assert keyjoin("verify", f"--run={deduped.output}", "--read_data=100%").code == 0


def test_it_is_refused_for_a_model_that_depends_on_the_batch(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    path = lines(*({"v": float(n)} for n in range(9)))
    done = keyjoin("run", f"--input={path}", f"--model={model(models.softmax)}", "--dedup")
    assert (done.code, "the model depends on the batch: leave --dedup out" in done.err) == (2, True), done.err
