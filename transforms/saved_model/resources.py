"""Finds which variables and tables of a SavedModel's graph have a value after the model is loaded.

The checkpoint and the initializers give them values. If a signature reads a variable without a value, each call fails.
A mutable table without a value is empty.
"""

import fnmatch
import functools
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from transforms.compat import tensorflow
from transforms.model_safety.graph_walk import CALLS, Part, Walk, bare, inputs_of
from transforms.model_safety.model_ops import loading_parts, names_of, signature_part
from transforms.model_safety.model_state import changes

# Op that makes the handle of a resource without a value -> the resource's name in messages. Such a resource cannot be
# read until another op gives it a value. Queues, mutable tables and others can be read as soon as they exist.
_EMPTY = {
    **dict.fromkeys(("VarHandleOp", "Variable", "VariableV2"), "variable"),
    **dict.fromkeys(("HashTable", "HashTableV2"), "table"),
    **dict.fromkeys(("Iterator", "IteratorV2"), "iterator"),
    **dict.fromkeys(("BoostedTreesEnsembleResourceHandleOp", "SimpleMLCreateModelResource"), "forest"),
}
_MUTABLE = re.compile("Mutable(Dense)?HashTable")
# Ops that update an existing value. They do not give a first value to a new resource.
_UPDATES = """
    AssignAdd* AssignSub* CountUpTo Scatter* StridedSliceAssign Apply* SparseApply* Resource* Rng* Stateful*"""
_UPDATE = re.compile("|".join(map(fnmatch.translate, _UPDATES.split())))
_CALLS = {**CALLS, "While": 0, "StatelessWhile": 0}  # op -> number of inputs before the function's arguments
# Ops that return the handle that they get.
PASSING = ("Identity", "RefIdentity", "Enter", "RefEnter", "Switch", "RefSwitch")
RESOURCE = 20  # DT_RESOURCE in types.proto


class Resource(NamedTuple):
    """The resource that a handle refers to. Handles with equal attributes refer to the same variable or table.

    Attributes:
        op: The type of the op that makes the handle.
        container: The container of TensorFlow's resource manager, in which the name is unique.
        name: The name in the container.
    """

    op: str
    container: str
    name: str

    @property
    def starts_empty(self) -> bool:
        """Whether the resource has no value, and cannot be read, until an op gives it one."""
        return self.op in _EMPTY

    def __str__(self) -> str:
        """Returns the name for messages, such as `variable w`."""
        return f"{_EMPTY.get(self.op, 'resource')} {self.name}"


def resource(node: Any) -> Resource | None:
    """Returns the resource whose handle a node makes; None if the node makes no handle.

    Args:
        node: NodeDef proto.
    """
    if node.op not in _EMPTY and not _MUTABLE.match(node.op):
        return None
    return Resource(node.op, _text(node, "container"), _text(node, "shared_name") or node.name)


def _text(node: Any, attribute: str) -> str:
    # Checks for the attribute first, because reading a missing attribute adds it to the graph, which is loaded later.
    return node.attr[attribute].s.decode(errors="surrogateescape") if attribute in node.attr else ""


class Given:
    """Finds the resources that nodes of a graph may give a value, also through the functions that they call."""

    def __init__(self, walk: Walk) -> None:
        """Takes the graph."""
        self._walk = walk
        self._running: set[str] = set()
        self._arguments = functools.cache(self._function)
        self.inside: set[Resource] = set()  # resources that get a value, and whose handles functions make

    def of(self, parts: Iterable[Part]) -> set[Resource]:
        """Finds the resources that some parts of the graph may give a value.

        Args:
            parts: The parts that run.
        """
        nodes = [node for part in parts for node in self._walk.needed(part)]
        makers = self._walk.nodes("")
        given = (makers.get(maker(makers, name)) for name in self._given(nodes))
        return {made for node in given if node is not None and (made := resource(node))} | self.inside

    def _given(self, nodes: Iterable[Any]) -> Iterator[str]:
        """Yields the handles of the resources that nodes give a value, by the names of the nodes' inputs."""
        for node in nodes:
            inputs = inputs_of(node)
            for name, before in called(self._walk, node):
                yield from (inputs[before + at] for at in self._arguments(name) if before + at < len(inputs))
            if node.op not in self._walk.functions and changes(node.op) and not _UPDATE.match(node.op):
                yield from _handles(node, inputs)

    def _function(self, name: str) -> frozenset[int]:
        """Returns the positions of the arguments to which a function gives a value."""
        if name in self._running:  # a function that calls itself
            return frozenset()
        self._running.add(name)
        function, nodes = self._walk.functions[name], self._walk.nodes(name)
        arguments = {argument.name: at for at, argument in enumerate(function.signature.input_arg)}
        found = {maker(nodes, handle) for handle in self._given(function.node_def)}
        self.inside |= {made for handle in found if handle in nodes and (made := resource(nodes[handle]))}
        self._running.discard(name)
        return frozenset(arguments[handle] for handle in found if handle in arguments)


