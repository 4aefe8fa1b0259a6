"""Memory: keyjoin bisects a batch that does not fit, and remembers the size that fits; a row that never fits is bad."""

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.model_process import ModelProcess, process
from tests.conftest import Result
from tests.support import models
from transforms.errors import MemoryShortError, ModelError, StoppedError
from transforms.records import BadRow
from transforms.saved_model.contract import find_contract
from transforms.saved_model.loader import DEFAULT
from transforms.saved_model.model import SEARCHES, Contract, Model, Tensor
from transforms.scoring.bisect import FEWER, MULTIPLE, Scored
from transforms.scoring.score import FILL_WEIGHTS, score

X, Y = Tensor("x", "float32", (), "x:0"), Tensor("y", "float32", (), "y:0")
KEYLESS = Contract("s", (X,), (Y,))
FAILING = -1.0


class Hungry:
    """A model with memory for this many rows at a time, over all its calls, and never enough for guilty rows."""

    def __init__(self, room: int) -> None:
        self.room, self.taken, self.sizes = room, 0, list[int]()
        self.lock = threading.Lock()
        self.model = Model({"x": X}, {"y": Y}, self._call)

    def _call(self, x: np.ndarray) -> tuple[np.ndarray]:
        with self.lock:
            self.sizes.append(len(x))
            self.taken += len(x)
            fits = self.taken <= self.room and FAILING not in x
        try:
            if not fits:
                raise MemoryShortError("no room")
            return (x * 10,)
        finally:
            with self.lock:
                self.taken -= len(x)


def run(hungry: Hungry, x: np.ndarray, batch_size: int) -> Scored:
    return score(hungry.model, KEYLESS, {"x": x}, len(x), batch_size, keep_non_finite=False)


def numbered(rows: int, failing: set[int] = frozenset()) -> np.ndarray:  # type: ignore[assignment]
    x = np.arange(rows, dtype=np.float32)
    x[[row for row in failing if row < rows]] = FAILING
    return x


@given(
    rows=st.integers(1, 700),
    batch_size=st.integers(1, 400),
    room=st.integers(1, 400),
    failing=st.sets(st.integers(0, 699), max_size=4),
)
def test_all_rows_that_fit_alone_are_scored(rows: int, batch_size: int, room: int, failing: set[int]) -> None:
    hungry, x = Hungry(room), numbered(rows, failing)
    scored = run(hungry, x, batch_size)
    assert [(bad.row, bad.reason) for bad in scored.bad] == [
        (row, "model_memory") for row in np.flatnonzero(x == FAILING)
    ]
    assert np.array_equal(scored.outputs["y"], x[x != FAILING] * 10)
    assert max(hungry.sizes) <= batch_size


def test_what_does_not_fit_is_tried_once(caplog: pytest.LogCaptureFixture) -> None:
    hungry, x = Hungry(200), numbered(10_000)
    assert not run(hungry, x, 1536).bad
    assert hungry.model.limits.rows == 192
    # Two batches may be in flight, and each may be retried once alone, so there are up to 4 calls.
    assert 1 <= hungry.sizes.count(1536) <= 4
    assert hungry.sizes.count(768) == hungry.sizes.count(384) == 1
    hungry.sizes.clear()
    assert not run(hungry, x, 1536).bad
    assert sorted(hungry.sizes) == [MULTIPLE] + [192] * 52
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the model ran out of memory: from here on it is called once at a time",
        "the model ran out of memory with 384 rows: from here on a call has 192 at most",
    ]


def test_a_row_that_does_not_fit_makes_no_call_smaller() -> None:
    hungry = Hungry(1_000)
    assert len(run(hungry, numbered(10_000, {0, 777, 9_999}), 480).bad) == 3
    assert hungry.model.limits.rows > 10_000


def test_what_fits_alone_is_called_alone() -> None:
    together = threading.Barrier(2)
    first = threading.Event()

    def call(x: np.ndarray) -> tuple[np.ndarray]:
        with lock:
            inside.append(len(x))
        try:
            if not first.is_set():
                together.wait()
                first.set()
            if len(inside) > 1:
                raise MemoryShortError("no room for two")
            return (x * 10,)
        finally:
            with lock:
                inside.pop()

    lock, inside = threading.Lock(), list[int]()
    called, x = Model({"x": X}, {"y": Y}, call), numbered(400)
    scored = score(called, KEYLESS, {"x": x}, 400, 96, keep_non_finite=False)
    assert (scored.bad, called.limits.rows > 400) == ([], True)


def test_a_batch_of_a_few_rows_is_filled_up_no_more_than_there_is_room_for() -> None:
    hungry = Hungry(10)
    assert not run(hungry, numbered(7), 960).bad
    assert hungry.sizes[-1] <= 10


def test_an_error_that_is_not_of_memory_is_not_tried_again() -> None:
    sizes = []

    def call(x: np.ndarray) -> tuple[np.ndarray]:
        sizes.append(len(x))
        raise ModelError("no")

    score(Model({"x": X}, {"y": Y}, call), KEYLESS, {"x": numbered(2)}, 2, 2, keep_non_finite=False)
    assert sizes == [2, 1, 2, 1, 2]  # the model has accepted no single row yet, so keyjoin also tries copies of a row


