"""Detects models that XLA compiles for each shape of their inputs: exports of JAX and torch, and `jit_compile=True`.

https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/compiler/tf2xla/ops/xla_ops.cc describes
`XlaCallModule`, which holds a program of JAX or torch, and its attributes.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from transforms.errors import UsageError

PROGRAM = "XlaCallModule"
LAUNCHES = ("XlaLaunch", "XlaLaunchV2")
MUST_COMPILE = "_XlaMustCompile"  # on a function that was made with jit_compile=True, and on nodes that call it
UNCHECKED = b"platform"  # among a program's `disabled_checks`: it runs on any device
CPU, CUDA = "CPU", "CUDA"
_REMEDY = (
    "export it again for both: a Keras model with "
    'model.export(FOLDER, jax2tf_kwargs={"native_serialization_platforms": ("cpu", "cuda")}), any other with '
    'jax2tf.convert(…, native_serialization_platforms=("cpu", "cuda"))'
)


class Compiled(NamedTuple):
    """What XLA compiles of a model.

    Attributes:
        source: What it comes from, as `inspect` prints it.
        platforms: What the model was exported for, such as CPU and CUDA; empty if that is left open.
    """

    source: str
    platforms: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Who compiles it, and what it comes from."""
        return f"by XLA ({self.source})"


def find(reached: Iterable[tuple[str, Any]], functions: Mapping[str, Any]) -> Compiled | None:
    """Finds what XLA compiles of a signature.

    Args:
        reached: The nodes that it runs, each with the function that it is in.
        functions: The graph's functions, by name.

    Returns:
        None if it compiles nothing.
    """
    programs, compiles = [], False
    for scope, node in reached:
        if node.op == PROGRAM:
            programs.append(node)
        compiles = compiles or node.op in LAUNCHES or _must_compile(node)
        compiles = compiles or (scope in functions and _must_compile(functions[scope]))
    if programs:
        return Compiled("exported from JAX or torch", _platforms(programs))
    return Compiled("jit_compile=True") if compiles else None


def _must_compile(part: Any) -> bool:
    # Asked for before it is looked up, which would add it to the graph that is then loaded.
    return MUST_COMPILE in part.attr and bool(part.attr[MUST_COMPILE].b)


def _platforms(programs: Iterable[Any]) -> tuple[str, ...]:
    """The platforms that all programs can run on, of those that name any."""
    named = [
        {name.decode() for name in node.attr["platforms"].list.s}
        for node in programs
        if "platforms" in node.attr and node.attr["platforms"].list.s and not _is_unchecked(node)
    ]
    return tuple(sorted(set.intersection(*named))) if named else ()


def _is_unchecked(node: Any) -> bool:
    return "disabled_checks" in node.attr and UNCHECKED in node.attr["disabled_checks"].list.s


def check_devices(folder: str, compiled: Compiled, devices: Collection[str]) -> None:
    """Refuses a model that was exported for other devices than a session computes on.

    Args:
        folder: The SavedModel's, for the message.
        compiled: What XLA compiles of the model.
        devices: TensorFlow's kinds of devices of the session.

    Raises:
        UsageError: It was.
    """
    here = CUDA if "GPU" in devices else CPU
    if compiled.platforms and here not in compiled.platforms:
        hide = ", or run on the CPU: CUDA_VISIBLE_DEVICES=-1" if here == CUDA and CPU in compiled.platforms else ""
        raise UsageError(
            f"{folder} was exported for {' and '.join(compiled.platforms)} only, and this machine computes on {here}; "
            f"{_REMEDY}{hide}"
        )


def check_accelerator(model: str, compiled: Compiled | None, accelerator: str | None) -> None:
    """Refuses a model that cannot run on the GPU of workers.

    Args:
        model: Its path, for the message.
        compiled: What XLA compiles of it.
        accelerator: What `--accelerator` says.

    Raises:
        UsageError: It cannot.
    """
    is_gpu = accelerator is not None and accelerator.startswith("type:nvidia")
    if is_gpu and compiled and compiled.platforms and CUDA not in compiled.platforms:
        raise UsageError(
            f"{model} was exported for {' and '.join(compiled.platforms)} only, and --accelerator={accelerator} gives "
            f"workers a GPU, on which TensorFlow runs it; {_REMEDY}, or leave out --accelerator"
        )
