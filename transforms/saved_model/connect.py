"""Connects the variables and tables that a SavedModel's signatures read to those that get a value when it is loaded.

`tf.saved_model.save` writes each variable of a Keras 3 model twice into the graph. The checkpoint restores one, and the
signatures read the other. Two graphs show that both are the same object:

- The object graph of the SavedModel says which objects a function captures:
  https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/protobuf/saved_object_graph.proto
- The object graph of the checkpoint says which of its tensors belong to an object:
  https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/protobuf/trackable_object_graph.proto

This module gives all handles of an object the same name, so that they refer to the same variable.
"""

import collections
import os
from collections.abc import Collection, Mapping
from typing import Any

from transforms.compat import tensorflow
from transforms.errors import UsageError
from transforms.model_safety.graph_walk import PLAIN_CALLS, Part, Walk, bare, inputs_of
from transforms.model_safety.model_ops import loading_parts, signature_part
from transforms.model_safety.model_state import changes
from transforms.saved_model.resources import Given, called, maker, not_given, origin, readers, resource

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the tensor of a checkpoint that holds the checkpoint's object graph
_TYPES = ("dtype", "shape", "key_dtype", "value_dtype", "value_shape")
_REMEDY = "save the model again where it was made"
_REMEDIES = {
    "VarHandleOp": f'{_REMEDY}, a Keras model with model.export("FOLDER")',
    "HashTableV2": f"{_REMEDY}, in TensorFlow 1 with main_op=tf.compat.v1.tables_initializer()",
}
_COPY_REMEDY = "copy the whole folder of the model, or save the model again"
_VALUES = ("Identity", "Cast")  # ops that may stand between reading a checkpoint's tensor and assigning it


def ensure_values(walk: Walk, folder: str, signature: str, reached: Collection[Any]) -> dict[str, str]:
    """Ensures that the variables and tables that a signature reads have values once the model is loaded.

    Args:
        walk: The graph that will be loaded. Its handles are connected in place, if that is needed.
        folder: The folder of the SavedModel, with its checkpoint.
        signature: The name of the signature.
        reached: The NodeDef protos that the signature runs, including those in functions.

    Returns:
        Output that cannot be computed -> reason.

    Raises:
        UsageError: No output can be computed, or the checkpoint is damaged.
    """
    if not not_given(walk, folder, reached):
        return {}
    connect(walk, folder)
    # The signature itself may assign a value before it reads it.
    given = Given(walk).of([signature_part(walk.meta_graph, signature)])
    missing = {made for made in not_given(walk, folder, reached) - given if made.starts_empty}
    if not missing:
        return {}
    found = readers(walk, signature, missing)
    why = {name: f"reads the {made}, which has no value" for name, made in found.items()}
    if len(why) < len(walk.meta_graph.signature_def[signature].outputs):
        return why
    index, first = f"{_checkpoint(folder)}.index", min(missing)
    remedy = _REMEDIES.get(first.op, _REMEDY) if os.path.exists(index) else f"there is no {index}: {_COPY_REMEDY}"
    raise UsageError(
        f"{folder}: the signature {signature} reads the {first}, which neither the checkpoint nor an initializer gives "
        f"a value; {remedy}"
    )


