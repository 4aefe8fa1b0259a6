"""Scoring: whatever a model does with its keys, no row gets another row's prediction."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.support import models
from transforms.errors import ModelError, UsageError
from transforms.saved_model.contract import find_contract
from transforms.saved_model.loader import load
from transforms.saved_model.model import Contract, Echo, Model, Tensor
from transforms.scoring.bisect import FEWER, MULTIPLE, Scored
from transforms.scoring.score import score

X = Tensor("x", "float32", (), "x:0")
Y = Tensor("y", "float32", (), "y:0")
KEYED = Contract(
    "s", (X,), (Y, Tensor("key", "int32", (), "k:0")), Tensor("key", "int32", (), "k:0"), (Echo("key", False),)
)
KEYLESS = Contract("s", (X,), (Y,))


def fake(answer: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Model:
    """Makes a keyed model from a function of x and key that returns y and key."""
    return Model({"x": X, "key": KEYED.key}, {"y": Y, "key": KEYED.key}, answer)  # type: ignore[dict-item]


def run(called: Model, contract: Contract, x: np.ndarray, batch_size: int, *, keep: bool = False) -> Scored:
    return score(called, contract, {"x": x}, len(x), batch_size, keep_non_finite=keep)


def check(scored: Scored, x: np.ndarray) -> None:
    """Checks that every row is either scored once with its own prediction, or bad once."""
    lost = {bad.row for bad in scored.bad}
    assert len(lost) == len(scored.bad)
    kept = [row for row in range(len(x)) if row not in lost]
    assert scored.outputs["y"].tolist() == [x[row] * 10 for row in kept]
    assert [bad.row for bad in scored.bad] == sorted(lost)


@given(
    rows=st.integers(0, 40),
    batch_size=st.integers(1, 40),
    positions=st.lists(st.integers(0, 47), max_size=60),
    shift=st.sampled_from([0, 0, 0, 1, -1, 1000]),
)
def test_keys_that_are_permuted_dropped_repeated_or_invented_never_misplace_a_prediction(
    rows: int, batch_size: int, positions: list[int], shift: int
) -> None:
    def answer(x: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        taken = np.array([p for p in positions if p < len(x)], int)
        invented = key[taken] + np.where(np.arange(len(taken)) % 3 == 0, shift, 0)
        # An invented key comes with the prediction of the row that it names, if there is one.
        y = np.array([x[k - 1] * 10 if 0 < k <= len(x) else -1 for k in invented], np.float32)
        return y, invented.astype(key.dtype)

    x = np.arange(rows, dtype=np.float32) + 1
    check(run(fake(answer), KEYED, x, batch_size), x)


@given(rows=st.integers(1, 20), dropped=st.sets(st.integers(0, 19)), batch_size=st.integers(1, 20))
def test_what_a_model_fills_up_with_zeros_is_no_row_s_prediction(rows: int, dropped: set[int], batch_size: int) -> None:
    def answer(x: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = np.array([row not in dropped for row in x], bool)
        count = len(x) - int(kept.sum())
        return np.pad(x[kept] * 10, (0, count)), np.pad(key[kept], (0, count))

    x = np.arange(rows, dtype=np.float32)
    scored = run(fake(answer), KEYED, x, batch_size)
    check(scored, x)
    assert {bad.row for bad in scored.bad} == {row for row in dropped if row < rows}


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 60), seed=st.integers(0, 9))
def test_a_permuting_model_loses_nothing(rows: int, batch_size: int, seed: int) -> None:
    def answer(x: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.default_rng(seed).permutation(len(x))
        return x[order] * 10, key[order]

    x = np.arange(rows, dtype=np.float32)
    scored = run(fake(answer), KEYED, x, batch_size)
    check(scored, x)
    assert not scored.bad


@given(rows=st.integers(1, 70), batch_size=st.integers(1, 70), failing=st.sets(st.integers(0, 69), max_size=5))
def test_a_batch_that_raises_is_bisected_down_to_the_failing_rows(
    rows: int, batch_size: int, failing: set[int]
) -> None:
    sizes = []

    def answer(x: np.ndarray) -> tuple[np.ndarray]:
        sizes.append(len(x))
        if failing & set(x.astype(int).tolist()):
            raise ModelError("a failing row")
        return (x * 10,)

    x = np.arange(rows, dtype=np.float32)
    scored = run(Model({"x": X}, {"y": Y}, answer), KEYLESS, x, batch_size)
    check(scored, x)
    assert {bad.row for bad in scored.bad} == {row for row in failing if row < rows}
    assert all(bad.reason == "model_error" and "a failing row" in bad.message for bad in scored.bad)
    assert all(size <= batch_size for size in sizes)
    assert all(size % MULTIPLE == 0 or size in (1, batch_size, *FEWER) for size in sizes)


def test_without_a_key_too_few_predictions_are_an_error_of_the_rows_that_get_none() -> None:
    def answer(x: np.ndarray) -> tuple[np.ndarray]:
        return (x[x < 5] * 10,)

    x = np.arange(8, dtype=np.float32)
    scored = run(Model({"x": X}, {"y": Y}, answer), KEYLESS, x, 8)
    check(scored, x)
    assert [(bad.row, bad.reason) for bad in scored.bad] == [(5, "key_missing"), (6, "key_missing"), (7, "key_missing")]


def test_what_is_not_finite_is_bad_or_kept() -> None:
    def answer(x: np.ndarray) -> tuple[np.ndarray]:
        with np.errstate(divide="ignore"):
            return ((1 / x).astype(np.float32),)

    x = np.array([1, 0, 2], np.float32)
    called = Model({"x": X}, {"y": Y}, answer)
    strict = run(called, KEYLESS, x, 8)
    assert strict.outputs["y"].tolist() == [1.0, 0.5]
    assert [(bad.row, bad.reason, bad.message) for bad in strict.bad] == [(1, "non_finite", "prediction y: inf")]
    assert run(called, KEYLESS, x, 8, keep=True).outputs["y"].tolist() == [1.0, np.inf, 0.5]


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.float32, tf.string])
def test_the_echo_is_found_whatever_it_is_called(model: Callable[..., str], dtype: tf.DType) -> None:
    found = find_contract(load(model(models.keyed, dtype)), "serving_default")
    assert found.echoes == (Echo("key", last_column=False),)
    assert [t.name for t in found.predictions] == ["prediction"]
    assert [t.name for t in found.inputs] == ["x"]


def test_the_echo_is_found_as_the_last_column(model: Callable[..., str]) -> None:
    found = find_contract(load(model(models.last_column)), "serving_default")
    assert found.echoes == (Echo("prediction_with_key", last_column=True),)
    assert found.predictions[0].shape == (1,)


def test_a_key_that_does_not_come_back_is_data(model: Callable[..., str]) -> None:
    silent = load(model(models.keyed, tf.int32, tf.zeros_like))
    found = find_contract(silent, "serving_default")
    assert (found.key, found.echoes) == (None, ())
    assert [t.name for t in found.inputs] == ["key", "x"]
    with pytest.raises(UsageError, match="input key does not come back"):
        find_contract(silent, "serving_default", "key")


@pytest.mark.parametrize("compute", [models.plus, models.largest])
def test_a_key_that_only_sometimes_comes_back_is_data(model: Callable[..., str], compute: Any) -> None:
    found = find_contract(load(model(models.computing_with_key, compute)), "serving_default")
    assert (found.key, found.echoes) == (None, ())
    assert [t.name for t in found.predictions] == ["a", "b"]


def test_without_a_key_too_few_predictions_are_missing_and_too_many_repeated(model: Callable[..., str]) -> None:
    x = np.ones((3, 3), np.float32)
    for part, reason in ((0.5, "key_missing"), (2.0, "key_repeated")):
        called = load(model(models.stretching, part))
        contract = Contract("s", tuple(called.inputs.values()), tuple(called.outputs.values()))
        scored = score(called, contract, {"x": x}, 3, 96, keep_non_finite=False)
        assert [bad.reason for bad in scored.bad] == [reason] * 3
        with pytest.raises(UsageError, match=r"output prediction has \d+ values for 5 rows: it cannot be written"):
            find_contract(called, "s")


def test_an_input_of_any_name_can_take_the_key(model: Callable[..., str]) -> None:
    loaded = load(model(models.named_key))
    assert find_contract(loaded, "serving_default").key is None
    found = find_contract(loaded, "serving_default", "row_number")
    assert (found.key and found.key.name, found.echoes) == ("row_number", (Echo("who", last_column=False),))
    with pytest.raises(UsageError, match=r"no input row_numbr \(did you mean row_number\?\)"):
        find_contract(loaded, "serving_default", "row_numbr")


def scored_in_batches(folder: str, x: np.ndarray, batch_size: int) -> Any:
    called = load(folder)
    contract = find_contract(called, "serving_default")
    return score(called, contract, {"x": x}, len(x), batch_size, keep_non_finite=False).outputs["y"]


def test_a_dense_models_predictions_do_not_depend_on_the_size_of_the_batch(model: Callable[..., str]) -> None:
    x = np.random.default_rng(0).normal(size=(201, 13)).astype(np.float32)
    folder = model(models.dense)
    whole = scored_in_batches(folder, x, 288)
    for batch_size in (96, 192, 480, 1536):
        assert np.array_equal(scored_in_batches(folder, x, batch_size), whole)
    for first, end in ((50, 53), (3, 35), (1, 129)):
        assert np.array_equal(scored_in_batches(folder, x[first:end], 288), whole[first:end])
