"""The batch size: the fastest among those that give the same bits, told by a clock that the model itself turns."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline import preflight, sweep
from tests import models
from tests.conftest import Result
from transforms.model import Contract, Model, Tensor

X = Tensor("x", "float32", (2,), "x:0")
Y = Tensor("y", "float32", (), "y:0")
CONTRACT = Contract("s", (X,), (Y,), None, None)
USUAL = sweep.Sweep(7, {})
ROWS = {"x": np.arange(20, dtype=np.float32).reshape(10, 2)}


class Clock:
    """A model that takes so long a call and so long a row, and the clock that says so."""

    def __init__(self, call: float, row: float, answer: Callable[[np.ndarray], np.ndarray]) -> None:
        self.now, self.call, self.row, self.answer = 0.0, call, row, answer
        self.sizes: list[int] = []
        self.model = Model({"x": X}, {"y": Y}, self._score)

    def _score(self, x: np.ndarray) -> tuple[np.ndarray]:
        self.now += self.call + self.row * len(x)
        self.sizes.append(len(x))
        return (self.answer(x),)


def pick(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> sweep.Sweep:
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock.now)
    return sweep.sweep(clock.model, CONTRACT, ROWS, USUAL)


def total(x: np.ndarray) -> np.ndarray:
    return x.sum(axis=1)


def test_a_call_that_costs_much_is_made_with_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pick(monkeypatch, Clock(1e-3, 1e-9, total))
    assert found.batch_size == sweep.SIZES[-1]
    assert tuple(found.rates) == sweep.SIZES


def test_a_larger_batch_has_to_be_worth_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick(monkeypatch, Clock(1e-9, 1e-6, total)).batch_size == sweep.SIZES[0]


def test_a_slow_model_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(0.0, 1e-4, total)
    found = pick(monkeypatch, clock)
    assert len(found.rates) < 3
    assert clock.now < 3 * sweep.BUDGET_SECONDS


def test_a_size_that_changes_a_bit_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(x: np.ndarray) -> np.ndarray:
        made = total(x)
        return made if len(x) <= 384 else np.nextafter(made, np.float32(np.inf))

    found = pick(monkeypatch, Clock(1e-3, 1e-9, answer))
    assert (found.batch_size, tuple(found.rates)) == (384, (96, 384))


def test_what_was_measured_is_in_the_manifest(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "SMALL_INPUT", 10)
    path, folder = lines({"x": [1, 2, 3]}, {"x": [3, 2, 1]}), model(models.keyed)
    done = keyjoin("run", f"--input={path}", f"--model={folder}")
    found = done.manifest()["model"]
    assert str(found["batch_size"]) in found["rows_per_second_by_batch_size"]
    assert f"batch        {found['batch_size']:,} rows a call (measured rows/s: 96: " in done.out
    given = keyjoin("run", f"--input={path}", f"--model={folder}", "--batch_size=7").manifest()["model"]
    assert (given["batch_size"], given["rows_per_second_by_batch_size"]) == (7, {})
    monkeypatch.setattr(preflight, "SMALL_INPUT", 1 << 20)
    small = keyjoin("run", f"--input={path}", f"--model={folder}").manifest()["model"]
    assert (small["batch_size"], small["rows_per_second_by_batch_size"]) == (12_288, {})
    assert all(b > a for a, b in itertools.pairwise(sweep.SIZES))
