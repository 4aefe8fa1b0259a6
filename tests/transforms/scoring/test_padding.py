"""`--pad`: rows of different lengths are padded only to the longest row of their own call."""

import json
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
from tests.support.blocks import read
from transforms.errors import ModelError, UsageError
from transforms.formats import jsonl
from transforms.predict import KeyedChunkHandler, from_ipc
from transforms.records import Feature, Features, unpack_bad
from transforms.saved_model.model import Contract, Model, Tensor
from transforms.scoring import groups
from transforms.scoring.padding import Padded, value

TOKENS = models.spec("tokens", None, dtype=tf.int32)
PADDED = Feature("tokens", "int32", (None,), ("tokens",), pad="-1")


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8),
    st.integers(0, 8),
    st.integers(0, 8),
    st.booleans(),
)
def test_what_is_taken_is_padded_to_its_longest_row(
    shapes: list[tuple[int, int]], first: int, end: int, by_number: bool
) -> None:
    rows = [np.arange(height * width).reshape(height, width) for height, width in shapes]
    column = pa.array([row.tolist() for row in rows], pa.list_(pa.list_(pa.int64())))
    padded = Padded(column, Feature("x", "int64", (None, None), ("x",), pad="-7"))
    numbers = np.arange(len(rows))[first:end]
    found = padded[numbers] if by_number else padded[first:end]
    taken = [row if len(row) else row.reshape(0, 0) for row in rows[first:end]]  # without inner lists the width is 0
    widest = np.array([row.shape for row in taken], np.int64).reshape(-1, 2).max(axis=0, initial=0)
    assert found.shape == (len(taken), *widest)
    for row, one in zip(taken, found, strict=True):
        expected = np.full(widest, -7)
        expected[: row.shape[0], : row.shape[1]] = row
        assert np.array_equal(one, expected)


class Masking:
    """Sums all values that are not padding, and accepts rows up to a length."""

    def __init__(self, longest: int) -> None:
        self.shapes, self.longest = list[tuple[int, ...]](), longest
        x, y = Tensor("tokens", "int32", (None,), ""), Tensor("sum", "int64", (), "")
        self.contract, self.model = Contract("s", (x,), (y,)), Model({"tokens": x}, {"sum": y}, self._call)

    def _call(self, tokens: np.ndarray) -> tuple[np.ndarray]:
        self.shapes.append(tokens.shape)
        if tokens.shape[1] > self.longest:
            raise ModelError("too long")
        return (np.where(tokens == -1, 0, tokens).sum(1),)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 20), st.integers(1, 2000))
def test_rows_get_their_own_predictions_and_a_long_one_costs_itself(
    lengths: list[int], batch_size: int, call_bytes: int
) -> None:
    called = Masking(20)
    lines = b"".join(json.dumps({"tokens": list(range(n))}).encode() + b"\n" for n in lengths)
    inputs, unread = read(jsonl.FORMAT, lines, (PADDED,))
    handler = KeyedChunkHandler(lambda: called.model, called.contract, (PADDED,), batch_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "CALL_BYTES", call_bytes)
        (result,) = handler.run_inference([Features("k", inputs)], called.model)
    made = result.inference
    assert not unread
    assert [bad.row for bad in unpack_bad(made.bad)] == [row for row, n in enumerate(lengths) if n > 20]
    assert from_ipc(made.columns)["sum"].to_pylist() == [sum(range(n)) for n in lengths if n <= 20]
    assert all(rows <= batch_size for rows, _ in called.shapes)


def test_rows_of_like_lengths_are_called_together() -> None:
    called = Masking(100)
    lines = b"".join(json.dumps({"tokens": [1] * n}).encode() + b"\n" for n in [1, 90, 2, 91] * 96)
    inputs, _ = read(jsonl.FORMAT, lines, (PADDED,))
    handler = KeyedChunkHandler(lambda: called.model, called.contract, (PADDED,), 192)
    list(handler.run_inference([Features("k", inputs)], called.model))
    assert sorted(called.shapes) == [(192, 2), (192, 91)]


def masked(tokens: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"sum": tf.reduce_sum(tf.where(tokens == -1, 0, tokens), 1)}


