"""Connects the variables and tables that a SavedModel's signatures read to those that get a value when it is loaded.

`tf.saved_model.save` writes each variable of a Keras 3 model twice into the graph: the checkpoint restores one, the
signatures read the other. The SavedModel's object graph says which of its objects a function captures, and the
checkpoint says which of its tensors are the object's. Handles of the same object then get the same name, so that they
refer to the same variable.
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/protobuf/saved_object_graph.proto
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/protobuf/trackable_object_graph.proto
"""

import collections
import os
from collections.abc import Collection, Mapping
from typing import Any

from transforms.errors import UsageError
from transforms.model_ops import loading_parts, signature_part
from transforms.model_state import changes
from transforms.model_walk import Part, Walk, bare, inputs_of
from transforms.resources import Given, Resource, called, empty, origin, readers, resource

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the checkpoint's tensor with its own object graph
_TYPES = ("dtype", "key_dtype", "value_dtype")
_REMEDY = (
    "save the model again where it was made: a Keras model with model.export(FOLDER), a graph of TensorFlow 1 with "
    "tf.compat.v1.saved_model.simple_save(…, legacy_init_op=tf.compat.v1.tables_initializer())"
)
_VALUES = ("Identity", "Cast")  # between what is read from the checkpoint and what it is restored into


def ensure_values(walk: Walk, folder: str, signature: str, reached: Collection[Any]) -> dict[str, str]:
    """Makes sure that what a signature reads has a value once the model is loaded.

    Args:
        walk: The graph, as it will be loaded; handles in it are connected where that is needed.
        folder: The SavedModel's, with its checkpoint.
        signature: Its name.
        reached: The nodes that the signature runs, those of functions among them.

    Returns:
        Output that cannot be computed -> why.

    Raises:
        UsageError: No output can be computed.
    """
    if not empty(walk, folder, reached):
        return {}
    connect(walk, folder)
    # The signature may give a value, and then read it.
    missing = empty(walk, folder, reached) - Given(walk).of([signature_part(walk.meta_graph, signature)])
    if not missing:
        return {}
    found = readers(walk, signature, missing)
    why = {name: f"reads the {_kind(made)} {made.name}, which has no value" for name, made in found.items()}
    if len(why) < len(walk.meta_graph.signature_def[signature].outputs):
        return why
    name = min(found)
    raise UsageError(
        f"{folder}: output {name} of the signature {signature} {why[name]}: neither the checkpoint nor an initializer "
        f"gives it one; {_REMEDY}"
    )


def _kind(made: Resource) -> str:
    return "variable" if "Var" in made.op else "table" if "Table" in made.op else "resource"


def connect(walk: Walk, folder: str) -> None:
    """Gives each handle without a value the name of the handle of the same object that gets one, in place.

    A handle for which the SavedModel does not say that stays as it is.

    Args:
        walk: The graph, as it will be loaded.
        folder: The SavedModel's, with its checkpoint.
    """
    objects = walk.meta_graph.object_graph_def
    loading = loading_parts(walk.meta_graph, folder)
    given = Given(walk).of(loading)
    handles = {name: it for name, node in walk.nodes("").items() if (it := resource(node))}
    if given.issuperset(handles.values()) or not objects.nodes:
        return
    restored, of_checkpoint = _restored(walk, loading), _checkpoint_keys(objects, folder)
    for at, names in _objects(walk, objects).items():
        values = [*names, *restored.get(of_checkpoint.get(at, frozenset()), ())]
        source = next((name for name in values if handles.get(name) in given), None)
        if source is not None:
            for name in names:
                if name in handles and handles[name] not in given:
                    _share(walk.nodes("")[name], walk.nodes("")[source])


def _share(node: Any, source: Any) -> None:
    """Has a handle refer to what another one of the same kind refers to."""
    made = resource(source)
    same = all(node.attr.get(key) == source.attr.get(key) for key in _TYPES)
    if made is not None and made.op == node.op and same:
        node.attr["shared_name"].s = made.name.encode(errors="surrogateescape")
        node.attr["container"].s = made.container.encode(errors="surrogateescape")


