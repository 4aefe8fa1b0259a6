"""The contract: keyjoin finds the key input and the key's echo by what the model does with them."""

import json
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to

from keyjoin import KeyedPredict
from tests.conftest import Result
from tests.support import models
from transforms.errors import ModelError, UsageError
from transforms.saved_model.contract import find_contract
from transforms.saved_model.key_probe import MOST
from transforms.saved_model.model import Contract, Echo, Model, Tensor
from transforms.scoring.score import score

X, KEY = Tensor("x", "float32", (), "x:0"), Tensor("key", "int64", (), "k:0")
TABLE = np.arange(100, dtype=np.float32) * 10
Function = Callable[..., dict[str, Any]]


def found(
    function: Function,
    key: Tensor = KEY,
    x: Any = None,
    own: Any = None,
    name: str | None = None,
    *,
    alone: bool = False,
) -> tuple[Contract, Model]:
    """Returns the contract of a function of x and key; `x` has sample rows, `own` the values of their field `key`."""
    answer = function(np.full(7, 9, np.float32), make_keys(key, range(7)))
    outputs = {n: Tensor(n, "string" if a.dtype == object else a.dtype.name, a.shape[1:], n) for n, a in answer.items()}

    def call(x: np.ndarray, key: np.ndarray, outputs: Any = None) -> list[np.ndarray]:
        answer = function(x, key)
        return [np.asarray(answer[name]) for name in outputs or answer]

    model = Model({"x": X, "key": key}, outputs, call)
    rows = None if x is None else {"x": np.asarray(x, np.float32)}
    keys = None if own is None else make_keys(key, own)
    return find_contract(
        model, "s", name, lambda contract: with_key(contract, rows, keys), lambda _: keys, alone=alone
    ), model


def with_key(contract: Contract, rows: Any, keys: Any) -> Any:
    """Returns rows for the data inputs, with the key if it is a data input."""
    data = len(contract.inputs) > 1
    return (
        {**rows, "key": np.resize(keys, len(rows["x"]))}
        if rows and data and keys is not None
        else None
        if data
        else rows
    )


def make_keys(key: Tensor, values: Any) -> np.ndarray:
    if key.dtype == "string":
        return np.array([v if isinstance(v, bytes) else b"%d" % v for v in values], object)
    return np.array(list(values), key.dtype)


def echo(key: np.ndarray) -> np.ndarray:
    return np.array(key)


STRING_KEY, FLOAT_KEY = KEY._replace(dtype="string"), KEY._replace(dtype="float32")
VOCABULARY = {b"u42": 420.0, b"u7": 70.0}
FEATURES: dict[str, tuple[Function, Tensor, Any]] = {
    "an embedding": (lambda x, key: {"score": TABLE[np.clip(key, 0, 99)] + x, "key": echo(key)}, KEY, None),
    "a bucket": (lambda x, key: {"score": key * 2654435761 % 7 + x, "key": echo(key)}, KEY, None),
    "parity": (lambda x, key: {"score": key % 2 + x, "key": echo(key)}, KEY, None),
    "a small threshold": (lambda x, key: {"score": (key > 40) + x, "key": echo(key)}, KEY, None),
    "a large threshold": (lambda x, key: {"score": (key > 10_000) + x, "key": echo(key)}, KEY, None),
    "a huge threshold": (lambda x, key: {"score": (key > 1 << 40) + x, "key": echo(key)}, KEY, None),
    "its sign": (lambda x, key: {"score": np.sign(key + 1) + x, "key": echo(key)}, KEY, None),
    "one known value": (lambda x, key: {"score": (key == 4242) + x, "key": echo(key)}, KEY, [4242, 17, 4242]),
    "a float": (lambda x, key: {"score": np.sqrt(np.abs(key)) + x, "key": echo(key)}, FLOAT_KEY, None),
    "the length of a string": (
        lambda x, key: {"score": np.array([len(k) for k in key]) + x, "key": echo(key)}, STRING_KEY, None,
    ),
    "a vocabulary": (
        lambda x, key: {"score": np.array([VOCABULARY.get(k, 0.0) for k in key], np.float32) + x, "key": echo(key)},
        STRING_KEY,
        [b"u42", b"u7", b"u9"],
    ),
    "one of two outputs": (lambda x, key: {"score": x, "other": key * 2.0 + x, "key": echo(key)}, KEY, None),
    "beside the last column": (lambda x, key: {"pk": np.stack([key % 5 + x, key], 1)}, FLOAT_KEY, None),
    "beside a narrow echo": (
        lambda x, key: {"score": (key > 1_000_000) + x, "key": key.astype("uint16")}, KEY, [2_000_000],
    ),
    "another spelling of it": (lambda x, key: {"score": x, "key": echo(key), "next": key + 1}, KEY, None),
    "its last digits": (lambda x, key: {"score": x, "key": echo(key), "short": key % 50}, KEY, None),
}  # fmt: skip


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("rows", [None, [1.0, 2.0, 3.0]])
@pytest.mark.parametrize("case", FEATURES)
def test_a_key_that_a_prediction_changes_with_is_data(case: str, rows: Any, alone: bool) -> None:
    function, key, own = FEATURES[case]
    contract, _ = found(function, key, rows, own, alone=alone)
    assert (contract.key, contract.echoes) == (None, ())
    assert "changes with the model's input key" in contract.why_data
    assert sorted(tensor.name for tensor in contract.inputs) == ["key", "x"]
    with pytest.raises(UsageError, match=r"--key_input=key: output \w+ changes .* leave out --key_input"):
        found(function, key, rows, own, "key")


