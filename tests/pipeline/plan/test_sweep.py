"""The batch size: the usual one, or a clearly faster one that gives the same bits, told by a clock that the model itself turns."""

import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from tensorflow.python.client import session

from pipeline.model.model_process import ModelProcess
from pipeline.options.run_options import parse_run
from pipeline.plan import preflight, sample, sweep
from pipeline.plan.batch_dependence import Verdict
from tests.conftest import Result
from tests.support import models
from transforms.columns import MAX_BATCH
from transforms.errors import ModelError
from transforms.formats.jsonl import jsonl
from transforms.records import Feature
from transforms.saved_model.loader import ALL_CORES, ONE_CORE, Loading, load
from transforms.saved_model.model import Contract, Model, Tensor

X = Tensor("x", "float32", (2,), "x:0")
Y = Tensor("y", "float32", (), "y:0")
CONTRACT = Contract("s", (X,), (Y,))
USUAL = 1536
ROWS = {"x": np.arange(20, dtype=np.float32).reshape(10, 2)}


class Clock:
    """A model that takes so long a call and so long a row, and the clock that says so."""

    def __init__(self, call: float, row: float, answer: Callable[[np.ndarray], np.ndarray]) -> None:
        self.now, self.call, self.row, self.answer = 0.0, call, row, answer
        self.square = 0.0
        self.sizes: list[int] = []
        self.model = Model({"x": X}, {"y": Y}, self._score)

    def _score(self, x: np.ndarray) -> tuple[np.ndarray]:
        self.now += self.call + self.row * len(x) + self.square * len(x) ** 2
        self.sizes.append(len(x))
        return (self.answer(x),)


def pick(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> sweep.Sweep:
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock.now)
    return sweep.sweep(clock.model, CONTRACT, ROWS, USUAL, MAX_BATCH)


def total(x: np.ndarray) -> np.ndarray:
    return x.sum(axis=1)


