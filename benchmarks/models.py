"""Makes the models of the workloads with plain TensorFlow, from a seed. Each model returns its key."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.rows import HEAVY, KINDS, WIDE

HIDDEN = 2_048
BUCKETS = 1_000


def wide(folder: Path) -> None:
    """Saves a model of one layer."""
    (weights,) = _dense(WIDE, 1)

    def call(x: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"prediction": x @ weights, "key": tf.identity(key)}

    _save(folder, call, [weights], x=_spec(WIDE), key=_spec(dtype=tf.int64))


def heavy(folder: Path) -> None:
    """Saves a model of three layers, in which one large matrix product does most of the work."""
    layers = _dense(HEAVY, HIDDEN, HIDDEN, 1)

    def call(x: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        for weights in layers[:-1]:
            x = tf.nn.relu(x @ weights)
        return {"prediction": x @ layers[-1], "key": tf.identity(key)}

    _save(folder, call, layers, x=_spec(HEAVY), key=_spec(dtype=tf.int32))


def strings(folder: Path) -> None:
    """Saves a model of numbers and two texts: one text is hashed, the other one looked up in a table."""
    weights, worth = _dense(4, 1)[0], _dense(BUCKETS, 1)[0]
    kinds = tf.constant([kind.replace("\\", "") for kind in KINDS])
    worths = tf.linspace(-1.0, 1.0, len(KINDS))
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(kinds, worths), 0.0)

    def call(numbers: tf.Tensor, town: tf.Tensor, kind: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        bucket = tf.strings.to_hash_bucket_fast(town, BUCKETS)
        extra = tf.gather(worth, bucket) + table.lookup(kind)[:, tf.newaxis]
        return {"prediction": numbers @ weights + extra, "key": tf.identity(key)}

    text = _spec(dtype=tf.string)
    specs = {"numbers": _spec(4), "town": text, "kind": text, "key": _spec(dtype=tf.int64)}
    _save(folder, call, [weights, worth, table], **specs)


def _dense(*widths: int) -> list[tf.Variable]:
    """Makes the weights of layers of these widths, scaled so that outputs are about as large as inputs."""
    random = tf.random.Generator.from_seed(7)
    pairs = itertools.pairwise(widths)
    return [tf.Variable(random.normal([before, after], stddev=(2 / before) ** 0.5)) for before, after in pairs]


def _spec(*shape: int, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec([None, *shape], dtype)


def _save(
    folder: Path, call: Callable[..., Mapping[str, tf.Tensor]], kept: Sequence[Any], **specs: tf.TensorSpec
) -> None:
    named = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()]
    module = tf.Module()
    module.kept = kept
    module.call = tf.function(call, input_signature=named)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})
