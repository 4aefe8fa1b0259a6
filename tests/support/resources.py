"""A module that holds variables and tables of all kinds, each with its own number."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

# Each function makes a variable or table, and a function that reads its number for the key "a".


def own_variable(number: float) -> tuple[Any, Callable[[], tf.Tensor]]:
    variable = tf.Variable([number])
    return variable, lambda: variable[0]


def keras_variable(number: float) -> tuple[Any, Callable[[], tf.Tensor]]:
    variable = keras.Variable([number])
    return variable, lambda: variable.value[0]


def layer(number: float) -> tuple[Any, Callable[[], tf.Tensor]]:
    made = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(number))
    made.build((None, 1))
    return made, lambda: made(tf.ones([1, 1]))[0, 0]


def fixed_table(number: float) -> tuple[Any, Callable[[], tf.Tensor]]:
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [number]), -1.0)
    return table, lambda: tf.reshape(table.lookup(tf.constant("a")), [])


def open_table(number: float) -> tuple[Any, Callable[[], tf.Tensor]]:
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, -1.0)
    table.insert(tf.constant("a"), tf.constant(number))
    return table, lambda: tf.reshape(table.lookup(tf.constant("a")), [])


class TwiceSaved(tf.lookup.experimental.MutableHashTable):
    """A table saved as Keras 3 saves variables: one table is restored, but another one is read."""

    def _export_to_saved_model_graph(self, object_map: Any, tensor_map: Any, **options: Any) -> list[Any]:
        handles: list[Any] = super()._export_to_saved_model_graph(object_map, tensor_map, **options)
        tensor_map[self.resource_handle] = self._create_resource()
        return handles


def open_table_twice(number: float) -> tuple[Any, Callable[[], tf.Tensor]]:
    table = TwiceSaved(tf.string, tf.float32, -1.0)
    table.insert(tf.constant("a"), tf.constant(number))
    return table, lambda: tf.reshape(table.lookup(tf.constant("a")), [])


RESOURCES = [own_variable, keras_variable, layer, fixed_table, open_table, open_table_twice]


def holding(folder: Path, kinds: list[int], *, nested: bool) -> str:
    """Saves a model with one output for each variable or table: x plus its number (1, 2, 3 and so on)."""
    held, read = zip(*(RESOURCES[kind](number + 1.0) for number, kind in enumerate(kinds)), strict=True)
    module = tf.Module()
    module.held = {"first": held[0], "others": [*held[1:], held[0]]} if nested else list(held)

    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {f"y{number:02}": x + value() for number, value in enumerate(read)}

    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return str(folder)