@given(
    rows=st.integers(1, 700), batch_size=st.integers(1, 400), failing=st.sets(st.integers(0, 699)), all_=st.booleans()
)
def test_rows_that_fail_take_a_call_each_and_are_reported_once(
    rows: int, batch_size: int, failing: set[int], all_: bool
) -> None:
    x, sizes = numbered(rows, set(range(rows)) if all_ else failing), list[int]()

    def call(x: np.ndarray) -> tuple[np.ndarray]:
        sizes.append(len(x))
        if FAILING in x:
            raise ModelError("no")
        return (x * 10,)

    reported = list[int]()
    called = Model({"x": X}, {"y": Y}, call)
    scored = score(
        called, KEYLESS, {"x": x}, rows, batch_size, keep_non_finite=False, refused=lambda bad: reported.append(bad.row)
    )
    bad = np.flatnonzero(x == FAILING).tolist()
    assert [one.row for one in scored.bad] == bad == sorted(reported)
    assert np.array_equal(scored.outputs["y"], x[x != FAILING] * 10)
    batches = -(-rows // batch_size)
    copies = (len(FEWER) + 1) * (SEARCHES + rows.bit_length())
    assert len(sizes) <= copies + batches + 2 * len(bad) * min(batch_size, 400).bit_length() + 4 * len(bad)
    if all_:
        assert len(sizes) <= copies + rows + batches * (batch_size.bit_length() + 4)


def limited(takes: Callable[[int], bool]) -> tuple[Model, list[int]]:
    """Returns a model that raises for calls of other sizes than it takes, and the list of its calls' sizes."""
    sizes = list[int]()

    def call(x: np.ndarray) -> tuple[np.ndarray]:
        sizes.append(len(x))
        if not takes(len(x)) or FAILING in x:
            raise ModelError("it takes fewer rows")
        return (x * 10,)

    return Model({"x": X}, {"y": Y}, call), sizes


@given(
    most=st.integers(1, 100),
    rows=st.integers(1, 400),
    batch_size=st.integers(1, 400),
    failing=st.sets(st.integers(0, 399), max_size=4),
)
def test_a_model_that_takes_few_rows_loses_none(most: int, rows: int, batch_size: int, failing: set[int]) -> None:
    x = numbered(rows, failing)
    called, sizes = limited(lambda size: size <= most)
    scored = score(called, KEYLESS, {"x": x}, rows, batch_size, keep_non_finite=False)
    assert [bad.row for bad in scored.bad] == np.flatnonzero(x == FAILING).tolist()
    assert np.array_equal(scored.outputs["y"], x[x != FAILING] * 10)
    failed = sum(size > most for size in sizes)
    assert failed <= 40 + 20 * len(failing)  # fewer than one failure a batch


@pytest.mark.parametrize(
    "takes", [lambda size: size == 1, lambda size: size in (1, 32), lambda size: size % 8 == 0 or size == 1]
)
def test_the_size_that_a_model_takes_is_found_used_and_reported(
    takes: Callable[[int], bool], caplog: pytest.LogCaptureFixture
) -> None:
    called, sizes = limited(takes)
    assert not score(called, KEYLESS, {"x": numbered(2_000)}, 2_000, 500, keep_non_finite=False).bad
    assert takes(called.limits.rows)
    assert "from here on a call has" in caplog.text
    sizes.clear()
    assert not score(called, KEYLESS, {"x": numbered(2_000)}, 2_000, 500, keep_non_finite=False).bad
    assert all(map(takes, sizes))


def test_a_row_that_fails_beside_its_copies_makes_no_call_smaller() -> None:
    def call(x: np.ndarray) -> tuple[np.ndarray]:
        if (x == FAILING).sum() > 1:
            raise ModelError("twice")
        return (x * 10,)

    called = Model({"x": X}, {"y": Y}, call)
    scored = score(called, KEYLESS, {"x": numbered(200, {3})}, 200, 96, keep_non_finite=False)
    assert (scored.bad, called.limits.rows > 200) == ([], True)


@pytest.mark.parametrize(
    ("array", "weights", "sent"),
    [
        (np.zeros(5, np.float32), 0, 96),
        (np.zeros((5, 10_000), np.float32), 0, 96),
        (np.zeros((5, 20_000), np.float32), 0, 5),  # 96 rows would need 91 copies of 80 kB
        (np.array([b"x" * 99] * 5, object), 0, 5),
        (np.zeros(5, np.float32), 1 << 25, 5),
    ],
)
def test_calls_are_filled_up_where_that_costs_little(array: np.ndarray, weights: int, sent: int) -> None:
    sizes = list[int]()

    def call(x: np.ndarray) -> tuple[np.ndarray]:
        sizes.append(len(x))
        return (np.zeros(len(x), np.float32),)

    called = Model({"x": X}, {"y": Y}, call, weights=weights)
    score(called, KEYLESS, {"x": array}, 5, 384, keep_non_finite=False)
    assert sizes == [sent]


def test_scoring_can_be_stopped_at_a_row_that_fails() -> None:
    def call(x: np.ndarray) -> tuple[np.ndarray]:
        sizes.append(len(x))
        raise ModelError("no")

    def refused(bad: BadRow) -> None:
        reported.append(bad)
        raise StoppedError

    sizes, reported = list[int](), list[BadRow]()
    called, x = Model({"x": X}, {"y": Y}, call), numbered(100_000)
    with pytest.raises(StoppedError):
        score(called, KEYLESS, {"x": x}, len(x), 960, keep_non_finite=False, refused=refused)
    assert len(sizes) < 1_000
    assert 1 <= len(reported) < 100


@pytest.fixture(scope="module")
def prompt_process() -> Iterator[ModelProcess]:
    """The model's process without oneDNN, whose allocations wait 10 seconds before they fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
        process().restart()
    yield process()
    process().restart()


def test_a_model_without_memory_reports_it(model: Callable[..., str], prompt_process: ModelProcess) -> None:
    called = prompt_process.load(model(models.hungry, 100), DEFAULT)
    x = np.ones((500, 3), np.float32)
    x[3] = 666
    contract = find_contract(called, "serving_default")
    scored = score(called, contract, {"x": x}, 500, 480, keep_non_finite=False)
    assert [(bad.row, bad.reason) for bad in scored.bad] == [(3, "model_memory")]
    assert scored.bad[0].message.startswith("ResourceExhaustedError: OOM when allocating tensor")
    assert (len(scored.outputs["prediction"]), called.limits.rows) == (499, 96)


@pytest.mark.parametrize("most", [1, 32, 60])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_a_run_calls_a_model_with_as_many_rows_as_it_takes(
    keyjoin: Callable[..., Result], lines: Any, model: Any, most: int, rows: int
) -> None:
    path = lines(*({"x": [row, 1, 2]} for row in range(rows)))
    folder = model(models.few, most)
    done = keyjoin("run", f"--input={path}", f"--model={folder}")
    assert done.complete(), done.err
    assert [row["y"] for row in done.rows()] == [row + 3 for row in range(rows)]
    if rows > 1:
        assert done.manifest()["model"]["batch_size"] in (most, 48)
        assert re.search(
            r"keyjoin: warning: the model fails with \d+ .*: from here on a call has \d+ at most\n", done.err
        )
    verified = keyjoin("verify", f"--run={done.output}", f"--rescore={rows}", f"--model={folder}")
    assert verified.code == 0, verified


@pytest.mark.usefixtures("prompt_process")
def test_a_run_continues_with_smaller_batches(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(*({"x": [-float(row), 2.0, 3.0]} for row in range(1000)))
    done = keyjoin("run", f"--input={path}", f"--model={model(models.hungry, 100)}", "--chunk_bytes=5000")
    assert done.complete(), done.err
    assert [-row["x"][0] for row in done.rows()] == list(range(1000))
    assert len(re.findall("keyjoin: warning: .*: from here on a call has 96 at most\n", done.err)) == 1


ACCEPTS: dict[str, Callable[[int], bool]] = {
    "at most 1": lambda rows: rows == 1,
    "at most 4": lambda rows: rows <= 4,
    "at most 49": lambda rows: rows <= 49,
    "at most 5000": lambda rows: rows <= 5000,
    "at least 2": lambda rows: rows >= 2,
    "an even number": lambda rows: rows % 2 == 0,
    "a multiple of 8": lambda rows: rows % 8 == 0,
    "exactly 32": lambda rows: rows == 32,
}


@pytest.mark.parametrize("accepts", ACCEPTS)
@given(
    rows=st.integers(1, 250),
    batch_size=st.integers(32, 300),
    failing=st.sets(st.integers(0, 249), max_size=4),
    filled=st.booleans(),
)
def test_whatever_number_of_rows_a_model_takes_no_good_row_is_lost(
    accepts: str, rows: int, batch_size: int, failing: set[int], filled: bool
) -> None:
    def call(x: np.ndarray) -> tuple[np.ndarray]:
        if not ACCEPTS[accepts](len(x)) or FAILING in x:
            raise ModelError("no")
        return (x * 10,)

    x = numbered(rows, failing)
    called = Model({"x": X}, {"y": Y}, call, weights=0 if filled else FILL_WEIGHTS + 1)
    for _ in range(2):  # the second time with the learned size of calls
        scored = score(called, KEYLESS, {"x": x}, rows, batch_size, keep_non_finite=False)
        assert [bad.row for bad in scored.bad] == np.flatnonzero(x == FAILING).tolist()
        assert np.array_equal(scored.outputs["y"], x[x != FAILING] * 10)


def test_copies_are_tried_for_few_rows_of_a_model_that_always_fails() -> None:
    sizes = list[int]()

    def call(x: np.ndarray) -> tuple[np.ndarray]:
        sizes.append(len(x))
        raise ModelError("no")

    called = Model({"x": X}, {"y": Y}, call, weights=FILL_WEIGHTS + 1)
    score(called, KEYLESS, {"x": numbered(5_000)}, 5_000, 960, keep_non_finite=False)
    assert sizes.count(1) == 5_000
    assert len(sizes) < 5_500
