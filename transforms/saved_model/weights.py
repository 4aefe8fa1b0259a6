"""Computes how many bytes of a model's variables take part in each row. It only reads the graph."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from transforms.compat import tensorflow

# Op that calls functions -> its attributes that name the functions, and the number of inputs before the arguments.
CALLS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "PartitionedCall": (("f",), 0),
    "StatefulPartitionedCall": (("f",), 0),
    "If": (("then_branch", "else_branch"), 1),
    "StatelessIf": (("then_branch", "else_branch"), 1),
    "While": (("cond", "body"), 0),
    "StatelessWhile": (("cond", "body"), 0),
}


def weights(graph: Any, outputs: Iterable[str]) -> int:
    """Returns the bytes of the variables that outputs read as a whole.

    A variable from which a call gathers only some rows, such as an embedding, takes little time and does not count.

    Args:
        graph: The GraphDef.
        outputs: The names of the outputs' tensors.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    running: set[str] = set()

    @functools.cache
    def read_arguments(name: str) -> frozenset[int]:
        """Returns the positions of a function's arguments that are variables which it reads as a whole."""
        if name not in functions or name in running:  # an op, or a function that calls itself
            return frozenset()
        running.add(name)
        arguments = [argument.name for argument in functions[name].signature.input_arg]
        found = {arguments.index(handle) for handle in read(functions[name].node_def) if handle in arguments}
        running.discard(name)
        return frozenset(found)

    def read(nodes: Iterable[Any]) -> Iterator[str]:
        """Yields the names of the variables that nodes read as a whole. A name is that of a node or an argument."""
        for node in nodes:
            inputs = [_bare(name) for name in node.input if not name.startswith("^")]
            if node.op == "ReadVariableOp":
                yield inputs[0]
            names, before = CALLS.get(node.op, ((), 0))
            for name in names:
                arguments = inputs[before:]
                yield from (arguments[at] for at in read_arguments(node.attr[name].func.name) if at < len(arguments))

    nodes = {node.name: node for node in graph.node}
    handles = set(read(_needed(nodes, outputs)))
    return sum(_size(nodes[name]) for name in handles if name in nodes and nodes[name].op == "VarHandleOp")


def _needed(nodes: Mapping[str, Any], outputs: Iterable[str]) -> Iterator[Any]:
    """Yields the nodes that outputs depend on."""
    pending, seen = list(map(_bare, outputs)), set()
    while pending:
        name = pending.pop()
        if name in nodes and name not in seen:
            seen.add(name)
            yield nodes[name]
            pending += map(_bare, nodes[name].input)


def _bare(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]


def _size(variable: Any) -> int:

    size: int = tensorflow.as_dtype(variable.attr["dtype"].type).size
    for dim in variable.attr["shape"].shape.dim:
        size *= max(dim.size, 0)
    return size
