"""SavedModels for tests, made once a session: small and deterministic; some of them fail on purpose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

WEIGHTS = [[0.5], [-1.25], [3.0]]


def save(folder: Path, function: Callable[..., Any], *specs: tf.TensorSpec) -> str:
    """Saves a function as serving_default."""
    module = tf.Module()
    module.call = tf.function(function, input_signature=list(specs))
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})
    return str(folder)


def spec(name: str, *shape: int | None, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
    """An input with a batch dimension."""
    return tf.TensorSpec([None, *shape], dtype, name=name)


def _linear(x: tf.Tensor) -> tf.Tensor:
    # A sum instead of a matrix product: its result does not depend on the batch.
    return tf.reduce_sum(x * tf.constant(WEIGHTS)[:, 0], axis=1, keepdims=True)


def plain(folder: Path) -> str:
    """Features (3) -> prediction (1), no key."""
    return save(folder, lambda x: {"prediction": _linear(x)}, spec("x", 3))


def softmax(folder: Path) -> str:
    """A number v -> its softmax over the batch, so that a prediction depends on the other rows."""
    return save(folder, lambda v: {"y": tf.nn.softmax(v, 0)}, spec("v"))


def keyed(folder: Path, dtype: tf.DType = tf.int32, echo: Callable[[tf.Tensor], tf.Tensor] = tf.identity) -> str:
    """The same with a key, which the model returns through `echo`."""

    def call(x: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"prediction": _linear(x), "key": echo(key)}

    return save(folder, call, spec("x", 3), spec("key", dtype=dtype))


def last_column(folder: Path) -> str:
    """The tutorial's functional style: one output, whose last column is the key."""

    def call(x: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        column = tf.cast(tf.reshape(key, [-1, 1]), tf.float32)
        return {"prediction_with_key": tf.concat([_linear(x), column], axis=1)}

    return save(folder, call, spec("x", 3), spec("key", dtype=tf.int32))


def shuffling(folder: Path, pick: Callable[[tf.Tensor], tf.Tensor]) -> str:
    """A keyed model that returns the rows of `pick(n)`, each with its own key."""

    def call(x: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = pick(tf.shape(key)[0])
        return {"prediction": tf.gather(_linear(x), rows), "key": tf.gather(key, rows)}

    return save(folder, call, spec("x", 3), spec("key", dtype=tf.int32))


def raising(folder: Path) -> str:
    """Raises for a batch in which some x[0] is 666."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        check = tf.debugging.assert_none_equal(x[:, 0], 666.0, message="the number of the beast")
        with tf.control_dependencies([check]):
            return {"prediction": _linear(x)}

    return save(folder, call, spec("x", 3))


def twice(folder: Path) -> str:
    """Returns two predictions."""
    return save(folder, lambda x: {"once": _linear(x), "twice": 2.0 * _linear(x)}, spec("x", 3))


def dividing(folder: Path) -> str:
    """Returns 1 / x, which is not finite for 0."""
    return save(folder, lambda x: {"prediction": 1.0 / x}, spec("x"))


def many(folder: Path) -> str:
    """Has several inputs and outputs, of many dtypes and shapes."""

    def call(
        image: tf.Tensor, name: tf.Tensor, flag: tf.Tensor, count: tf.Tensor, key: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return {
            "half": tf.cast(image[:, :, 0, 0], tf.float16),
            "image": image * 2.0,
            "label": tf.strings.join([name, tf.as_string(count)], "/"),
            "flags": tf.stack([flag, tf.logical_not(flag)], axis=1),
            "count": count + 1,
            "double": tf.cast(count, tf.float64) / 3.0,
            "small": tf.cast(count, tf.uint8),
            "key": key,
        }

    return save(
        folder,
        call,
        spec("image", 2, 2, 1),
        spec("name", dtype=tf.string),
        spec("flag", dtype=tf.bool),
        spec("count", dtype=tf.int64),
        spec("key", dtype=tf.string),
    )


def echoing(folder: Path, dtype: tf.DType, *shape: int | None) -> str:
    """Returns its input as `y`."""
    return save(folder, lambda x: {"y": tf.identity(x)}, spec("x", *shape, dtype=dtype))


def named_key(folder: Path) -> str:
    """A keyed model in which neither input nor output is called key."""

    def call(x: tf.Tensor, row_number: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"prediction": _linear(x), "who": row_number}

    return save(folder, call, spec("x", 3), spec("row_number", dtype=tf.int64))


def dense(folder: Path) -> str:
    """A network of two layers; the result of its matrix products could depend on the batch."""
    generator = tf.random.Generator.from_seed(7)
    first, second = generator.normal([13, 64]), generator.normal([64, 1])

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.nn.relu(x @ first) @ second}

    return save(folder, call, spec("x", 13))


def backwards(count: tf.Tensor) -> tf.Tensor:
    """Returns the rows in reverse order."""
    return tf.range(count)[::-1]


def without_first(count: tf.Tensor) -> tf.Tensor:
    """Returns all rows but the first, rotated."""
    return tf.roll(tf.range(1, count), 3, axis=0)


def first_twice(count: tf.Tensor) -> tf.Tensor:
    """Returns all rows, and the first one again."""
    return tf.concat([tf.range(count), [0]], axis=0)


def computing_with_key(folder: Path, compute: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> str:
    """Takes a `key` that is data: an output is computed from it, and equals it for some data."""
    return save(folder, lambda x, key: {"a": compute(x, key), "b": x * 2.0}, spec("x"), spec("key"))


def plus(x: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Equals the key where x is 0."""
    return x + key


def largest(x: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Equals the key where x is small."""
    return tf.maximum(x, key)


def stretching(folder: Path, factor: float) -> str:
    """Returns more or fewer predictions than it gets rows."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.cast(tf.cast(tf.shape(x)[0], tf.float32) * factor, tf.int32)
        return {"prediction": tf.tile(_linear(x), [2, 1])[:rows]}

    return save(folder, call, spec("x", 3))


def _is_beast(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_any(tf.equal(x[:, 0], 666.0))


def aborting(folder: Path) -> str:
    """Ends its process for a batch in which some x[0] is 666."""

    def abort(x: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.raw_ops.Abort(error_msg="", exit_without_error=False)]):
            return tf.identity(_linear(x))

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"prediction": tf.cond(_is_beast(x), lambda: abort(x), lambda: _linear(x))}

    return save(folder, call, spec("x", 3))


def hanging(folder: Path) -> str:
    """Never returns from a batch in which some x[0] is 666."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        turns = tf.while_loop(lambda turn: _is_beast(x) & (turn >= 0), lambda turn: (turn * 0,), (tf.constant(1),))
        with tf.control_dependencies(turns):
            return {"prediction": tf.identity(_linear(x))}

    return save(folder, call, spec("x", 3))


def hungry(folder: Path, rows: int) -> str:
    """Allocates more memory than there is, for more than this many rows at a time or if some x[0] is 666."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        much = _is_beast(x) | (tf.shape(x)[0] > rows)
        filled = tf.fill([tf.where(much, tf.constant(1 << 48, tf.int64), 1)], 0.0)
        return {"prediction": _linear(x) + filled[0]}

    return save(folder, call, spec("x", 3))


def few(folder: Path, rows: int) -> str:
    """Raises for more than this many rows at a time."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.assert_less_equal(tf.shape(x)[0], rows)]):
            return {"y": tf.reduce_sum(x, 1)}

    return save(folder, call, spec("x", 3))


def one_value(folder: Path) -> str:
    """Returns one prediction a call, the mean of its whole batch."""
    return save(folder, lambda x: {"prediction": tf.reshape(tf.reduce_mean(x), [1])}, spec("x", 3))


def without_initializer(folder: Path) -> str:
    """Looks a value up in a table whose initializer is lost, as in models of old exporters."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], "x")
        table = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.float32)
        found = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=tf.cast(x[:, 0], tf.int64), default_value=0.0)
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"x": x}, {"prediction": found, "same": x[:, 0]})
    return str(folder)


def counting_from_nothing(folder: Path) -> str:
    """Counts its calls in a variable that has no initial value."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], "x")
        calls = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="calls")
        before = tf.raw_ops.ReadVariableOp(resource=calls, dtype=tf.float32)
        with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=calls, value=before + 1.0)]):
            counted = x[:, 0] + before
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"x": x}, {"prediction": counted})
    return str(folder)


def without_file(folder: Path) -> str:
    """Reads a file that does not exist."""
    return save(folder, lambda x: {"prediction": _linear(x) + _number(tf.constant("/no/such/file"))}, spec("x", 3))


def reading(folder: Path) -> str:
    """Reads a number from the file that each row names."""
    return save(
        folder, lambda name: {"prediction": tf.map_fn(_number, name, tf.float32)}, spec("name", dtype=tf.string)
    )


def _number(name: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_number(tf.io.read_file(name))