TWELVE = np.arange(1, 13, dtype=np.float32)
OWN: dict[str, tuple[Function, Tensor, Any]] = {
    "a table that knows few rows": (
        lambda x, key: {"score": ((key >= 1001) & (key <= 1004)) * key + x, "key": echo(key)},
        KEY,
        [7, 8, 9, 10, 1001, 1002, 11, 1003, 12, 13, 14, 15],
    ),
    "a band": (lambda x, key: {"score": ((key >= 430) & (key < 440)) + x, "key": echo(key)}, KEY, range(425, 437)),
    "a negative band": (
        lambda x, key: {"score": ((key < -40) & (key > -60)) + x, "key": echo(key)},
        KEY,
        [5, 6, 7, -50, 8, 9, 10, 11, 12, 13, 14, 15],
    ),
    "a kind of string": (
        lambda x, key: {"score": np.array([k.startswith(b"vip") for k in key]) + x, "key": echo(key)},
        STRING_KEY,
        [b"a", b"b", b"c", b"d", b"vip1", b"e", b"f", b"g", b"h", b"i", b"j", b"k"],
    ),
    "rows of one kind": (
        lambda x, key: {"score": np.where(x > 10, key, 1), "key": echo(key)}, KEY, range(100, 112),
    ),
    "values that come again": (
        lambda x, key: {"score": (key == 333) + x, "key": echo(key)}, KEY, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 333, 333],
    ),
    "other rows, dropped": (
        lambda x, key: {"score": ((key == 333) + x)[x > 6], "key": key[x > 6]}, KEY, [*range(50, 61), 333],
    ),
    "much more than the noise": (
        lambda x, key: {"score": TABLE[np.clip(key, 0, 99)] + x + 1e-3 * NOISE.normal(size=len(x)), "key": echo(key)},
        KEY,
        range(40, 52),
    ),
}  # fmt: skip


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("case", OWN)
def test_the_rows_own_values_show_what_made_up_ones_do_not(case: str, alone: bool) -> None:
    function, key, own = OWN[case]
    assert found(function, key, TWELVE, own, alone=alone)[0].key is None


def test_the_only_input_of_a_model_may_be_called_key() -> None:
    def call(key: np.ndarray, outputs: Any = None) -> list[np.ndarray]:  # noqa: ARG001
        return [key * 2]

    model = Model({"key": KEY}, {"y": Tensor("y", "int64", (), "y")}, call)
    contract = find_contract(model, "s")
    assert (contract.key, contract.inputs) == (None, (KEY,))
    with pytest.raises(UsageError, match="no data inputs besides its key"):
        find_contract(model, "s", "key")


