"""Before the run, keyjoin detects predictions that depend on other rows, on their order or on earlier calls."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model import isolation
from pipeline.plan.batch_dependence import vary
from tests.conftest import Result
from tests.support import models
from transforms.saved_model.loader import load
from transforms.scoring.differences import differs

ROWS = [{"x": value} for value in (5.0, 3.0, 8.0, 1.0, 3.0, 13.0, 21.0)]
Compute = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def each(compute: Callable[[tf.Tensor], tf.Tensor]) -> Compute:
    """A model with one output."""
    return lambda x: {"y": compute(x)}


def above(rows: int, compute: Callable[[tf.Tensor], tf.Tensor]) -> Compute:
    """Mixes rows only in batches of more than `rows` rows."""
    return each(lambda x: tf.cond(tf.shape(x)[0] > rows, lambda: compute(x), lambda: tf.identity(x)))


def without_repeats(x: tf.Tensor) -> tf.Tensor:
    found = tf.unique(x).y
    return tf.pad(found, [[0, tf.shape(x)[0] - tf.shape(found)[0]]])


def place(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.range(tf.shape(x)[0]), tf.float32)


def keyed(compute: Callable[[tf.Tensor], tf.Tensor]) -> Callable[..., dict[str, tf.Tensor]]:
    return lambda x, key: {"y": compute(x), "key": tf.identity(key)}


OTHER_ORDER = {
    "sorted": each(tf.sort),
    "reversed": each(lambda x: x[::-1]),
    "shifted": each(lambda x: tf.roll(x, 1, 0)),
    "top_k": each(lambda x: tf.math.top_k(x, tf.shape(x)[0]).values),
    "without repeats": each(without_repeats),
    "place": each(lambda x: x + place(x)),
    "running total": each(tf.cumsum),
    "two exchanged": each(lambda x: tf.concat([x[1:2], x[:1], x[2:]], 0)),
    "shuffled with a seed": each(lambda x: tf.random.experimental.stateless_shuffle(x, [1, 2])),
    "sorted above 100 rows": above(100, tf.sort),
    "shifted above 190 rows": above(190, lambda x: tf.roll(x, 1, 0)),
    "integers": each(lambda x: tf.sort(tf.cast(x, tf.int64))),
    "bools": each(lambda x: x[::-1] > 4.0),
    "strings": each(lambda x: tf.as_string(tf.sort(x))),
    "halves": each(lambda x: tf.cast(tf.sort(x), tf.float16)),
    "wide": each(lambda x: tf.stack([x, tf.sort(x)], 1)),
    "second output": lambda x: {"a": x * 2.0, "b": tf.sort(x)},
    "NaN": each(lambda x: tf.where(x[::-1] > 4.0, x[::-1], float("nan"))),
}
BATCH = {
    "softmax": each(tf.nn.softmax),
    "normalised": each(lambda x: (x - tf.reduce_mean(x)) / tf.math.reduce_std(x)),
    "of the largest": each(lambda x: x / tf.reduce_max(x)),
    "above 100 rows": above(100, lambda x: x - tf.reduce_mean(x)),
    "count": each(lambda x: x * 0.0 + tf.cast(tf.shape(x)[0], tf.float32)),
    "the largest as text": each(lambda x: tf.fill(tf.shape(x), tf.as_string(tf.reduce_max(x)))),
}
INDEPENDENT = {
    "doubled": each(lambda x: x * 2.0),
    "NaN": each(lambda x: tf.where(x > 4.0, float("nan"), x)),
    "infinite": each(lambda x: tf.where(x > 4.0, float("inf"), x)),
    "strings": each(tf.as_string),
    "integers": each(lambda x: tf.cast(x, tf.int32) % 3),
    "near zero": each(lambda x: x / 7.0 + 1e5 - x / 7.0 - 1e5 + x * 1e3),
    "last digits": each(lambda x: x + 1e-7 * place(x) / tf.cast(tf.shape(x)[0], tf.float32)),
    "half in double": each(lambda x: tf.cast(x * (1.0 + 1e-7 * place(x) / 400.0), tf.float64)),
}


@pytest.fixture
def tried(keyjoin: Callable[..., Result], lines: Any, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command with a model and rows."""

    def call(compute: Callable[..., Any], *flags: str, command: str = "run", rows: list[Any] = ROWS * 30) -> Result:
        specs = [models.spec("x"), models.spec("key", dtype=tf.int64)][: compute.__code__.co_argcount]
        folder = tmp_path / "model"
        saved = str(folder) if folder.exists() else models.save(folder, compute, *specs)
        return keyjoin(command, f"--input={lines(*rows)}", f"--model={saved}", "--non_finite=keep", *flags)

    return call