def _objects(walk: Walk, objects: Any) -> dict[int, list[str]]:
    """Object -> the nodes that make handles of it, as the calls of functions that capture it say."""
    found: dict[int, list[str]] = collections.defaultdict(list)
    nodes = walk.nodes("")
    for node in nodes.values():
        for name, _ in called(walk, node):
            if name not in objects.concrete_functions:
                continue
            captured = objects.concrete_functions[name].bound_inputs
            # The captured ones come last.
            for at, handle in zip(captured, inputs_of(node)[-len(captured) :], strict=False):
                found[at].append(origin(nodes, handle))
    return found


def _restored(walk: Walk, loading: Collection[Part]) -> dict[frozenset[str], list[str]]:
    """The checkpoint's tensors -> the nodes that make handles of what they are restored into."""
    found: dict[frozenset[str], list[str]] = collections.defaultdict(list)
    nodes = walk.nodes("")
    for part in loading:
        for node in walk.needed(part):
            for name, before in called(walk, node):
                for argument, keys in _restored_arguments(walk, name).items():
                    found[frozenset(keys)].append(origin(nodes, inputs_of(node)[before + argument]))
    return found


def _restored_arguments(walk: Walk, name: str) -> Mapping[int, set[str]]:
    """Position of a function's argument -> the checkpoint's tensors that the function restores into it."""
    function, nodes = walk.functions[name], walk.nodes(name)
    arguments = {argument.name: at for at, argument in enumerate(function.signature.input_arg)}
    found: dict[int, set[str]] = collections.defaultdict(set)
    for node in function.node_def:
        if not changes(node.op) and node.op != "StatefulPartitionedCall":
            continue
        inputs = inputs_of(node)
        keys = {key for taken in inputs if (key := _key(nodes, taken)) is not None}
        for taken in inputs:
            if keys and (argument := origin(nodes, taken)) in arguments:
                found[arguments[argument]] |= keys
    return found


def _key(nodes: Mapping[str, Any], tensor: str) -> str | None:
    """The checkpoint's tensor that a tensor in a function is read from, if it is."""
    from tensorflow.python.framework.tensor_util import MakeNdarray

    while (node := nodes.get(bare(tensor))) is not None and node.op in _VALUES:
        tensor = node.input[0]
    if node is None or node.op != "RestoreV2":
        return None
    names = nodes.get(bare(node.input[1]))
    at = tensor.rpartition(":")[2]
    if names is None or names.op != "Const" or not at.isdigit():
        return None
    return str(MakeNdarray(names.attr["value"].tensor)[int(at)].decode(errors="surrogateescape"))


def _checkpoint_keys(objects: Any, folder: str) -> dict[int, frozenset[str]]:
    """Object -> the checkpoint's tensors that are its values.

    The checkpoint has an object graph of its own, in which the children of an object have the same names.
    """
    kept = _checkpoint_objects(folder)
    found: dict[int, frozenset[str]] = {}
    pending, seen = [(0, 0)] if kept else [], {0}
    while pending:
        here, there = pending.pop()
        if keys := frozenset(value.checkpoint_key for value in kept[there].attributes):
            found[here] = keys
        children = {child.local_name: child.node_id for child in kept[there].children}
        for child in objects.nodes[here].children:
            if child.local_name in children and child.node_id not in seen:
                seen.add(child.node_id)
                pending.append((child.node_id, children[child.local_name]))
    return found


def _checkpoint_objects(folder: str) -> Any:
    """The nodes of the checkpoint's object graph; none if it has no such graph."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
    from tensorflow.python.training.py_checkpoint_reader import NewCheckpointReader

    path = os.path.join(folder, "variables", "variables")
    if not os.path.exists(f"{path}.index"):
        return ()
    reader = NewCheckpointReader(path)
    if not reader.has_tensor(OBJECT_GRAPH):
        return ()
    return TrackableObjectGraph.FromString(reader.get_tensor(OBJECT_GRAPH)).nodes
