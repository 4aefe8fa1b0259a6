"""Checks that a SavedModel has a signature. If it has none, one of its own functions can become it."""

import json
import keyword
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from transforms.compat import tensorflow
from transforms.errors import UsageError, nearest
from transforms.saved_model import model_files

SHOWN = 5  # functions in a message
USUAL = ("serve", "serving_default", "predict", "call", "__call__")  # usual names of the function that predicts
LITERALS = (bool, int, float, str, type(None))
SAVE = (
    "import tensorflow as tf; m = tf.saved_model.load({file}); tf.saved_model.save(m, {new}, "
    "signatures=m.{function}.get_concrete_function({arguments}))"
)
BY_HAND = (
    'give one where it was made: tf.saved_model.save(module, "FOLDER", signatures=module.FUNCTION.'
    "get_concrete_function(tf.TensorSpec([None, 3], tf.float32, name='x'))), with what FUNCTION takes, or "
    'model.export("FOLDER") for a Keras model'
)


class Function(NamedTuple):
    """A function of a SavedModel with the arguments of one of its traces.

    Attributes:
        path: The attribute of the loaded object that leads to the function: `encoder.call`.
        arguments: The arguments for `get_concrete_function`, as Python code.
        shown: The call of the function, for messages.
        fits: Whether the function can become a signature. Its arguments are only dense tensors and constants, at
            least one tensor among them, and its outputs are only dense tensors.
        order: The sort key. A function with a smaller key is more likely the one that predicts.
    """

    path: str
    arguments: str
    shown: str
    fits: bool
    order: tuple[int, ...]


def check(graph: Any, folder: str, signature: str) -> None:
    """Checks that a SavedModel has a signature.

    Args:
        graph: Its `MetaGraphDef`.
        folder: Its folder, for messages.
        signature: The name of the signature.

    Raises:
        UsageError: It has no signatures, or others.
    """
    if signature in graph.signature_def:
        return
    known = sorted(name for name in graph.signature_def if not name.startswith("__"))
    if not known:
        raise UsageError(refusal(folder, graph))
    raise UsageError(
        f"{folder} has no signature {signature}{nearest(signature, known)}; name one with --signature: "
        f"{', '.join(known)}"
    )


def refusal(folder: str, graph: Any) -> str:
    """Makes the message that refuses a SavedModel without signatures.

    Args:
        folder: The folder of the SavedModel.
        graph: Its `MetaGraphDef`.

    Returns:
        The message. If one of the model's functions fits, the message has a command that saves the model again with
        this function as its signature.
    """
    found = sorted(_functions(graph.object_graph_def), key=lambda function: function.order)
    if not found:
        return f"{folder} was saved without signatures, and has no traced function; {BY_HAND}"
    shown = ", ".join(function.shown for function in found[:SHOWN])
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    chosen = next((function for function in found if function.fits), None)
    if chosen is None:
        return f"{folder} was saved without signatures; none of its functions fits one: {shown}{more}; {BY_HAND}"
    new = model_files.beside(folder, "-signed")
    command = model_files.python(SAVE, folder, new, function=chosen.path, arguments=chosen.arguments)
    return (
        f"{folder} was saved without signatures; its functions are {shown}{more}; save it with one of them: {command} "
        f"and give --model {shlex.quote(new)}"
    )


def _functions(objects: Any) -> Iterator[Function]:
    """Yields the functions of a SavedModel that attributes lead to, once for each trace of a function.

    Args:
        objects: `SavedObjectGraph`,
            https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/protobuf/saved_object_graph.proto.
    """
    pending: list[tuple[int, tuple[str, ...]]] = [(0, ())] if objects.nodes else []
    seen = {0}
    for node, path in pending:
        for child in objects.nodes[node].children:
            name = child.local_name
            if child.node_id in seen or not name.isidentifier() or keyword.iskeyword(name):
                continue
            seen.add(child.node_id)
            pending.append((child.node_id, (*path, name)))
        for traced in objects.nodes[node].function.concrete_functions:
            if traced in objects.concrete_functions:
                yield _function(path, objects.concrete_functions[traced])


def _function(path: Sequence[str], traced: Any) -> Function:
    name = ".".join(path)
    try:
        taken, named = tensorflow.decode_proto(traced.canonicalized_input_signature)
        given = tensorflow.decode_proto(traced.output_signature)
    except (ValueError, TypeError, NotImplementedError):  # an argument or output is of a class of the model's author
        return Function(name, "", f"{name}(…)", fits=False, order=())
    every = [*taken, *named.values()]
    specs = [spec for value in every for spec in _leaves(value) if not isinstance(spec, LITERALS)]
    fits = bool(specs) and all(map(_is_dense, specs)) and all(map(_is_dense, _outputs(given)))
    pairs = [("", value) for value in taken] + [(f"{name}=", value) for name, value in named.items()]
    arguments = ", ".join(f"{prefix}{_code(value)}" for prefix, value in pairs)
    shown = ", ".join(f"{prefix}{_shown(value)}" for prefix, value in pairs)
    trains = sum(value is True for value in every)
    batches = all(_is_dense(spec) and (spec.shape.rank is None or spec.shape[:1] == [None]) for spec in specs)
    order = (trains, not batches, len(path), path[-1] not in USUAL)
    return Function(name, arguments, f"{name}({shown})", fits, tuple(map(int, order)))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _outputs(given: Any) -> Sequence[Any]:
    """Returns the outputs of the signature: of a single tensor, or of a list or dictionary of tensors."""
    if isinstance(given, dict):
        return list(given.values())
    return given if isinstance(given, (list, tuple)) else [given]


def _is_dense(spec: Any) -> bool:
    return isinstance(spec, tensorflow.TensorSpec)


def _code(value: Any) -> str:
    """Writes a value as Python code."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)}: {_code(item)}' for name, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_code, value))}]"
    if not _is_dense(value):
        return repr(value)
    shape = None if value.shape.rank is None else value.shape.as_list()
    named = f", name={json.dumps(value.name)}" if value.name else ""
    return f"tf.TensorSpec({shape}, tf.{value.dtype.name}{named})"


def _shown(value: Any) -> str:
    """Writes a value for messages: `x: float32 [?, 3]`."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_shown(item)}' for name, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    if not _is_dense(value):
        return repr(value) if isinstance(value, LITERALS) else type(value).__name__
    sizes = "any shape" if value.shape.rank is None else ", ".join("?" if s is None else str(s) for s in value.shape)
    return f"{value.name}: {value.dtype.name} [{sizes}]"
