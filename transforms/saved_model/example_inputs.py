"""Finds the inputs of a signature that hold serialized tf.Examples.

The value of such an input reaches an op that parses Examples.
"""

import collections
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from transforms.compat import tensorflow
from transforms.model_safety.graph_walk import Walk, bare
from transforms.model_safety.op_kinds import RESOURCE, STRING
from transforms.saved_model.resources import called

# The ops that parse Examples. Their first input is the serialized Examples, see
# https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/ops/parsing_ops.cc
PARSING = (
    "ParseExample",
    "ParseExampleV2",
    "ParseSingleExample",
    "ParseSequenceExample",
    "ParseSequenceExampleV2",
    "ParseSingleSequenceExample",
)
# The numbers of dtypes that may hold or refer to text: 0 is unknown, 21 is DT_VARIANT. A resource or a variant refers
# to other tensors.
_TEXTS = (0, STRING, RESOURCE, 21)
_Place = tuple[str, str]  # the name of a function, empty for the graph itself; and a node or an argument in it


def find(walk: Walk, inputs: Mapping[str, str]) -> set[str]:
    """Returns the inputs that hold serialized tf.Examples.

    Args:
        walk: The graph, after a walk that began at the signature.
        inputs: Input of dtype string -> the name of its tensor.
    """
    flow = _Flow(walk)
    return {name for name, tensor in inputs.items() if flow.is_parsed(bare(tensor))}


class _Flow:
    """Follows a tensor from op to op, through functions, loops and branches."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._takers = functools.cache(self._find_takers)

    def is_parsed(self, node: str) -> bool:
        """Whether the output of a node of the graph reaches the first input of an op that parses Examples."""
        pending: list[_Place] = [("", node)]
        seen = set(pending)
        for scope, name in pending:
            for taker, at in self._takers(scope).get(name, ()):
                if taker.op in PARSING and at == 0:
                    return True
            more = [place for place in self._next(scope, name) if place not in seen]
            seen.update(more)
            pending += more
        return False

    def _next(self, scope: str, name: str) -> Iterator[_Place]:
        """Yields the places that a tensor can reach in one step.

        These are the ops that take it, and the arguments of the functions that these ops call. If the tensor is a
        result of its function, they include the nodes that call this function.
        """
        for node, at in self._takers(scope).get(name, ()):
            if _may_give_text(node):
                yield scope, node.name
            known = dict(called(self._walk, node))
            for function in self._functions(scope, node):
                arguments = [argument.name for argument in self._walk.functions[function].signature.input_arg]
                before = known.get(function)
                # If the op's inputs do not map one by one to the arguments, the tensor may reach any argument.
                yield from ((function, argument) for argument in arguments[_place(before, at)])
        if scope and name in map(bare, self._walk.functions[scope].ret.values()):
            yield from ((call.scope, call.node.name) for call in self._walk.calls[scope])

    def _functions(self, scope: str, node: Any) -> list[str]:
        """Returns the functions that a node names."""
        return self._named.get((scope, node.name), [])

    @functools.cached_property
    def _named(self) -> dict[_Place, list[str]]:
        found: dict[_Place, list[str]] = collections.defaultdict(list)
        for function, calls in self._walk.calls.items():
            if function in self._walk.functions:
                for call in calls:
                    found[call.scope, call.node.name].append(function)
        return found

    def _find_takers(self, scope: str) -> dict[str, list[tuple[Any, int]]]:
        """Maps each node or argument of a function to the nodes that take its output, and the numbers of their inputs.

        An empty scope is the graph itself.
        """
        found: dict[str, list[tuple[Any, int]]] = collections.defaultdict(list)
        for node in self._walk.nodes(scope).values():
            for at, name in enumerate(node.input):
                if not name.startswith("^"):
                    found[bare(name)].append((node, at))
        return found


def _may_give_text(node: Any) -> bool:
    """Whether an output of a node may be text, or refer to text. The shape or length of a text is not text."""
    definition = tensorflow.op_definition(node.op)
    if definition is None:  # the node calls a function
        return True
    # A SavedModel omits attributes that have their default. `get` is used because `node.attr[name]` would add them.
    values = {attribute.name: node.attr.get(attribute.name, attribute.default_value) for attribute in definition.attr}
    types: set[int] = set()
    for output in definition.output_arg:
        listed = output.type_list_attr
        types |= set(values[listed].list.type) if listed else {output.type or values[output.type_attr].type}
    return not types.isdisjoint(_TEXTS)


def _place(before: int | None, at: int) -> slice:
    """Returns which arguments of a function an input of a call may be.

    Args:
        before: How many inputs of the call come before the arguments; None if inputs do not map to arguments.
        at: The number of the input.
    """
    if before is None:
        return slice(None)
    return slice(at - before, at - before + 1) if at >= before else slice(0)
