"""Detects models that XLA compiles anew for each shape of their inputs.

These are exports of JAX and torch, and functions with `jit_compile=True`. The op `XlaCallModule` holds a program of
JAX or torch. TensorFlow describes it and its attributes in
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/compiler/tf2xla/ops/xla_ops.cc
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from transforms.errors import UsageError

PROGRAM = "XlaCallModule"
LAUNCHES = ("XlaLaunch", "XlaLaunchV2")
MUST_COMPILE = "_XlaMustCompile"  # an attribute of functions with jit_compile=True, and of nodes that call them
UNCHECKED = b"platform"  # a program with this in its attribute `disabled_checks` runs on any device
CPU, CUDA = "CPU", "CUDA"
_REMEDY = (
    "export it again for both: a Keras model with "
    'model.export(FOLDER, jax2tf_kwargs={"native_serialization_platforms": ("cpu", "cuda")}), any other with '
    'jax2tf.convert(…, native_serialization_platforms=("cpu", "cuda"))'
)


class Compiled(NamedTuple):
    """Describes the part of a model that XLA compiles.

    Attributes:
        source: The origin of the compiled part, as `inspect` prints it.
        platforms: The platforms that the model was exported for, such as `CPU` and `CUDA`; empty if the model does
            not restrict them.
    """

    source: str
    platforms: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns the compiler and the origin, for `inspect`."""
        return f"by XLA ({self.source})"


def find(reached: Iterable[tuple[str, Any]], functions: Mapping[str, Any]) -> Compiled | None:
    """Finds the part of a signature that XLA compiles.

    Args:
        reached: The nodes that the signature runs, each as a pair: the name of its function, then its NodeDef proto.
        functions: The FunctionDef protos of the graph, by name.

    Returns:
        A description of that part; None if XLA compiles nothing.
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
    # The test with `in` comes first, because reading a missing attribute would add it to the graph that is loaded.
    return MUST_COMPILE in part.attr and bool(part.attr[MUST_COMPILE].b)


def _platforms(programs: Iterable[Any]) -> tuple[str, ...]:
    """Returns the platforms on which all programs can run. Programs that name no platform are ignored."""
    named = [
        {name.decode() for name in node.attr["platforms"].list.s}
        for node in programs
        if "platforms" in node.attr and node.attr["platforms"].list.s and not _is_unchecked(node)
    ]
    return tuple(sorted(set.intersection(*named))) if named else ()


def _is_unchecked(node: Any) -> bool:
    return "disabled_checks" in node.attr and UNCHECKED in node.attr["disabled_checks"].list.s


def check_devices(folder: str, compiled: Compiled, devices: Collection[str]) -> None:
    """Refuses a model that was not exported for the device on which a session computes.

    Args:
        folder: The folder of the SavedModel, for the message.
        compiled: The part of the model that XLA compiles.
        devices: TensorFlow's types of the session's devices, such as `CPU` and `GPU`.

    Raises:
        UsageError: The model was not exported for this device.
    """
    here = CUDA if "GPU" in devices else CPU
    if compiled.platforms and here not in compiled.platforms:
        hide = ", or run on the CPU: CUDA_VISIBLE_DEVICES=-1" if here == CUDA and CPU in compiled.platforms else ""
        raise UsageError(
            f"{folder} was exported for {' and '.join(compiled.platforms)} only, and this machine computes on {here}; "
            f"{_REMEDY}{hide}"
        )


def check_accelerator(model: str, compiled: Compiled | None, accelerator: str | None) -> None:
    """Refuses a model that cannot run on the GPU of the workers.

    Args:
        model: The path of the model, for the message.
        compiled: The part of the model that XLA compiles; None if there is none.
        accelerator: The value of `--accelerator`, or None.

    Raises:
        UsageError: The workers have an NVIDIA GPU, and the model was not exported for CUDA.
    """
    is_gpu = accelerator is not None and accelerator.startswith("type:nvidia")
    if is_gpu and compiled and compiled.platforms and CUDA not in compiled.platforms:
        raise UsageError(
            f"{model} was exported for {' and '.join(compiled.platforms)} only, and --accelerator={accelerator} gives "
            f"workers a GPU, on which TensorFlow runs it; {_REMEDY}, or leave out --accelerator"
        )