NOISE = np.random.default_rng(0)
STATE = iter(range(1000))
KEYS: dict[str, Function] = {
    "nothing": lambda x, key: {"y": x * 2, "key": echo(key)},
    "noise": lambda x, key: {"y": x + NOISE.normal(size=len(x)), "key": echo(key)},
    "a counter": lambda x, key: {"y": x + next(STATE), "key": echo(key)},
    "another order": lambda x, key: {"y": x[::-1] * 2, "key": key[::-1]},
    "an order by the key": lambda x, key: {"y": x[np.argsort(-key)] * 2, "key": -np.sort(-key)},
    "rows that are dropped": lambda x, key: {"y": x[x >= 0] * 2, "key": key[x >= 0]},
    "NaN": lambda x, key: {"y": x * np.nan, "key": echo(key)},
    "classes": lambda x, key: {"y": x, "class": np.abs(x).astype(int) % 3, "key": echo(key)},
    "numbers of rows": lambda x, key: {"y": x, "place": np.arange(len(x)), "key": echo(key)},
}


@pytest.mark.parametrize("rows", [None, [1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
@pytest.mark.parametrize("case", KEYS)
def test_a_key_that_no_prediction_changes_with_is_a_key(case: str, rows: Any) -> None:
    contract, _ = found(KEYS[case], KEY, rows, [42, 7, 99])
    assert (contract.key, contract.echoes, contract.why_data) == (KEY, (Echo("key", last_column=False),), "")
    assert contract.most == MOST


def test_a_model_that_raises_for_some_keys_only_takes_them_as_data() -> None:
    def look_up(x: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        if (key >= 10).any():
            raise ModelError("indices[0] = 53 is not in [0, 10)")
        return {"score": TABLE[key] + x, "key": echo(key)}

    contract, _ = found(look_up)
    assert contract.key is None
    assert "raises for some values of its input key, and for others not (indices[0] = 53" in contract.why_data


def test_a_row_that_the_model_refuses_hides_nothing() -> None:
    def look_up(x: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        if (x <= 1).any():  # true for keyjoin's made-up rows, too
            raise ModelError("no")
        return {"score": (key == 4242) + x, "key": echo(key)}

    assert found(look_up, KEY, [1, 1, 2, 3], [4242])[0].key is None
    assert found(look_up, KEY, [2, 3], [17])[0].key == KEY


def test_a_model_that_raises_for_all_it_is_called_with_is_believed_by_name() -> None:
    def call(*_: Any) -> Any:
        raise ModelError("no")

    outputs = {"key": KEY, "y": Tensor("y", "float32", (), "y")}
    contract = find_contract(Model({"x": X, "key": KEY}, outputs, call), "s")
    assert contract.echoes == (Echo("key", last_column=False),)


TWICE: dict[str, tuple[Function, dict[str, bool]]] = {
    "two outputs": (lambda x, key: {"y": x, "key": echo(key), "id": echo(key)}, {"key": False, "id": False}),
    "three, of other dtypes": (
        lambda x, key: {"y": x, "a": key.astype("f8"), "b": key.reshape(-1, 1), "c": make_keys(STRING_KEY, key)},
        {"a": False, "b": False, "c": False},
    ),
    "an output and a last column": (
        lambda x, key: {"pk": np.stack([x, key], 1), "key": echo(key), "z": x * 3}, {"pk": True, "key": False},
    ),
    "two last columns": (
        lambda x, key: {"y": np.stack([x, key], 1), "z": np.stack([x * 3, key], 1)}, {"y": True, "z": True},
    ),
    "last columns in two orders": (
        lambda x, key: {"y": np.stack([x, key], 1), "z": np.stack([x * 3, key], 1)[::-1]}, {"y": True, "z": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TWICE)
def test_every_echo_is_found_and_none_is_a_prediction(case: str) -> None:
    function, echoes = TWICE[case]
    contract, model = found(function)
    assert dict(contract.echoes) == echoes
    x = np.arange(10, dtype=np.float32) + 5
    scored = score(model, contract, {"x": x}, 10, 4, keep_non_finite=False)
    assert not scored.bad
    wanted = {name: x * 3 if name == "z" else x for name in scored.outputs}
    assert {name: array.reshape(-1).tolist() for name, array in scored.outputs.items()} == {
        name: array.tolist() for name, array in wanted.items()
    }
    assert wanted.keys() == function(x, np.arange(10)).keys() - {n for n, last in echoes.items() if not last}


def test_keys_that_differ_from_output_to_output_are_never_guessed_at() -> None:
    def call(x: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        return {"y": x, "key": echo(key), "id": np.where(x == 666, key[::-1], key)}

    contract, model = found(call)
    assert len(contract.echoes) == 2
    x = np.array([1, 666, 2, 3, 4], np.float32)
    scored = score(model, contract, {"x": x}, 5, 5, keep_non_finite=False)
    # A retry with one row returns the same key in both outputs.
    assert (scored.outputs["y"].tolist(), scored.bad) == ([1, 666, 2, 3, 4], [])

    def strange(x: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        return {"y": x, "key": echo(key), "id": np.where(x == 666, key + 1, key)}

    scored = score(found(strange)[1], contract, {"x": x}, 5, 5, keep_non_finite=False)
    assert scored.outputs["y"].tolist() == [1, 2, 3, 4]
    assert [(bad.row, bad.reason) for bad in scored.bad] == [(1, "model_error")]
    assert "outputs key and id give back different keys" in scored.bad[0].message


NARROW: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "int8": (lambda key: key.astype("int8"), 127),
    "uint8": (lambda key: key.astype("uint8"), 255),
    "bfloat16": (lambda key: key.astype("bfloat16"), 256),
    "float16": (lambda key: key.astype("float16"), 2048),
    "int16": (lambda key: key.astype("int16"), 32767),
    "uint16": (lambda key: key.astype("uint16"), 65535),
    "int64 by uint16": (lambda key: key.astype("uint16").astype("int64"), 65535),
    "float32 by float16": (lambda key: key.astype("float16").astype("float32"), 2048),
    "a remainder": (lambda key: key % 10000, 9999),
    "a largest one": (lambda key: np.minimum(key, 5000), 5000),
    "int32": (lambda key: key.astype("int32"), MOST - 1),
}


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("case", NARROW)
def test_a_batch_has_no_more_rows_than_an_echo_holds_keys(case: str, drop: bool) -> None:
    narrow, largest = NARROW[case]

    def call(x: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.flatnonzero(x >= 0) if drop else np.arange(len(x))
        with np.errstate(over="ignore"):
            return {"prediction": x[rows], "key": narrow(key[rows])}

    contract, model = found(call)
    assert contract.echoes == (Echo("key", last_column=False),)
    assert largest / 8 <= contract.most <= largest + 1
    x = np.arange(70_000, dtype=np.float32)
    x[20:464] = -1  # if keys wrapped around, other rows' keys could take the places of the dropped rows
    scored = score(model, contract, {"x": x}, len(x), 70_000, keep_non_finite=False)
    expected = x[x >= 0] if drop else x
    assert np.array_equal(scored.outputs["prediction"], expected)


@pytest.mark.parametrize("remainder", [2, 10, 50])
def test_an_echo_that_holds_a_few_keys_only_is_none(remainder: int) -> None:
    contract, _ = found(lambda x, key: {"y": x, "key": key % remainder})
    assert contract.key is None


def test_the_answer_of_a_model_that_drops_all_rows_is_no_evidence() -> None:
    contract, _ = found(lambda x, key: {"y": x[x > 50_000], "key": key[x > 50_000]}, KEY, [1, 2, 3])
    assert contract.echoes == (Echo("key", last_column=False),)


def embedding(folder: Any, name: str = "key") -> str:
    """Returns the key, which also selects the score."""
    table = tf.constant(TABLE)

    def call(**fed: tf.Tensor) -> dict[str, tf.Tensor]:
        key = fed[name]
        return {"score": tf.gather(table, tf.clip_by_value(key, 0, 99)) + fed["age"], name: tf.identity(key)}

    module = tf.Module()
    specs = {name: models.spec(name, dtype=tf.int64), "age": models.spec("age")}
    module.call = tf.function(call).get_concrete_function(**specs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})
    return str(folder)


PEOPLE = [{"key": 42, "age": 1.0}, {"key": 7, "age": 2.0}, {"key": 99, "age": 3.0}]


def test_the_rows_own_field_feeds_a_key_that_is_data(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    folder = model(embedding)
    done = keyjoin("run", f"--input={lines(*PEOPLE)}", f"--model={folder}", "--output_fields=score")
    assert [row["score"] for row in done.rows()] == [421.0, 72.0, 993.0]
    assert (
        "none, since output score changes with the model's input key: keyjoin matches predictions by position"
        in done.out
    )
    assert (done.manifest()["model"]["key_input"], done.manifest()["model"]["key_outputs"]) == (None, {})
    renamed = [{"user": row["key"], "age": row["age"]} for row in PEOPLE]
    done = keyjoin("run", f"--input={lines(*renamed)}", f"--model={folder}", "--input_map=key=user")
    assert [row["score"] for row in done.rows()] == [421.0, 72.0, 993.0]
    done = keyjoin("run", f"--input={lines(*renamed)}", f"--model={folder}")
    assert done.code == 2
    assert "no field of the rows feeds the model's input key" in done.err
    assert "output score changes with the model's input key, so that it is data" in done.err
    done = keyjoin("run", f"--input={lines(*renamed)}", f"--model={folder}", "--features=age")
    assert "--features feeds one input, and ['age', 'key'] are left" in done.err
    assert "output score changes with the model's input key, so that it is data" in done.err


def test_a_key_input_that_is_data_is_refused(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    rows = [{"user_id": row["key"], "age": row["age"]} for row in PEOPLE]
    flags = (f"--input={lines(*rows)}", f"--model={model(embedding, 'user_id')}", "--output_fields=score")
    done = keyjoin("run", *flags, "--key_input=user_id")
    assert done.code == 2
    assert "--key_input=user_id: output score changes with the model's input user_id" in done.err
    assert [row["score"] for row in keyjoin("run", *flags).rows()] == [421.0, 72.0, 993.0]


def test_a_batch_is_as_small_as_a_narrow_echo_asks_for(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    folder = model(models.keyed, tf.int64, to_uint8)
    path = lines(*({"x": [row, 0, 0]} for row in range(1000)))
    for flags, size in (
        ((), 192),
        (("--batch_size=300",), 239),
        (("--batch_size=100",), 100),
    ):
        done = keyjoin("run", f"--input={path}", f"--model={folder}", *flags)
        assert f"{size} rows a call" in done.out
        assert ("--batch_size=300 is lowered to 239" in done.err) == ("300" in str(flags))
        assert [row["prediction"] for row in done.rows()] == [[row / 2] for row in range(1000)]


LABELS = tf.constant([f"class {number}" for number in range(96)])
X3 = models.spec("x", 3)
HOURS = models.spec("x", 96, 1)


def hidden(tensor: tf.Tensor, *shape: int | None) -> tf.Tensor:
    """Hides the shape of a tensor from the signature, which knows only this shape."""
    return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=shape)


NOT_PER_ROW: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "a constant": (lambda x: {"y": x, "labels": LABELS}, (X3,), "labels has 96 values for any number of rows"),
    "a constant that hides its size": (
        lambda x: {"y": x, "labels": hidden(LABELS, None)}, (X3,), "labels has 96 values for 5 rows",
    ),
    "time-major": (lambda x: {"y": tf.transpose(x, [1, 0, 2])}, (HOURS,), "y has 96 values for any number of rows"),
    "time-major, of open sizes": (
        lambda x: {"y": hidden(tf.transpose(x, [1, 0, 2]), None, None, 1)}, (HOURS,), "y has 96 values for 3 rows",
    ),
    "a small constant": (lambda x: {"y": x, "z": tf.constant([1, 2, 3])}, (X3,), "z has 3 values for any"),
    "beside a key": (
        lambda x, key: {"y": x, "key": tf.identity(key), "z": tf.constant([1, 2, 3])},
        (X3, models.spec("key", dtype=tf.int64)), "z has 3 values for any",
    ),
    "beside a key, hidden": (
        lambda x, key: {"y": x, "key": tf.identity(key), "z": tf.range(5 + tf.cast(tf.reduce_sum(x) * 0, tf.int32))},
        (X3, models.spec("key", dtype=tf.int64)), "z has 5 values for 7 rows",
    ),
    "one for all": (lambda x: {"y": x, "z": tf.reduce_mean(x)}, (X3,), "z is one value for all rows together"),
    "a mean": (lambda x: {"y": x, "z": tf.reduce_mean(x, keepdims=True)}, (X3,), "z has 1 values for any"),
    "two a row": (lambda x: {"y": x, "z": tf.repeat(x, 2, axis=0)}, (X3,), "z has 10 values for 5 rows"),
    "no values": (lambda x: {"y": x, "z": tf.zeros([tf.shape(x)[0], 0])}, (X3,), "z of shape [None, 0] holds no values"),
    "no dtype of a row": (lambda x: {"y": x, "z": tf.complex(x, x)}, (X3,), "z has dtype complex64"),
}  # fmt: skip


def saved(folder: Any, case: str) -> str:
    function, specs, _ = NOT_PER_ROW[case]
    return models.save(folder, function, *specs)


@pytest.mark.parametrize("flags", [(), ("--batch_size=3",), ("--batch_size=5",), ("--batch_size=96",)])
@pytest.mark.parametrize("case", NOT_PER_ROW)
def test_an_output_that_is_not_one_value_a_row_is_refused_by_name(
    case: str, flags: tuple[str, ...], keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    said, specs = NOT_PER_ROW[case][2], NOT_PER_ROW[case][1]
    shape = [[0.0]] * 96 if specs[0] is HOURS else [1.0, 2.0, 3.0]
    fed = (f"--input={lines(*({'x': shape} for _ in range(5)))}", f"--model={model(saved, case)}")
    done = keyjoin("check", *fed, *flags)
    assert (done.code, f"output {said}" in done.err) == (2, True), done.err
    if case.startswith("time-major"):
        return
    # The flags that the message suggests work.
    printed = done.err[done.err.index("--output_fields ") :].strip().split(" ")
    done = keyjoin("run", *fed, *flags, *printed)
    assert done.code == 0, done.err
    assert [row["y"] for row in done.rows()] == [[1.0, 2.0, 3.0]] * 5


def test_a_model_that_drops_a_row_is_not_taken_for_one_whose_output_does_not_follow(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    folder = model(models.save, positive, models.spec("x"))
    rows = [{"x": -1.0}, {"x": 2.0}, {"x": 3.0}]
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={folder}", "--max_bad_rows=1")
    assert (done.code, [row["y"] for row in done.rows()]) == (0, [2.0, 3.0]), done.err


def positive(x: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"y": tf.boolean_mask(x, x > 0)}


def one_a_call(x: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"y": tf.reduce_mean(x, keepdims=True)}


def test_a_model_of_one_value_a_call_is_called_row_by_row(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    folder = model(models.save, one_a_call, models.spec("x"))
    fed = (f"--input={lines(*({'x': float(row)} for row in range(4)))}", f"--model={folder}")
    done = keyjoin("run", *fed, "--batch_size=1")
    assert (done.code, done.err, [row["y"] for row in done.rows()]) == (0, "", [0.0, 1.0, 2.0, 3.0])
    refused = keyjoin("run", *fed)
    assert "y has 1 values for any number of rows" in refused.err
    assert "or have the model called with one row at a time by --batch_size 1" in refused.err


UNWANTED: dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]] = {
    "not finite": lambda x: {"y": x * 2, "debug": tf.math.log(x)},
    "no values": lambda x: {"y": x * 2, "empty": tf.zeros([tf.shape(x)[0], 0])},
    "a constant": lambda x: {"y": x * 2, "labels": tf.constant(["a", "b", "c"])},
    "one for all": lambda x: {"y": x * 2, "threshold": tf.constant(0.5)},
}


def with_unwanted(folder: Any, case: str) -> str:
    return models.save(folder, UNWANTED[case], models.spec("x"))


@pytest.mark.parametrize("flags", [(), ("--isolate",)])
@pytest.mark.parametrize("case", UNWANTED)
def test_an_output_that_is_not_written_costs_nothing(
    case: str, flags: tuple[str, ...], keyjoin: Callable[..., Result], verify: Any, lines: Any, model: Any
) -> None:
    rows, folder = [{"x": 1.0}, {"x": -1.0}, {"x": 2.0}], model(with_unwanted, case)
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={folder}", "--output_fields=row,y", *flags)
    assert (done.code, done.err) == (0, "")
    assert done.rows() == [{**row, "y": row["x"] * 2} for row in rows]
    again = verify(done.output, "--rescore=3", f"--model={folder}")
    assert again.code == 0, again.err


def test_inspect_shows_what_is_no_prediction(keyjoin: Callable[..., Result], model: Any) -> None:
    done = keyjoin("inspect", f"--model={model(with_unwanted, 'a constant')}")
    assert done.code == 0
    assert "labels  has 3 values for any number of rows  leave it out with --output_fields" in done.out


def test_a_copy_of_a_key_that_is_data_is_no_prediction(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    done = keyjoin("run", f"--input={lines(*PEOPLE)}", f"--model={model(embedding)}")
    scores = [421.0, 72.0, 993.0]
    assert done.rows() == [{**row, "score": score} for row, score in zip(PEOPLE, scores, strict=True)]


def test_a_model_that_reorders_rows_by_a_key_that_is_data_is_refused() -> None:
    def call(x: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        return {"score": (TABLE[np.clip(key, 0, 99)] + x)[::-1], "key": key[::-1]}

    with pytest.raises(UsageError, match="the model does not give rows back in their order"):
        found(call)


def test_a_key_that_is_data_comes_from_the_instances_of_a_request(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Any
) -> None:
    def ask(folder: str, *instances: Any) -> Result:
        (tmp_path / "request.json").write_text(json.dumps({"instances": instances}))
        return keyjoin("predict", f"--model={folder}", f"--instances={tmp_path / 'request.json'}")

    answer = json.loads(ask(model(embedding), *PEOPLE).out)
    assert [row["score"] for row in answer["predictions"]] == [421.0, 72.0, 993.0]
    refused = ask(model(embedding), {"age": 1.0})
    assert (refused.code, "so that it is data" in refused.err) == (2, True), refused.err
    narrow = model(models.keyed, tf.int64, to_uint8)
    assert json.loads(ask(narrow, {"x": [1, 0, 0], "key": 200}).out)["predictions"][0]["key"] == 200
    refused = ask(narrow, {"x": [1, 0, 0], "key": 300})
    assert (refused.code, "gives back the key 44, which no instance has" in refused.err) == (1, True), refused.err


def to_uint8(key: tf.Tensor) -> tf.Tensor:
    return tf.cast(key, tf.uint8)


def test_in_a_pipeline_of_ones_own_too(model: Any) -> None:
    with beam.Pipeline("FnApiRunner") as root:
        people = root | beam.Create(PEOPLE) | KeyedPredict(model(embedding))
        scores = people.joined | beam.Map(lambda row: (row["key"], row["score"]))
        assert_that(scores, equal_to([(42, 421.0), (7, 72.0), (99, 993.0)]))
    assert KeyedPredict(model(models.keyed, tf.int64, to_uint8)).handler.batch_size == 239


def test_a_keyed_model_that_drops_the_first_rows_is_aligned_by_its_key(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    folder = model(models.save, dropping, models.spec("x"), models.spec("key", dtype=tf.int64))
    rows = [{"x": -1.0 - row} for row in range(16)] + [{"x": 1.0}, {"x": 2.0}]
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={folder}", "--max_bad_rows=1.0")
    assert (done.code, done.rows()) == (0, [{"x": 1.0, "y": 1.0}, {"x": 2.0, "y": 2.0}])
    assert {letter["reason"] for letter in done.dead()} == {"key_missing"}


def dropping(x: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"y": tf.boolean_mask(x, x >= 0), "key": tf.boolean_mask(key, x >= 0)}
