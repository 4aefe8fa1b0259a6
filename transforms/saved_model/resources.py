"""Finds which variables and tables of a SavedModel's graph have a value once the model is loaded.

Restoring the checkpoint and running the initializers give values. A signature that reads a variable without a value
fails in each call; a table that can change is empty then.
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

# Ops that make the handle of a resource which has no value until an op gives it one -> what they are called. Queues,
# mutable tables and others can be read as soon as they exist.
_EMPTY = {
    **dict.fromkeys(("VarHandleOp", "Variable", "VariableV2"), "variable"),
    **dict.fromkeys(("HashTable", "HashTableV2"), "table"),
    **dict.fromkeys(("Iterator", "IteratorV2"), "iterator"),
    **dict.fromkeys(("BoostedTreesEnsembleResourceHandleOp", "SimpleMLCreateModelResource"), "forest"),
}
_MUTABLE = re.compile("Mutable(Dense)?HashTable")
# Ops that change a value that is there: they give none to a resource that is new.
_UPDATES = """
    AssignAdd* AssignSub* CountUpTo Scatter* StridedSliceAssign Apply* SparseApply* Resource* Rng* Stateful*"""
_UPDATE = re.compile("|".join(map(fnmatch.translate, _UPDATES.split())))
_CALLS = {**CALLS, "While": 0, "StatelessWhile": 0}  # how many inputs come before the arguments
# Ops that hand on a handle.
PASSING = ("Identity", "RefIdentity", "Enter", "RefEnter", "Switch", "RefSwitch")
RESOURCE = 20  # DT_RESOURCE in types.proto


class Resource(NamedTuple):
    """What a handle refers to: handles with the same three refer to the same variable or table.

    Attributes:
        op: Type of the op that makes the handle.
        container: Of TensorFlow's resource manager, in which the name is unique.
        name: In the container.
    """

    op: str
    container: str
    name: str

    @property
    def starts_empty(self) -> bool:
        """Whether it cannot be read until an op gives it a value."""
        return self.op in _EMPTY

    def __str__(self) -> str:
        """What it is called in messages."""
        return f"{_EMPTY.get(self.op, 'resource')} {self.name}"


def resource(node: Any) -> Resource | None:
    """What the handle that a node makes refers to; None if the node makes none.

    Args:
        node: NodeDef proto.
    """
    if node.op not in _EMPTY and not _MUTABLE.match(node.op):
        return None
    return Resource(node.op, _text(node, "container"), _text(node, "shared_name") or node.name)


def _text(node: Any, attribute: str) -> str:
    # An attribute is looked for before it is read, which would add it to the graph that is then loaded.
    return node.attr[attribute].s.decode(errors="surrogateescape") if attribute in node.attr else ""


class Given:
    """Which resources the nodes of a graph may give a value, also through the functions that they call."""

    def __init__(self, walk: Walk) -> None:
        """Takes the graph."""
        self._walk = walk
        self._running: set[str] = set()
        self._arguments = functools.cache(self._function)
        self.inside: set[Resource] = set()  # those whose handles are made in functions

    def of(self, parts: Iterable[Part]) -> set[Resource]:
        """The resources that some parts of the graph may give a value.

        Args:
            parts: What is run.
        """
        nodes = [node for part in parts for node in self._walk.needed(part)]
        makers = self._walk.nodes("")
        given = (makers.get(maker(makers, name)) for name in self._given(nodes))
        return {made for node in given if node is not None and (made := resource(node))} | self.inside

    def _given(self, nodes: Iterable[Any]) -> Iterator[str]:
        """The handles of what nodes give a value, as they name them."""
        for node in nodes:
            inputs = inputs_of(node)
            for name, before in called(self._walk, node):
                yield from (inputs[before + at] for at in self._arguments(name) if before + at < len(inputs))
            if node.op not in self._walk.functions and changes(node.op) and not _UPDATE.match(node.op):
                yield from _handles(node, inputs)

    def _function(self, name: str) -> frozenset[int]:
        """The positions of a function's arguments that it gives a value."""
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
    """The functions that a node calls with its inputs, and how many inputs come before their arguments.

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
    """The tensor, or argument of a function, that a tensor comes from unchanged.

    Args:
        nodes: Those of the graph or function, by name.
        tensor: Its name.
        passing: Ops that hand on what they are given.
    """
    seen: set[str] = set()
    while (node := nodes.get(bare(tensor))) is not None and node.op in passing and node.input and node.name not in seen:
        seen.add(node.name)
        tensor = node.input[0]
    return tensor


def maker(nodes: Mapping[str, Any], handle: str) -> str:
    """The node, or argument of a function, that a handle comes from.

    Args:
        nodes: Those of the graph or function, by name.
        handle: A tensor.
    """
    return bare(origin(nodes, handle))


def _handles(node: Any, inputs: list[str]) -> list[str]:
    """The inputs of an op that may be handles."""
    definition = tensorflow.op_definition(node.op)
    if definition is None or any(taken.number_attr or taken.type_list_attr for taken in definition.input_arg):
        return inputs
    pairs = zip(inputs, definition.input_arg, strict=False)
    return [name for name, taken in pairs if taken.type == RESOURCE or taken.is_ref]


def not_given(walk: Walk, folder: str, reached: Collection[Any]) -> set[Resource]:
    """The variables and tables among some nodes to which loading the model gives no value.

    Args:
        walk: The graph, as it will be loaded.
        folder: The SavedModel's.
        reached: The nodes that a signature runs, those of functions among them.
    """
    read = {made for node in reached if (made := resource(node))}
    return read - Given(walk).of(loading_parts(walk.meta_graph, folder)) if read else read


def readers(walk: Walk, signature: str, resources: Collection[Resource]) -> dict[str, Resource]:
    """The outputs of a signature that need some variables or tables -> one of these.

    Args:
        walk: The graph.
        signature: Its name.
        resources: The variables and tables.
    """
    graph, found = walk.meta_graph, {}
    part = signature_part(graph, signature)
    for name, info in graph.signature_def[signature].outputs.items():
        for _, node in Walk(graph).reach(part._replace(fetched=names_of(info))):
            if (made := resource(node)) is not None and made in resources:
                found[name] = made
    return found
