"""SavedModels that XLA compiles, as JAX, torch and `jit_compile=True` produce them."""

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from tests.support.models import save, spec

JAX = Path(__file__).parent / "keras_jax"
# Returns 2 x for any number of rows. JAX marks programs with open sizes by this attribute.
PROGRAM = """module @program attributes {jax.uses_shape_polymorphism = true} {
  func.func public @main(%x: tensor<?x3xf32>) -> tensor<?x3xf32> {
    %y = stablehlo.add %x, %x : tensor<?x3xf32>
    return %y : tensor<?x3xf32>
  }
}"""


def program(folder: Path, platforms: tuple[str, ...] = (), disabled: tuple[str, ...] = ()) -> str:
    """A program of JAX (version 9 lists platforms) or of torch (version 5 lists none): x (3) -> y (3), twice x."""
    how: dict[str, Any] = {"version": 9 if platforms else 5, "platforms": platforms, "disabled_checks": disabled}

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        (y,) = xla.call_module([x], module=PROGRAM, Tout=[tf.float32], Sout=[[None, 3]], **how)
        return {"y": y}

    return save(folder, call, spec("x", 3))


def jit(folder: Path, *, refuses: float | None = None) -> str:
    """A function of jit_compile=True: x (3) -> y, the sum of x, and `rows`, the number of rows of the call.

    Args:
        folder: The folder to save to.
        refuses: A value of x that makes the call fail.
    """

    @tf.function(jit_compile=True)
    def compiled(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(x, axis=1)

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        wrong = tf.constant(False) if refuses is None else tf.reduce_any(tf.equal(x, refuses))
        with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(wrong), ["refused"])]):
            return {"y": compiled(x), "rows": tf.zeros_like(x[:, 0], tf.int32) + tf.shape(x)[0]}

    return save(folder, call, spec("x", 3))