def connect(walk: Walk, folder: str) -> None:
    """Renames each handle without a value to the handle of the same object that gets a value on loading.

    A handle stays unchanged if the SavedModel does not say which handles belong to the same object.

    Args:
        walk: The graph that will be loaded, changed in place.
        folder: The folder of the SavedModel, with its checkpoint.

    Raises:
        UsageError: The checkpoint is damaged.
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
    """Makes a handle refer to the same variable or table as another handle, if both have the same type."""
    made = resource(source)
    same = all(node.attr.get(key) == source.attr.get(key) for key in _TYPES)
    if made is not None and made.op == node.op and same:
        for handle in (node, source):  # both, because a table without a shared name may be private to its op
            handle.attr["shared_name"].s = made.name.encode(errors="surrogateescape")
            handle.attr["container"].s = made.container.encode(errors="surrogateescape")


def _objects(walk: Walk, objects: Any) -> dict[int, list[str]]:
    """Maps each object to the nodes that make handles of it. Calls of functions that capture it show these nodes."""
    found: dict[int, list[str]] = collections.defaultdict(list)
    nodes = walk.nodes("")
    for node in nodes.values():
        if node.op not in PLAIN_CALLS:
            continue
        for name, _ in called(walk, node):
            if name not in objects.concrete_functions:
                continue
            inputs, captured = inputs_of(node), objects.concrete_functions[name].bound_inputs
            arguments = len(inputs) - len(captured)  # the function's own arguments come before the captured handles
            if len(inputs) == len(walk.functions[name].signature.input_arg) and arguments >= 0:
                for at, handle in zip(captured, inputs[arguments:], strict=True):
                    found[at].append(maker(nodes, handle))
    return found


def _restored(walk: Walk, loading: Collection[Part]) -> dict[frozenset[str], list[str]]:
    """Maps tensors of the checkpoint to the nodes that make the handles into which they are restored."""
    found: dict[frozenset[str], list[str]] = collections.defaultdict(list)
    nodes = walk.nodes("")
    for part in loading:
        for node in walk.needed(part):
            for name, before in called(walk, node):
                for argument, keys in _restored_arguments(walk, name).items():
                    for handle in inputs_of(node)[before + argument :][:1]:
                        found[frozenset(keys)].append(maker(nodes, handle))
    return found


def _restored_arguments(walk: Walk, name: str) -> Mapping[int, set[str]]:
    """Maps the position of a function's argument to the checkpoint's tensors that the function restores into it."""
    function, nodes = walk.functions[name], walk.nodes(name)
    arguments = {argument.name: at for at, argument in enumerate(function.signature.input_arg)}
    found: dict[int, set[str]] = collections.defaultdict(set)
    for node in function.node_def:
        if not changes(node.op) and node.op != "StatefulPartitionedCall":
            continue
        inputs = inputs_of(node)
        keys = {key for taken in inputs if (key := _key(nodes, taken)) is not None}
        for taken in inputs:
            if keys and (argument := maker(nodes, taken)) in arguments:
                found[arguments[argument]] |= keys
    return found


def _key(nodes: Mapping[str, Any], tensor: str) -> str | None:
    """Returns the checkpoint's tensor from which a tensor in a function is read; None if it is not read from one."""
    read = origin(nodes, tensor, _VALUES)
    node = nodes.get(bare(read))
    if node is None or node.op != "RestoreV2" or len(node.input) <= 1:
        return None
    names, at = nodes.get(bare(node.input[1])), read.rpartition(":")[2]
    if names is None or names.op != "Const" or not at.isdigit():
        return None
    keys = names.attr["value"].tensor.string_val[int(at) :][:1]
    return keys[0].decode(errors="surrogateescape") if keys else None


def _checkpoint_keys(objects: Any, folder: str) -> dict[int, frozenset[str]]:
    """Maps each object to the checkpoint's tensors that hold its values.

    The checkpoint has an object graph of its own. In both graphs the children of an object have the same names.
    """
    kept = _checkpoint_objects(folder)
    found: dict[int, frozenset[str]] = {}
    pending, seen = [(0, 0)] if kept else [], {0}
    while pending:
        here, there = pending.pop()
        if keys := frozenset(value.checkpoint_key for value in kept[there].attributes):
            found[here] = keys
        children = {child.local_name: child.node_id for child in kept[there].children if child.node_id < len(kept)}
        for child in objects.nodes[here].children:
            if child.local_name in children and child.node_id not in seen and child.node_id < len(objects.nodes):
                seen.add(child.node_id)
                pending.append((child.node_id, children[child.local_name]))
    return found


def _checkpoint(folder: str) -> str:
    return os.path.join(folder, "variables", "variables")


def _checkpoint_objects(folder: str) -> Any:
    """Reads the nodes of the checkpoint's object graph; there are none if there is no checkpoint or no such graph.

    Raises:
        UsageError: The checkpoint is damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    path = _checkpoint(folder)
    if not os.path.exists(f"{path}.index"):
        return ()
    try:
        reader = tensorflow.NewCheckpointReader(path)
        if not reader.has_tensor(OBJECT_GRAPH):
            return ()
        return TrackableObjectGraph.FromString(reader.get_tensor(OBJECT_GRAPH)).nodes
    except (tensorflow.OpError, IndexError, RuntimeError, ValueError, DecodeError) as error:
        raise UsageError(f"the checkpoint {path} cannot be read: {error}; {_COPY_REMEDY}") from error