@pytest.fixture(scope="module")
def masking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that ignores -1."""
    return models.save(tmp_path_factory.mktemp("masking") / "model", masked, TOKENS)


LENGTHS = [3, 5, 0, 4, 1]


def test_a_run_reports_that_it_pads_and_keeps_the_order(
    keyjoin: Callable[..., Result], lines: Any, masking: str
) -> None:
    path = lines(*[{"tokens": list(range(n))} for n in LENGTHS])
    done = keyjoin("run", f"--input={path}", f"--model={masking}", "--pad", "tokens=-1")
    assert (done.code, done.complete()) == (0, True), done.err
    assert done.rows() == [{"tokens": list(range(n)), "sum": sum(range(n))} for n in LENGTHS]
    assert "tokens, rows padded with -1 to the longest of a call" in done.out
    assert done.manifest()["model"]["inputs"]["tokens"]["pad"] == "-1"
    again = keyjoin("verify", f"--run={done.output}", "--rescore=5", f"--model={masking}")
    assert again.code == 0, again.err
    (done.output / "_SUCCESS").unlink()
    other = keyjoin("run", f"--input={path}", f"--model={masking}", f"--output={done.output}", "--pad", "tokens=-2")
    assert other.code == 2
    assert "pad" in other.err


def test_predict_and_keyed_predict_pad(keyjoin: Callable[..., Result], masking: str, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": [{"tokens": list(range(n))} for n in LENGTHS]}))
    done = keyjoin("predict", f"--model={masking}", f"--instances={request}", "--pad=tokens=-1")
    assert json.loads(done.out) == {"predictions": [{"sum": sum(range(n))} for n in LENGTHS]}
    with beam.Pipeline() as pipeline:
        rows = pipeline | beam.Create([{"tokens": list(range(n))} for n in LENGTHS])
        joined, _ = rows | KeyedPredict(masking, pad={"tokens": -1})
        assert_that(joined | beam.Map(lambda row: row["sum"]), equal_to([sum(range(n)) for n in LENGTHS]))
    with pytest.raises(UsageError, match="pad names token, but"):
        KeyedPredict(masking, pad={"token": -1})


UNFIT = {
    "an output as wide as the longest row": (lambda tokens: {"y": tf.identity(tokens)}, "its size depends on the rows"),
    "a mean over padding, too": (
        lambda tokens: {"y": tf.reduce_mean(tf.cast(tokens, tf.float32), 1)},
        "predictions depend on the other rows of the batch",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_model_that_sees_the_padding_is_refused_before_the_run(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, case: str
) -> None:
    compute, said = UNFIT[case]
    saved = models.save(tmp_path / "model", compute, TOKENS)
    path = lines(*[{"tokens": list(range(1, n))} for n in (3, 5, 2, 9, 4)])
    done = keyjoin("run", f"--input={path}", f"--model={saved}", "--pad=tokens=0", "--batch_dependence=refuse")
    assert (done.code, said in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("token=0", "--pad names token, but the model's inputs are ['tokens'] (did you mean tokens?)"),
        ("tokens=x", "'x' is no int32"),
        ("tokens=1.5", "'1.5' is no int32"),
        ("tokens=", "'' is no int32"),
        ("tokens=3000000000", "'3000000000' is no int32"),
        ("tokens", "'tokens' is not of the form MODEL_INPUT=VALUE"),
    ],
)
def test_a_wrong_padding_is_refused(
    keyjoin: Callable[..., Result], lines: Any, masking: str, flag: str, said: str
) -> None:
    done = keyjoin("check", f"--input={lines({'tokens': [1]})}", f"--model={masking}", f"--pad={flag}")
    assert (done.code, said in done.err) == (2, True), done.err


def test_an_input_of_a_fixed_size_is_not_padded(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    done = keyjoin("check", f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.plain)}", "--pad=x=0")
    assert (done.code, "input x leaves no size open" in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        ("float32", "nan", None), ("float32", "NaN", np.nan), ("float16", "1e9", None), ("bool", "true", True),
        ("bool", "2", None), ("uint8", "255", 255), ("uint8", "-1", None), ("string", "[PAD]", b"[PAD]"),
        ("string", "", b""), ("int64", "9007199254740993", 9007199254740993), ("float64", "-0.5", -0.5),
    ],
)  # fmt: skip
def test_a_value_has_the_dtype_of_its_input(dtype: str, text: str, expected: Any) -> None:
    feature = Feature("x", dtype, (None,), ("x",), pad=text)
    if expected is None:
        with pytest.raises(UsageError, match="give another value"):
            value(feature)
    else:
        found = value(feature)
        assert found == expected or (found != found and expected != expected)