def called(walk: Walk, node: Any) -> Iterator[tuple[str, int]]:
    """Yields the functions that a node calls with its inputs, and how many inputs come before their arguments.

    Args:
        walk: The graph.
        node: NodeDef proto.
    """
    if node.op in walk.functions:
        yield node.op, 0
    for attribute in ("f", "then_branch", "else_branch", "branches", "cond", "body"):
        if node.op in _CALLS and attribute in node.attr:
            value = node.attr[attribute]
            functions = value.list.func if value.WhichOneof("value") == "list" else [value.func]
            yield from ((f.name, _CALLS[node.op]) for f in functions if f.name in walk.functions)


def origin(nodes: Mapping[str, Any], tensor: str, passing: Container[str] = PASSING) -> str:
    """Follows a tensor back through ops that return their first input. Returns the tensor or argument at the end.

    Args:
        nodes: The nodes of the graph or function, by name.
        tensor: The name of the tensor.
        passing: The ops that return their first input.
    """
    seen: set[str] = set()
    while (node := nodes.get(bare(tensor))) is not None and node.op in passing and node.input and node.name not in seen:
        seen.add(node.name)
        tensor = node.input[0]
    return tensor


def maker(nodes: Mapping[str, Any], handle: str) -> str:
    """Returns the name of the node that makes a handle, or of the function's argument that the handle comes from.

    Args:
        nodes: The nodes of the graph or function, by name.
        handle: The name of the handle's tensor.
    """
    return bare(origin(nodes, handle))


def _handles(node: Any, inputs: list[str]) -> list[str]:
    """Returns the inputs of an op that may be handles: all inputs, if the op's definition does not tell."""
    definition = tensorflow.op_definition(node.op)
    if definition is None or any(taken.number_attr or taken.type_list_attr for taken in definition.input_arg):
        return inputs
    pairs = zip(inputs, definition.input_arg, strict=False)
    return [name for name, taken in pairs if taken.type == RESOURCE or taken.is_ref]


def not_given(walk: Walk, folder: str, reached: Collection[Any]) -> set[Resource]:
    """Finds the variables and tables of some nodes that get no value when the model is loaded.

    Args:
        walk: The graph, as it will be loaded.
        folder: The folder of the SavedModel.
        reached: The nodes that a signature runs, with the nodes of its functions.
    """
    read = {made for node in reached if (made := resource(node))}
    return read - Given(walk).of(loading_parts(walk.meta_graph, folder)) if read else read


def readers(walk: Walk, signature: str, resources: Collection[Resource]) -> dict[str, Resource]:
    """Finds the outputs of a signature that read some variables or tables.

    Args:
        walk: The graph.
        signature: The name of the signature.
        resources: The variables and tables.

    Returns:
        Output -> one of the resources that it reads. Other outputs are not in it.
    """
    graph, found = walk.meta_graph, {}
    part = signature_part(graph, signature)
    for name, info in graph.signature_def[signature].outputs.items():
        for _, node in Walk(graph).reach(part._replace(fetched=names_of(info))):
            if (made := resource(node)) is not None and made in resources:
                found[name] = made
    return found