def test_a_call_that_costs_much_is_made_with_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pick(monkeypatch, Clock(1e-3, 1e-9, total))
    assert (found.batch_size, tuple(found.rates)) == (4 * USUAL, (USUAL, USUAL // 4, 4 * USUAL))


def test_rows_that_cost_more_the_more_they_are_go_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1e-9, 1e-9, total)
    clock.square = 1e-9
    assert pick(monkeypatch, clock).batch_size == USUAL // 4


def test_another_size_has_to_be_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pick(monkeypatch, Clock(1e-4, 1e-6, total))
    assert found.rates[USUAL] < found.rates[4 * USUAL] < sweep.GAIN * found.rates[USUAL]
    assert found.batch_size == USUAL


@pytest.mark.parametrize(("row", "sizes"), [(1e-4, (USUAL, USUAL // 4)), (1e-3, (192,)), (1e-2, (192,))])
def test_a_slow_model_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch, row: float, sizes: Any) -> None:
    monkeypatch.setattr(sweep, "BATCHES", 2)
    clock = Clock(0.0, row, total)
    found = pick(monkeypatch, clock)
    assert (found.batch_size, tuple(found.rates)) == (USUAL, sizes)
    assert len(clock.sizes) <= 2 * (2 + len(sizes))
    assert clock.now < 2 * sweep.BUDGET_SECONDS or clock.sizes == [sweep.FEW_ROWS] * 2


@pytest.mark.parametrize("usual", [48, 96, 12_288])
def test_sizes_are_such_that_neighbours_do_not_show(monkeypatch: pytest.MonkeyPatch, usual: int) -> None:
    clock = Clock(1e-6, 1e-9, total)
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock.now)
    found = sweep.sweep(clock.model, CONTRACT, ROWS, usual, MAX_BATCH)
    assert tuple(found.rates) == {48: (48, 192), 96: (96, 384), 12_288: (12_288, 3_072)}[usual]


@pytest.mark.parametrize("size", [USUAL // 4, 4 * USUAL])
def test_a_size_that_changes_a_bit_is_not_taken(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    def answer(x: np.ndarray) -> np.ndarray:
        made = total(x)
        return np.nextafter(made, np.float32(np.inf)) if len(x) == size else made

    found = pick(monkeypatch, Clock(1e-3, 1e-9, answer))
    assert USUAL in found.rates
    assert size not in found.rates


def test_no_size_is_larger_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1e-3, 1e-9, total)
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock.now)
    found = sweep.sweep(clock.model, CONTRACT, ROWS, USUAL, 2 * USUAL)
    assert (found.batch_size, tuple(found.rates)) == (USUAL, (USUAL, USUAL // 4))


@pytest.mark.parametrize(
    ("threads", "chunk_bytes", "size", "cores"),
    [
        (2, 1 << 20, 384, ONE_CORE),
        (6, 1 << 20, 192, ONE_CORE),
        (7, 1 << 20, 12_288, ALL_CORES),
        (2, 340, 12_288, ALL_CORES),
    ],
)
def test_a_chunk_has_a_batch_for_each_core_or_a_batch_has_all(
    threads: int,
    chunk_bytes: int,
    size: int,
    cores: int,
    keyjoin: Callable[..., Result],
    lines: Any,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sample, "THREADS", threads)
    flags = (f"--input={lines(*[{'x': [1, 2, 3]}] * 600)}", f"--chunk_bytes={chunk_bytes}")
    with mock.patch.object(ModelProcess, "load", autospec=True, side_effect=ModelProcess.load) as loaded:
        done = keyjoin("run", *flags, f"--model={model(models.keyed)}")
    assert done.complete()
    assert done.manifest()["model"]["batch_size"] == size
    assert {call.args[2].cores for call in loaded.call_args_list} == {cores}


@pytest.mark.parametrize("cores", [ONE_CORE, ALL_CORES])
def test_a_call_computes_on_so_many_cores(cores: int, model: Any) -> None:
    with mock.patch.object(session.Session, "__init__", autospec=True, side_effect=session.Session.__init__) as made:
        load(model(models.keyed), Loading(cores=cores))
    assert made.call_args.kwargs["config"].intra_op_parallelism_threads == cores


def test_a_model_that_raises_is_called_with_the_usual_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(x: np.ndarray) -> np.ndarray:
        if len(x) > USUAL:
            raise ModelError("too much")
        return total(x)

    found = pick(monkeypatch, Clock(1e-9, 1e-9, answer))
    assert (found.batch_size, tuple(found.rates)) == (USUAL, (USUAL, USUAL // 4))


def test_what_was_measured_is_in_the_manifest(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "SMALL_INPUT", 10)
    path, folder = lines({"x": [1, 2, 3]}, {"x": [3, 2, 1]}), model(models.keyed)
    done = keyjoin("run", f"--input={path}", f"--model={folder}")
    found = done.manifest()["model"]
    assert str(found["batch_size"]) in found["rows_per_second_by_batch_size"]
    assert f"batch        {found['batch_size']:,} rows a call (measured rows/s: 12,288: " in done.out
    given = keyjoin("run", f"--input={path}", f"--model={folder}", "--batch_size=7").manifest()["model"]
    assert (given["batch_size"], given["rows_per_second_by_batch_size"]) == (7, {})
    monkeypatch.setattr(preflight, "SMALL_INPUT", 1 << 20)
    small = keyjoin("run", f"--input={path}", f"--model={folder}").manifest()["model"]
    assert (small["batch_size"], small["rows_per_second_by_batch_size"]) == (12_288, {})


def test_no_call_before_a_run_has_more_large_rows_than_the_run_s_own_calls() -> None:
    """Four rows of a megabyte: 96 copies of one, or two batches of 192 rows, would be a hundred times the input."""
    sizes = list[int]()

    def call(x: np.ndarray) -> tuple[np.ndarray]:
        sizes.append(len(x))
        return (np.array([len(text) for text in x]),)

    x, y = Tensor("x", "string", (), ""), Tensor("n", "int64", (), "")
    called, contract = Model({"x": x}, {"n": y}, call), Contract("s", (x,), (y,))
    rows = [{"x": chr(97 + row) * (1 << 20)} for row in range(4)]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    beginning = sample.Sample(jsonl.FORMAT, data, rows, sweep.SMALL_INPUT, len(data), ())
    options, _ = parse_run(["--input=i", "--model=m", "--output=o"], "run")
    features = (Feature("x", "string", (), ("x",)),)
    swept = preflight._pick_batch_size(options, beginning, called, contract, features, 12_288)
    few = beginning.arrays(features, 4)
    assert few is not None
    assert sweep.fit(called, contract, few, swept).batch_size == swept.batch_size == 6_144
    assert (
        preflight._look(options, beginning, called, contract, features, swept.batch_size)[1].verdict
        is Verdict.INDEPENDENT
    )
    assert max(sizes) <= 64
