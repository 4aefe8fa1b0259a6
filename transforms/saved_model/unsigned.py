"""Says how to give a signature to a SavedModel that was saved without any: by one of the functions that it has."""

import json
import keyword
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from transforms.compat import tensorflow
from transforms.saved_model import model_files

SHOWN = 5  # functions in a message
USUAL = ("serve", "serving_default", "predict", "call", "__call__")  # what people call the function that predicts
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
    """A function of a SavedModel, with what it takes when it is called in one of the ways that were traced.

    Attributes:
        path: Attribute of the loaded object: `encoder.call`.
        arguments: Its arguments, as `get_concrete_function` takes them, in Python.
        shown: Its call, for people.
        fits: Whether a signature can be made of it: it takes and gives nothing but dense tensors and constants.
        order: The smaller, the likelier it is the one that predicts.
    """

    path: str
    arguments: str
    shown: str
    fits: bool
    order: tuple[int, ...]


def refusal(folder: str, graph: Any) -> str:
    """What to do about a SavedModel without signatures.

    Args:
        folder: The SavedModel's.
        graph: Its `MetaGraphDef`.

    Returns:
        A message with a command that saves it again, with its own function as signature, where it has one that fits.
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
    """The functions of a SavedModel that attributes lead to, once for each way in which they were traced.

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
    except (ValueError, TypeError, NotImplementedError):  # it takes or gives objects of a class of somebody's own
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
    """The outputs that a signature would have: it takes a tensor, or a list or a dictionary of them."""
    if isinstance(given, dict):
        return list(given.values())
    return given if isinstance(given, (list, tuple)) else [given]


def _is_dense(spec: Any) -> bool:
    return isinstance(spec, tensorflow.TensorSpec)


def _code(value: Any) -> str:
    """A value in Python."""
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
    """A value for people: `x: float32 [?, 3]`."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_shown(item)}' for name, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    if not _is_dense(value):
        return repr(value) if isinstance(value, LITERALS) else type(value).__name__
    sizes = "any shape" if value.shape.rank is None else ", ".join("?" if s is None else str(s) for s in value.shape)
    return f"{value.name}: {value.dtype.name} [{sizes}]"
