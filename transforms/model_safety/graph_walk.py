"""Walks the graph of a SavedModel, and finds the ops that run and the files that they name.

The walk reads the graph's protocol buffer and runs nothing.

The name of a file is known if it is a constant, or the path of an asset or of the model's variables. It may pass
through the ops of `PASSING`, the arguments of calls, and a string variable. A name from any other op is unknown. All
names are unknown if any op of the graph may change strings in place, see
`transforms.model_safety.op_kinds.may_change_strings`.
"""

import collections
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from transforms.model_safety.op_kinds import OPS, STRING, may_change_strings

# Ops whose output has the strings of their inputs, unchanged.
PASSING = ("Identity", "IdentityN", "PlaceholderWithDefault", "Reshape", "ExpandDims", "Squeeze", "Snapshot", "Pack")
# The ops of `PASSING` of which only the first input has the strings.
FIRST = ("Reshape", "ExpandDims")
# Ops that call the functions in the attributes `CALLED` -> how many inputs precede the arguments of the function.
CALLS = {"PartitionedCall": 0, "StatefulPartitionedCall": 0, "If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1}
PLAIN_CALLS = ("PartitionedCall", "StatefulPartitionedCall")  # calls whose inputs are all arguments
CALLED = ("f", "then_branch", "else_branch", "branches")
# Functions with an equal value of one of these attributes implement the same interface. If one of them is called,
# TensorFlow may run any of them.
IMPLEMENTS = ("api_implements", "experimental_api_implements", "_implements")

Fed = Mapping[str, str | None]
_Place = tuple[str, str, Fed]  # a function (empty for the graph itself), a tensor in it, and the fed tensors


class Part(NamedTuple):
    """The ops that TensorFlow runs together.

    Attributes:
        name: The name of the part: `signature`, `initialization` or `restore`.
        fetched: The tensors and ops that are fetched.
        fed: Fed tensor -> the file name that it holds; None if the value is not known.
    """

    name: str
    fetched: Sequence[str]
    fed: Fed


class _Call(NamedTuple):
    """A node that calls a function.

    Attributes:
        scope: The function that has the node; empty for the graph itself.
        node: The node, a NodeDef proto.
        before: How many inputs precede the arguments of the called function; None if that is not known.
        fed: The fed tensors, see `Part`.
    """

    scope: str
    node: Any
    before: int | None
    fed: Fed


def tensor(name: str) -> str:
    """Returns the full name of a tensor, with the number of the output. Short names omit the number 0."""
    return name if ":" in name else f"{name}:0"


def bare(name: str) -> str:
    """Returns the node of a tensor or of a control input, by its name."""
    return name.lstrip("^").partition(":")[0]


class Walk:
    """Walks a graph and its functions. Records which nodes call which functions.

    Nodes are NodeDef protos. A scope is the name of a function, or empty for the graph itself.
    """

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
        # The tensors that are assigned to string variables. TensorFlow 2 stores the paths of assets in such variables.
        # One variable can have several names, so a string assigned to one variable counts for all of them.
        self.assigned: list[_Place] = []
        self.reached: set[tuple[str, str]] = set()
        self.nodes = functools.cache(self._nodes)
        bodies = (graph.graph_def.node, *(function.node_def for function in library.function))
        self.are_strings_fixed = not any(may_change_strings(node) for body in bodies for node in body)

    def reach(self, part: Part) -> Iterator[tuple[str, Any]]:
        """Yields the nodes that a part runs, without those of earlier parts, each after the scope that it is in."""
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
        """Yields the nodes of the graph itself that a part needs for what it fetches.

        Args:
            part: The part to run.
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
        """Returns the functions that a node names, and records the calls and assignments of the node."""
        node = call.node
        if node.op == "AssignVariableOp" and _type(node, "dtype") in (STRING, None):
            self.assigned.append((call.scope, node.input[1] if len(node.input) > 1 else "", call.fed))
        # The op of a node may be the name of a function. If a function is only passed on to another function, the
        # arguments of its calls are not known.
        names: list[tuple[str, int | None]] = [(node.op, 0)] if node.op in self.functions else []
        for attribute, value in node.attr.items():
            for function in _functions(value):
                names.append((function.name, CALLS.get(node.op) if attribute in CALLED else None))
                names += [(name, None) for name in _handed_on(function)]
        for name, before in names:
            self.calls[name].append(call._replace(before=before))
        return [name for name, _ in names]

    def _beside(self, name: str) -> Iterator[str]:
        """Yields the functions that may run instead of a function, and its gradient, which may run after it."""
        if name in self.gradients:
            yield self.gradients[name]
        for attribute in IMPLEMENTS:
            if attribute in self.functions[name].attr:
                yield from self.alike[self.functions[name].attr[attribute].s]

    def _nodes(self, scope: str) -> dict[str, Any]:
        nodes = self.functions[scope].node_def if scope else self.graph.node
        return {node.name: node for node in nodes}

    def files(self, scope: str, node: Any, fed: Fed) -> set[str | None] | None:
        """Returns the names of the files that an op reads or writes.

        Args:
            scope: The scope of the node.
            node: The node of the op.
            fed: The fed tensors, see `Part`.

        Returns:
            The names, with None for each unknown name; None if `OPS` lists no input or attribute for them.
        """
        op = OPS.get(node.op)
        if op is None or op.file is None:
            return None
        if isinstance(op.file, int):
            given = inputs_of(node)[op.file : op.file + 1]
            return self._origins(scope, given[0], fed) if given else {None}
        return texts(node, op.file)

    def _origins(self, scope: str, name: str, fed: Fed) -> set[str | None]:
        """Returns the strings that a tensor may hold, traced back to constants and fed tensors; None if unknown."""
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
                found.add(None)  # the function runs instead of an op of the same name
            elif node is not None and node.op == "Const":
                found |= _constants(node)
            elif sources := list(self._sources(scope, name, node, fed)):
                pending += sources
            else:
                found.add(None)
        return found or {None}  # a loop of tensors has no constant at its start

    def _sources(self, scope: str, name: str, node: Any, fed: Fed) -> Iterable[_Place]:
        """Returns the tensors whose strings a tensor has; empty if that is not known."""
        if node is None:
            return self._arguments(scope, bare(name))
        if node.op == "ReadVariableOp":
            return self.assigned
        if node.op in PASSING:
            return [(scope, source, fed) for source in inputs_of(node)[: 1 if node.op in FIRST else None]]
        return ()

    def _arguments(self, scope: str, name: str) -> Iterable[_Place]:
        """Returns the tensors that the callers pass as an argument; empty if one of them is not known."""
        declared = self.functions[scope].signature.input_arg if scope else ()
        at = next((at for at, argument in enumerate(declared) if argument.name == name), None)
        # A list argument takes several inputs, so the numbers of later inputs are not those of their arguments.
        if at is None or any(argument.number_attr or argument.type_list_attr for argument in declared):
            return ()
        found = [(call, inputs_of(call.node)[at + (call.before or 0) :][:1]) for call in self.calls[scope]]
        if any(call.before is None or not given for call, given in found):
            return ()
        return [(call.scope, given[0], call.fed) for call, given in found]


def _functions(value: Any) -> Iterable[Any]:
    """Returns the functions that an attribute names."""
    which = value.WhichOneof("value")
    return (value.func,) if which == "func" else value.list.func if which == "list" else ()


def _handed_on(function: Any) -> Iterator[str]:
    """Yields the names of the functions in the attributes of a called function, at any depth."""
    pending = [function]
    while pending:
        inner = [f for value in pending.pop().attr.values() for f in _functions(value)]
        yield from (f.name for f in inner)
        pending += inner


def inputs_of(node: Any) -> list[str]:
    """Returns the names of a node's input tensors, without control inputs.

    Args:
        node: NodeDef proto.
    """
    return [name for name in node.input if not name.startswith("^")]


# These functions use `attr.get`. A lookup with `attr[name]` would add a missing attribute to the graph that is loaded.
def _type(node: Any, name: str) -> int | None:
    """Returns the type in an attribute; None if the caller of the function sets it."""
    value = node.attr.get(name)
    return value.type if value is not None and value.WhichOneof("value") == "type" else None


def texts(node: Any, name: str) -> set[str | None]:
    """Returns the strings of an attribute, with None for a string that the caller of the function sets."""
    value = node.attr.get(name)
    which = value and value.WhichOneof("value")
    strings = [] if value is None else [value.s] if which == "s" else value.list.s if which == "list" else None
    return {None} if strings is None else {os.fsdecode(text) for text in strings}


def _constants(node: Any) -> set[str | None]:
    """Returns the strings of a constant, with None if they are not known."""
    value = node.attr.get("value")
    if value is None or value.WhichOneof("value") != "tensor" or value.tensor.tensor_content:
        return {None}  # the caller of the function sets it, or it is packed
    return {os.fsdecode(text) for text in value.tensor.string_val} or {""}