@pytest.mark.parametrize("policy", ["refuse", "warn", "allow"])
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_model_without_a_key_that_reorders_rows_is_always_refused(
    tried: Callable[..., Result], command: str, policy: str
) -> None:
    done = tried(OTHER_ORDER["sorted"], f"--batch_dependence={policy}", command=command)
    assert done.code == 2
    assert "its output y does not follow the rows: in two orders of the same rows, one of them gets " in done.err
    assert not done.output.exists()


@pytest.mark.parametrize("case", OTHER_ORDER)
def test_whatever_moves_predictions_is_refused(tried: Callable[..., Result], case: str) -> None:
    done = tried(OTHER_ORDER[case])
    assert (done.code, "does not follow the rows" in done.err) == (2, True), (case, done.err)


@pytest.mark.parametrize("batch_size", [2, 3, 7, 16, 200])
@pytest.mark.parametrize("case", ["sorted", "reversed", "shifted", "two exchanged"])
def test_it_is_refused_with_every_batch_size(tried: Callable[..., Result], case: str, batch_size: int) -> None:
    done = tried(OTHER_ORDER[case], f"--batch_size={batch_size}", command="check")
    assert (done.code, "does not follow the rows" in done.err) == (2, True), done.err


ALIKE: dict[str, tuple[Compute, list[Any]]] = {
    "rows that are all alike": (each(tf.sort), [{"x": 1.0}] * 300 + [{"x": float(n)} for n in (9, 3, 7)]),
    "classes that are all alike": (
        each(lambda x: tf.cast(tf.sort(x) > 1000.0, tf.int32)), [{"x": float(n)} for n in (*range(600, 900), 2000, 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALIKE)
def test_it_is_refused_where_sampled_rows_do_not_show_it(tried: Callable[..., Result], case: str) -> None:
    compute, rows = ALIKE[case]
    done = tried(compute, rows=rows)
    assert (done.code, "does not follow the rows" in done.err) == (2, True), done.err


COPIES = {
    "size of the call": each(lambda x: x / tf.cast(tf.shape(x)[0], tf.float32)),
    "whether it is there twice": each(lambda x: tf.gather(*reversed(tf.unique_with_counts(x)[1:]))),
}


@pytest.mark.parametrize("case", COPIES)
def test_a_model_that_sees_the_copies_of_a_row_is_reported(tried: Callable[..., Result], case: str) -> None:
    done = tried(COPIES[case], rows=[{"x": float(n)} for n in range(7)])
    assert (done.code, "predictions depend on the other rows of the batch" in done.err) == (0, True), done.err


def test_a_slow_model_is_not_said_to_be_independent(
    tried: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 10)
    monkeypatch.setattr("pipeline.plan.batch_dependence.time", SimpleNamespace(monotonic=lambda: next(clock)))
    kept = tried(INDEPENDENT["doubled"]).manifest()["model"]["batch_dependence"]
    assert (kept["verdict"], max(kept["rows"]) < 96) == ("not measured", True)


def test_with_one_row_a_call_nothing_can_be_mixed(tried: Callable[..., Result]) -> None:
    done = tried(OTHER_ORDER["sorted"], "--batch_size=1", rows=ROWS)
    assert (done.code, done.err) == (0, "")
    assert [row["y"] for row in done.rows()] == [row["x"] for row in ROWS]


@pytest.mark.parametrize("case", BATCH)
def test_predictions_that_depend_on_the_batch_are_reported(tried: Callable[..., Result], case: str) -> None:
    done = tried(BATCH[case])
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert "keyjoin: warning: predictions depend on the other rows of the batch: in one call, output y" in done.err
    kept = done.manifest()["model"]["batch_dependence"]
    assert (kept["verdict"], kept["output"]) == ("depends on the batch", "y")
    assert f"is {kept['expected']}, in another one {kept['found']};" in done.err


EXCHANGED = {
    "sorted": tf.sort,
    "reversed": lambda x: x[::-1],
    "shifted": lambda x: tf.roll(x, 1, 0),
    "two exchanged": lambda x: tf.concat([x[1:2], x[:1], x[2:]], 0),
    "strings": lambda x: tf.as_string(tf.sort(x)),
    "wide": lambda x: tf.stack([x[::-1], 7.0 - x[::-1]], 1),
}


@pytest.mark.parametrize("policy", ["refuse", "warn", "allow"])
@pytest.mark.parametrize("case", EXCHANGED)
def test_a_model_that_moves_predictions_and_not_their_keys_is_refused(
    tried: Callable[..., Result], case: str, policy: str
) -> None:
    done = tried(keyed(EXCHANGED[case]), f"--batch_dependence={policy}", command="check")
    assert (done.code, "does not return each key beside its own row's output y" in done.err) == (2, True), done.err


@pytest.mark.parametrize("compute", [tf.cumsum, tf.nn.softmax])
def test_with_a_key_another_order_is_a_matter_of_values(tried: Callable[..., Result], compute: Any) -> None:
    done = tried(keyed(compute))
    assert (done.code, "predictions depend on the other rows of the batch" in done.err) == (0, True), done.err


def test_what_is_reported_can_be_refused_or_allowed(tried: Callable[..., Result]) -> None:
    refused = tried(BATCH["softmax"], "--batch_dependence=refuse")
    assert (refused.code, "accept it with --batch_dependence=warn" in refused.err) == (2, True)
    assert not refused.output.exists()
    allowed = tried(BATCH["softmax"], "--batch_dependence=allow")
    assert (allowed.code, allowed.err) == (0, "")
    assert allowed.manifest()["model"]["batch_dependence"]["verdict"] == "depends on the batch"


@pytest.mark.parametrize("case", INDEPENDENT)
@pytest.mark.parametrize("batch_size", [7, 200])
def test_last_digits_and_nan_are_no_difference(tried: Callable[..., Result], case: str, batch_size: int) -> None:
    done = tried(INDEPENDENT[case], f"--batch_size={batch_size}", "--batch_dependence=refuse")
    assert (done.code, done.err) == (0, "")
    assert done.manifest()["model"]["batch_dependence"]["verdict"] == "independent"


@pytest.mark.parametrize("key", [False, True])
def test_a_model_that_draws_numbers_is_reported(tried: Callable[..., Result], key: bool) -> None:
    noise = lambda x: x + tf.random.uniform(tf.shape(x), seed=3)  # noqa: E731
    done = tried(keyed(noise) if key else each(noise))
    assert done.code == 0
    assert "the model is not deterministic: called again with the same rows, its output y is " in done.err
    assert done.manifest()["model"]["batch_dependence"]["verdict"] == "differs from call to call"
    assert tried(noise, "--batch_dependence=refuse").code == 2


def test_rows_that_fail_alone_are_no_evidence(tried: Callable[..., Result]) -> None:
    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.assert_less(x, 20.0)]):
            return {"y": tf.identity(x)}

    done = tried(call, "--batch_dependence=refuse", "--max_bad_rows=1.0")
    assert (done.code, len(done.dead())) == (0, 30)
    assert done.manifest()["model"]["batch_dependence"]["verdict"] == "independent"


def test_what_was_found_does_not_stop_a_run_from_being_resumed(tried: Callable[..., Result]) -> None:
    first = tried(BATCH["softmax"])
    manifest = first.manifest()
    (first.output / "_SUCCESS").unlink()
    manifest["model"]["batch_dependence"] |= {"verdict": "independent", "found": "0.1", "rows": [1]}
    (first.output / "_keyjoin/manifest.json").write_text(json.dumps(manifest))
    again = tried(BATCH["softmax"], f"--output={first.output}", "--batch_dependence=allow")
    assert (again.code, again.complete()) == (0, True), again.err


def counter(folder: Path) -> str:
    """A model that adds the number of earlier calls."""
    module = tf.Module()
    module.count = tf.Variable(0.0)

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        before = module.count.read_value()
        with tf.control_dependencies([before]), tf.control_dependencies([module.count.assign_add(1.0)]):
            return {"y": x + before}

    module.call = tf.function(call, input_signature=[models.spec("x")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})
    return str(folder)


def inserting(folder: Path) -> str:
    """A model that counts in a table how often it has seen a value: 0 in the first call, more in later ones."""
    module = tf.Module()
    module.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        keys = tf.cast(x, tf.int64)
        before = module.table.lookup(keys)
        with tf.control_dependencies([before]), tf.control_dependencies([module.table.insert(keys, before + 1.0)]):
            return {"y": tf.identity(before)}

    module.call = tf.function(call, input_signature=[models.spec("x")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})
    return str(folder)


def seeded(folder: Path) -> str:
    """A model that adds random numbers from a seeded generator."""
    tf.random.set_seed(1)
    return models.save(folder, lambda x: {"y": x + tf.random.uniform(tf.shape(x), seed=3)}, models.spec("x"))


@pytest.mark.parametrize("build", [counter, inserting, seeded])
@pytest.mark.parametrize("flags", [(), ("--isolate",), ("--max_memory=20000000000",)])
def test_the_first_row_finds_the_model_as_it_was_saved(
    keyjoin: Callable[..., Result], lines: Any, model: Any, build: Any, flags: tuple[str, ...]
) -> None:
    folder = model(build)
    batch = np.float32([row["x"] for row in ROWS])
    padded = np.concatenate([batch, np.repeat(batch[-1:], 96 - len(batch))])
    expected = load(folder)({"x": padded})["y"][: len(batch)].tolist()
    done = keyjoin("run", f"--input={lines(*ROWS)}", f"--model={folder}", "--batch_dependence=allow", *flags)
    assert done.code == 0, done.err
    assert [row["y"] for row in done.rows()] == pytest.approx(expected)


@pytest.mark.parametrize("build", [models.plain, models.keyed, models.twice, models.raising])
def test_a_model_without_state_is_loaded_once(
    keyjoin: Callable[..., Result], lines: Any, model: Any, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "renew", lambda: pytest.fail("it was loaded anew"))
    done = keyjoin("run", f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(build)}")
    assert done.complete()


SIZES = st.floats(2**-10, 2**20, width=32)


@given(st.lists(SIZES, min_size=1, max_size=9), st.integers(-64, 64))
def test_differences_of_a_few_last_digits_are_none(values: list[float], ulps: int) -> None:
    one = np.float32(values)
    other = one + np.float32(ulps) * np.spacing(one)
    assert not differs(one, other).any()
    assert not differs(one[None], other[None]).any()


@given(SIZES, st.floats(2**-10, 1.0))
def test_what_is_more_than_last_digits_is_a_difference(value: float, part: float) -> None:
    one = np.float32([value])
    assert differs(one, one * np.float32(1 + part)).all()
    assert differs(np.float32([[value, 1e-3]]), np.float32([[value * (1 + part), 1e-3]])).all()


def test_near_zero_the_size_of_the_output_counts() -> None:
    one, other = np.float32([1e-7, 1.0]), np.float32([3e-7, 1.0])
    assert differs(one, other).tolist() == [True, False]
    assert differs(one, other, largest=1.0).tolist() == [False, False]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_largest_values_of_a_dtype_are_varied_without_a_warning(dtype: str) -> None:
    limits = np.finfo(dtype)
    with np.errstate(all="raise"):
        varied = vary({"x": np.array([limits.min, 0, limits.max], dtype)})["x"]
    assert varied.dtype == dtype
    assert not np.isnan(varied).any()
