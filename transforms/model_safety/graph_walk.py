"""Which ops of a SavedModel's graph are run, and which files they name: a walk over its protocol buffer.

The name of a file is known if it is a constant, or the path of an asset or of the model's variables. It may go
through ops of `PASSING`, arguments of calls, and a string variable. Whatever else gives a name leaves it unknown. So
does any op, anywhere in the graph, that may change strings in place: see
`transforms.model_safety.op_kinds.may_change_strings`.
"""

import collections
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from transforms.model_safety.op_kinds import OPS, STRING, may_change_strings

# Ops that hand on the strings that they are given.
PASSING = ("Identity", "IdentityN", "PlaceholderWithDefault", "Reshape", "ExpandDims", "Squeeze", "Snapshot", "Pack")
# Those whose first input alone is strings.
FIRST = ("Reshape", "ExpandDims")
# Ops that call the functions in these attributes -> how many of their inputs come before the function's arguments.
CALLS = {"PartitionedCall": 0, "StatefulPartitionedCall": 0, "If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1}
PLAIN_CALLS = ("PartitionedCall", "StatefulPartitionedCall")  # those whose inputs are all arguments
CALLED = ("f", "then_branch", "else_branch", "branches")
# TensorFlow may run any one of the functions that say that they implement the same, whichever is called.
IMPLEMENTS = ("api_implements", "experimental_api_implements", "_implements")

Fed = Mapping[str, str | None]
_Place = tuple[str, str, Fed]  # a function, a tensor in it, and what is fed


class Part(NamedTuple):
    """What is run together: tensors and ops that are fetched, and the tensors that are fed."""

    name: str
    fetched: Sequence[str]
    fed: Fed


class _Call(NamedTuple):
    """A node that calls a function: its own function, how many inputs come before the arguments, what is fed."""

    scope: str
    node: Any
    before: int | None
    fed: Fed


def tensor(name: str) -> str:
    """A tensor's name with its output's number, which may be left out where it is 0."""
    return name if ":" in name else f"{name}:0"


def bare(name: str) -> str:
    """The node of a tensor, or of what a node waits for."""
    return name.lstrip("^").partition(":")[0]


class Walk:
    """The graph and its functions, and who calls them."""

    def __init__(self, graph: Any) -> None:
        library = graph.graph_def.library
        self.meta_graph, self.graph = graph, graph.graph_def
        self.functions = {function.signature.name: function for function in library.function}
        self.gradients = {gradient.function_name: gradient.gradient_func for gradient in library.gradient}
        self.alike: dict[bytes, list[str]] = collections.defaultdict(list)
        for name, function in self.functions.items():
            for attribute in IMPLEMENTS:
                if attribute in function.attr:
                    self.alike[function.attr[attribute].s].append(name)
        self.calls: dict[str, list[_Call]] = collections.defaultdict(list)
        # What string variables are given. TensorFlow 2 keeps the paths of assets in some; what one of them is
        # given counts for all, because one variable can go by several names.
        self.assigned: list[_Place] = []
        self.reached: set[tuple[str, str]] = set()
        self.nodes = functools.cache(self._nodes)
        bodies = (graph.graph_def.node, *(function.node_def for function in library.function))
        self.are_strings_fixed = not any(may_change_strings(node) for body in bodies for node in body)

    def reach(self, part: Part) -> Iterator[tuple[str, Any]]:
        """The nodes that a part runs and no earlier one did, each with the function that it is in."""
        functions: list[str] = []
        for node in self.needed(part):
            functions += self._called(_Call("", node, None, part.fed))
            if ("", node.name) not in self.reached:
                self.reached.add(("", node.name))
                yield "", node
        while functions:
            name = functions.pop()
            if name not in self.functions or (name, "") in self.reached:
                continue
            self.reached.add((name, ""))
            functions += self._beside(name)
            for node in self.functions[name].node_def:
                functions += self._called(_Call(name, node, None, part.fed))
                yield name, node

    def needed(self, part: Part) -> Iterator[Any]:
        """The nodes of the graph itself that lead to what a part fetches.

        Args:
            part: What is run.
        """
        pending, seen = list(part.fetched), set()
        while pending:
            name = pending.pop()
            source = bare(name)
            if source in seen or (not name.startswith("^") and tensor(name) in part.fed):
                continue
            seen.add(source)
            if node := self.nodes("").get(source):
                yield node
                pending += node.input

    def _called(self, call: _Call) -> list[str]:
        """The functions that a node names; notes that it does."""
        node = call.node
        if node.op == "AssignVariableOp" and _type(node, "dtype") in (STRING, None):
            self.assigned.append((call.scope, node.input[1] if len(node.input) > 1 else "", call.fed))
        # An op may be a function's name. What is only handed on to another function is called who knows how.
        names: list[tuple[str, int | None]] = [(node.op, 0)] if node.op in self.functions else []
        for attribute, value in node.attr.items():
            for function in _functions(value):
                names.append((function.name, CALLS.get(node.op) if attribute in CALLED else None))
                names += [(name, None) for name in _handed_on(function)]
        for name, before in names:
            self.calls[name].append(call._replace(before=before))
        return [name for name, _ in names]

    def _beside(self, name: str) -> Iterator[str]:
        """Functions that may be run in place of one, or after it."""
        if name in self.gradients:
            yield self.gradients[name]
        for attribute in IMPLEMENTS:
            if attribute in self.functions[name].attr:
                yield from self.alike[self.functions[name].attr[attribute].s]

    def _nodes(self, scope: str) -> dict[str, Any]:
        nodes = self.functions[scope].node_def if scope else self.graph.node
        return {node.name: node for node in nodes}

    def files(self, scope: str, node: Any, fed: Fed) -> set[str | None] | None:
        """The files that an op names, None among them for one that cannot be told; None if it names none at all."""
        op = OPS.get(node.op)
        if op is None or op.file is None:
            return None
        if isinstance(op.file, int):
            given = inputs_of(node)[op.file : op.file + 1]
            return self._origins(scope, given[0], fed) if given else {None}
        return texts(node, op.file)

    def _origins(self, scope: str, name: str, fed: Fed) -> set[str | None]:
        """What a tensor of strings holds, followed back through functions to constants and to what is fed."""
        if not self.are_strings_fixed:
            return {None}
        found: set[str | None] = set()
        pending, seen = [(scope, name, fed)], set()
        while pending:
            scope, name, fed = pending.pop()
            if (scope, name, id(fed)) in seen:
                continue
            seen.add((scope, name, id(fed)))
            node = self.nodes(scope).get(bare(name))
            if not scope and tensor(name) in fed:
                found.add(fed[tensor(name)])
            elif node is not None and node.op in self.functions:
                found.add(None)  # the function runs in place of the op
            elif node is not None and node.op == "Const":
                found |= _constants(node)
            elif sources := list(self._sources(scope, name, node, fed)):
                pending += sources
            else:
                found.add(None)
        return found or {None}  # tensors that lead to each other come from nowhere

    def _sources(self, scope: str, name: str, node: Any, fed: Fed) -> Iterable[_Place]:
        """The tensors that a tensor of strings comes from; none if that cannot be told."""
        if node is None:
            return self._arguments(scope, bare(name))
        if node.op == "ReadVariableOp":
            return self.assigned
        if node.op in PASSING:
            return [(scope, source, fed) for source in inputs_of(node)[: 1 if node.op in FIRST else None]]
        return ()

    def _arguments(self, scope: str, name: str) -> Iterable[_Place]:
        """What callers give for a function's argument; none if that cannot be told of one of them."""
        declared = self.functions[scope].signature.input_arg if scope else ()
        at = next((at for at, argument in enumerate(declared) if argument.name == name), None)
        # A list is several inputs, and those after it are moved by as many.
        if at is None or any(argument.number_attr or argument.type_list_attr for argument in declared):
            return ()
        found = [(call, inputs_of(call.node)[at + (call.before or 0) :][:1]) for call in self.calls[scope]]
        if any(call.before is None or not given for call, given in found):
            return ()
        return [(call.scope, given[0], call.fed) for call, given in found]


def _functions(value: Any) -> Iterable[Any]:
    """The functions that an attribute names."""
    which = value.WhichOneof("value")
    return (value.func,) if which == "func" else value.list.func if which == "list" else ()


def _handed_on(function: Any) -> Iterator[str]:
    """Functions among the attributes that a function is called with."""
    pending = [function]
    while pending:
        inner = [f for value in pending.pop().attr.values() for f in _functions(value)]
        yield from (f.name for f in inner)
        pending += inner


def inputs_of(node: Any) -> list[str]:
    """The tensors that a node takes.

    Args:
        node: NodeDef proto.
    """
    return [name for name in node.input if not name.startswith("^")]


# An attribute is asked for before it is looked up, which would add it to the graph that is then loaded.
def _type(node: Any, name: str) -> int | None:
    """The type in an attribute; None if the caller of the function gives it."""
    value = node.attr.get(name)
    return value.type if value is not None and value.WhichOneof("value") == "type" else None


def texts(node: Any, name: str) -> set[str | None]:
    """The strings of an attribute; None for one that the caller of its function gives."""
    value = node.attr.get(name)
    which = value and value.WhichOneof("value")
    strings = [] if value is None else [value.s] if which == "s" else value.list.s if which == "list" else None
    return {None} if strings is None else {os.fsdecode(text) for text in strings}


def _constants(node: Any) -> set[str | None]:
    """The strings of a constant."""
    value = node.attr.get("value")
    if value is None or value.WhichOneof("value") != "tensor" or value.tensor.tensor_content:
        return {None}  # given by the caller of its function, or packed
    return {os.fsdecode(text) for text in value.tensor.string_val} or {""}
