"""With --isolate, a crash, a hang or too much memory costs only the rows that cause it when scored alone."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.model import isolation
from pipeline.model.isolation import Isolated
from pipeline.model.model_process import EndedError, LateError, ModelProcess
from tests.conftest import ROOT, Result
from tests.support import models
from transforms.errors import CrashError, RunError, TimeoutExceededError
from transforms.saved_model.loader import Loading
from transforms.saved_model.model import Contract, Model, Tensor
from transforms.scoring.score import score

SIGNATURE = "serving_default"
BEAST = [666.0, 0.0, 0.0]
X, Y = Tensor("x", "float32", (3,), "x:0"), Tensor("prediction", "float32", (1,), "y:0")
KEYLESS = Contract(SIGNATURE, (X,), (Y,))


def linear(x: np.ndarray) -> np.ndarray:
    return (x * np.array(models.WEIGHTS, np.float32)[:, 0]).sum(axis=1, keepdims=True)


def rows_of(count: int, failing: set[int]) -> np.ndarray:
    x = np.random.default_rng(count).integers(-9, 9, (count, 3)).astype(np.float32)
    x[list(failing)] = BEAST
    return x


def check(called: Model, x: np.ndarray, batch_size: int, reason: str) -> None:
    """Only the guilty rows are bad, for this reason; all other rows have their own predictions."""
    scored = score(called, KEYLESS, {"x": x}, len(x), batch_size, keep_non_finite=False)
    failing = x[:, 0] == BEAST[0]
    assert [(bad.row, bad.reason) for bad in scored.bad] == [(row, reason) for row in np.flatnonzero(failing)]
    assert np.array_equal(scored.outputs["prediction"], linear(x[~failing]))


@pytest.fixture
def process() -> Iterator[ModelProcess]:
    made = ModelProcess()
    yield made
    made.close()


def test_a_hang_costs_the_row_that_hangs_alone(process: ModelProcess, model: Callable[..., str]) -> None:
    called = Isolated(process, model(models.hanging), Loading(), 1.0).load()
    called({"x": rows_of(8, set())})  # the first call of a process takes longer
    check(called, rows_of(4, {1}), 2, "model_timeout")


class FakeProcess:
    """A fake model process inside this one; counts its starts.

    Its model raises the error that the end of a real process causes.
    """

    def __init__(self, call: Callable[[np.ndarray], np.ndarray]) -> None:
        self.call, self.starts = call, 1

    def load(self, *_: Any) -> Model:
        started = self.starts

        def call(x: np.ndarray) -> tuple[np.ndarray]:
            answer = self.call(x)
            if started != self.starts:
                raise EndedError("ended by another")
            return (answer,)

        return Model({"x": X}, {"prediction": Y}, call)

    def restart(self) -> int:
        self.starts += 1
        return -6


def isolated(process: FakeProcess) -> Model:
    return Isolated(process, "", Loading(), 1.0).load()  # type: ignore[arg-type]  # what is called of it


@pytest.mark.parametrize(("error", "reason"), [(EndedError, "model_crash"), (LateError, "model_timeout")])
@pytest.mark.parametrize("failing", [set(), {0}, {99}, {3, 4, 50}, set(range(20, 50))])
def test_only_failing_rows_are_lost_whatever_rows_they_are_called_with(
    failing: set[int], error: Any, reason: str
) -> None:
    together = threading.Barrier(2)

    def call(x: np.ndarray) -> np.ndarray:
        if process.starts == 1:
            together.wait()  # two batches are in flight when the first one crashes
        if (x[:, 0] == BEAST[0]).any():
            raise error("died")
        return linear(x)

    process = FakeProcess(call)
    check(isolated(process), rows_of(100, failing), 50, reason)
    assert process.starts <= 1 + len(failing) * 8


def test_an_innocent_batch_that_died_with_another_is_called_again() -> None:
    died = threading.Event()

    def call(x: np.ndarray) -> np.ndarray:
        if process.starts == 1 and x[0, 0] == BEAST[0]:
            raise EndedError("died")
        if process.starts == 1:
            died.wait()
        return linear(x)

    class Process(FakeProcess):
        def restart(self) -> int:
            self.starts += 1
            died.set()
            return -11

    process = Process(call)
    x = rows_of(100, set())
    x[50] = BEAST
    scored = score(isolated(process), KEYLESS, {"x": x}, 100, 50, keep_non_finite=False)
    assert process.starts == 2  # the batch crashed only once, so no row is blamed
    assert (scored.bad, len(scored.outputs["prediction"])) == ([], 100)


def test_a_model_that_always_crashes_ends_the_run() -> None:
    def call(_: np.ndarray) -> np.ndarray:
        raise EndedError("died")

    process = FakeProcess(call)
    with pytest.raises(RunError, match=r"ended 60 times without one answer between: .* try it with `keyjoin predict`$"):
        check(isolated(process), rows_of(1000, set()), 100, "model_crash")
    assert process.starts == isolation.MOST_CRASHES + 1


def test_a_row_that_crashes_now_and_then_does_not_add_up() -> None:
    def call(x: np.ndarray) -> np.ndarray:
        if (x[:, 0] == BEAST[0]).any():
            raise EndedError("died")
        return linear(x)

    process = FakeProcess(call)
    check(isolated(process), rows_of(1000, set(range(0, 1000, 10))), 100, "model_crash")
    assert process.starts > isolation.MOST_CRASHES


@pytest.mark.parametrize(
    ("raised", "reported"),
    [
        (EndedError("died"), CrashError("the process of the model ended with SIGABRT")),
        (LateError("late"), TimeoutExceededError("no answer within --batch_timeout=1 seconds")),
    ],
)
def test_the_reported_cause_is_right_and_the_same_in_every_run(raised: Exception, reported: Exception) -> None:
    def call(_: np.ndarray) -> np.ndarray:
        raise raised

    with pytest.raises(type(reported), match=f"^{reported}$"):
        isolated(FakeProcess(call))({"x": np.array([BEAST], np.float32)})


def job(lines: Any, count: int, failing: set[int]) -> str:
    path: str = lines(*({"n": number, "x": row.tolist()} for number, row in enumerate(rows_of(count, failing))))
    return path


def test_a_run_loses_the_rows_that_crash_and_no_other(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = job(lines, 60, {31})
    flags = (f"--input={path}", f"--model={model(models.aborting)}", "--batch_size=2", "--chunk_bytes=1000")
    done = keyjoin("run", *flags, "--isolate", "--batch_timeout=60", "--max_bad_rows=1")
    assert (done.code, done.complete()) == (0, True), done.err
    assert done.manifest()["totals"]["dead"] == {"model_crash": 1}
    (letter,) = done.dead()
    assert (json.loads(letter["row"])["n"], letter["message"]) == (31, "the process of the model ended with SIGABRT")
    joined = done.rows()
    assert [row["n"] for row in joined] == [n for n in range(60) if n != 31]
    assert all(row["prediction"] == linear(np.array([row["x"]], np.float32)).tolist()[0] for row in joined)


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_workers_isolate_too(lines: Any, model: Any, tmp_path: Path) -> None:
    path = job(lines, 60, {31})
    flags = (f"--input={path}", f"--model={model(models.aborting)}", "--batch_size=2", "--chunk_bytes=1000")
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    command = [sys.executable, "-m", "pipeline", "run", *flags, "--isolate", "--max_bad_rows=1", *prism]
    command.append(f"--output={tmp_path / 'prism'}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    remote = Result(0, "", "", tmp_path / "prism")
    assert [json.loads(letter["row"])["n"] for letter in remote.dead()] == [31]
    assert [row["n"] for row in remote.rows()] == [n for n in range(60) if n != 31]


def test_without_isolation_a_crash_is_one_line_that_names_it(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    path = job(lines, 100, {50})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.aborting)}", "--model_ops=allow")
    assert (done.code, done.complete()) == (1, False)
    assert done.err.count("\n") == 1
    assert "--isolate" in done.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--batch_timeout=5",), "--batch_timeout=5 ends the process of the model, which needs --isolate; add it"),
        (("--isolate", "--batch_timeout=0"), "0 is not a number of seconds from 0.01 to 1000000"),
        (("--isolate", "--batch_timeout=nan"), "nan is not a number of seconds"),
    ],
)
def test_what_cannot_be(keyjoin: Callable[..., Result], flags: Any, said: str) -> None:
    done = keyjoin("run", "--input=x", "--model=m", *flags)
    assert done.code == 2
    assert said in done.err
