"""Detects what a SavedModel does besides computing, from the ops of its graph, before the model is loaded.

This is a check, not a sandbox. It reads which ops the graph has, and trusts TensorFlow to run these ops and no others.
"""

import os
from collections.abc import Container, Iterable, Sequence
from typing import Any, NamedTuple

from transforms.compat import tensorflow
from transforms.errors import UsageError
from transforms.model_safety.graph_walk import Fed, Part, Walk, tensor, texts
from transforms.model_safety.op_kinds import NO_FILES, OPS, Kind, Op, is_harmless
from transforms.model_safety.op_packages import find_package
from transforms.saved_model.libraries import is_registered, remedy_for

POLICIES = DENY, WARN, ALLOW = "deny", "warn", "allow"
SIGNATURE, INITIALIZATION, RESTORE = "signature", "initialization", "restore"
INIT_SIGNATURE, INIT_COLLECTIONS = "__saved_model_init_op", ("saved_model_main_op", "legacy_init_op")


class Finding(NamedTuple):
    """An op of a model that does more than compute.

    Attributes:
        kind: What the op does.
        op: The type of the op.
        node: The name of its node.
        function: The function with that node; empty for the graph itself.
        part: What runs the op: a call (`signature`), or the loading of the model (`initialization` or `restore`).
        files: The names of its files, as far as they are known.
        times: How many such ops the function has.
    """

    kind: Kind
    op: str
    node: str
    function: str
    part: str
    files: tuple[str, ...]
    times: int

    def __str__(self) -> str:
        """Describes the op, as the end of a sentence about the model."""
        where = f"node {self.node}" + (f" of the function {self.function}" if self.function else "")
        files = f" ({', '.join(self.files)})" if self.files else ""
        when = "when the model is called" if self.part == SIGNATURE else f"as the model is loaded ({self.part})"
        more = f", and {self.times - 1} more like it" if self.times > 1 else ""
        return f"{self.op} {self.kind.sentence}{files} {when}: {where}{more}"


def find(graph: Any, folder: str, signature: str) -> list[Finding]:
    """Checks every op that TensorFlow can run when it loads the model and calls the signature.

    The check includes each function that such an op names. A model may restore its own variables and read its own
    assets, so these ops are no findings. The ops that save variables never run.

    Args:
        graph: MetaGraphDef proto, as TensorFlow will load it.
        folder: The folder of the SavedModel.
        signature: The name of a signature of the graph.

    Returns:
        The findings, the worst first; empty for a model that only computes.
    """
    walk = Walk(graph)
    parts = [signature_part(graph, signature), *loading_parts(graph, folder)]
    reached = [(part, *place) for part in parts for place in walk.reach(part)]
    found: dict[tuple[Kind, str, str, tuple[str, ...]], Finding] = {}
    for part, scope, node in reached:
        files = walk.files(scope, node, part.fed)
        kind = _kind(node, files, folder, walk.functions)
        if kind is None:
            continue
        named = tuple(sorted(file for file in files if file)) if files else ()
        at = kind, node.op, scope, named
        first = found.setdefault(at, Finding(kind, node.op, node.name, scope, part.name, named, 0))
        found[at] = first._replace(times=first.times + 1)
    order = list(Kind)
    return sorted(found.values(), key=lambda finding: -order.index(finding.kind))


def judge(model: str, findings: Sequence[Finding], policy: str | None) -> None:
    """Refuses a model for its findings.

    Every policy refuses an op that calls a Python function, because such a model cannot run. Its graph has only the
    number of the function in the process that saved the model, see `func` in
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/ops/script_ops.py.

    Args:
        model: The path of the model, for the message.
        findings: The findings of the model.
        policy: `deny` refuses every finding; `warn` and `allow` refuse only Python functions; None refuses the kinds
            whose `denied` is true.

    Raises:
        UsageError: The model is refused.
    """
    denied = [f for f in findings if f.kind is Kind.PYTHON]  # first, because --model_ops=warn does not help here
    denied = denied or [f for f in findings if policy == DENY or (policy is None and f.kind.denied)]
    if not denied:
        return
    first, others = denied[0], f" (and {len(denied) - 1} more of what it must not do)" if len(denied) > 1 else ""
    if first.kind is Kind.UNKNOWN:
        remedy = remedy_for([f.op for f in denied if f.kind is Kind.UNKNOWN])
    elif first.kind is Kind.PYTHON:
        remedy = (
            "a SavedModel does not hold the Python function, which exists only in the process that saved it; export "
            "the model with TensorFlow ops in its place"
        )
    else:
        remedy = "export it without that op, or, only where you trust whoever made it, give --model_ops=warn"
    raise UsageError(f"{model} is refused: {first}{others}; {remedy}")


def signature_part(graph: Any, signature: str) -> Part:
    """Returns what a call of a signature runs."""
    definition = graph.signature_def[signature]
    fed = {tensor(name): None for info in definition.inputs.values() for name in names_of(info)}
    return Part(SIGNATURE, [name for info in definition.outputs.values() for name in names_of(info)], fed)


def loading_parts(graph: Any, folder: str) -> list[Part]:
    """Returns what TensorFlow's `loader_impl` runs to load a model: it restores variables, and initializes.

    Args:
        graph: MetaGraphDef proto, as TensorFlow will load it.
        folder: The folder of the SavedModel.
    """
    first = [name for info in _init_outputs(graph) for name in names_of(info)]
    for collection in INIT_COLLECTIONS:
        if collection in graph.collection_def:
            first += graph.collection_def[collection].node_list.value
    saver = graph.saver_def
    own = os.path.join(folder, "variables", "variables")
    restored = [saver.restore_op_name] * bool(saver.restore_op_name)
    return [
        Part(INITIALIZATION, first, _assets(graph, folder)),
        Part(RESTORE, restored, {tensor(saver.filename_tensor_name): own}),
    ]


def _init_outputs(graph: Any) -> Iterable[Any]:
    return graph.signature_def[INIT_SIGNATURE].outputs.values() if INIT_SIGNATURE in graph.signature_def else ()


def _assets(graph: Any, folder: str) -> Fed:
    assets = tensorflow.get_asset_tensors(folder, graph)
    return {tensor(name): os.fsdecode(path) for name, path in assets.items()}


def names_of(info: Any) -> list[str]:
    """Returns the names of the tensors of an input or output. A sparse or ragged one has several tensors.

    Args:
        info: TensorInfo proto.
    """
    if info.WhichOneof("encoding") == "coo_sparse":
        sparse = info.coo_sparse
        return [sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name]
    if info.WhichOneof("encoding") == "composite_tensor":
        return [name for component in info.composite_tensor.components for name in names_of(component)]
    return [info.name]


def _kind(node: Any, files: set[str | None] | None, folder: str, functions: Container[str]) -> Kind | None:
    """Returns what a node does besides computing; None if it only computes."""
    op = OPS.get(node.op)
    if op is None:
        return None if node.op in functions else _kind_of(node.op)
    if not _is_known(node.op):
        return Kind.UNKNOWN
    if node.op == "PrintV2" and any(to is None or to.startswith("file:") for to in texts(node, "output_stream")):
        return Kind.WRITES
    if files is None or not _is_own(op, files, folder):
        return op.kind
    return None


def _kind_of(op: str) -> Kind | None:
    """Returns what an op that is not in `OPS` does besides computing; None if it only computes."""
    definition = tensorflow.op_definition(op)
    if definition is None:
        return Kind.UNKNOWN
    package = find_package(op)
    if package is not None or is_registered(op):
        return None if package is not None and package.computes else Kind.LIBRARY
    return Kind.OPAQUE if definition.is_stateful and not is_harmless(op) else None


def _is_known(op: str) -> bool:
    """Returns whether TensorFlow knows an op. It knows the ops of a package only after the package is imported."""
    return find_package(op) is None or tensorflow.op_definition(op) is not None


def _is_own(op: Op, files: set[str | None], folder: str) -> bool:
    """Returns whether an op names no file, or only reads the model's own files."""
    return all(
        file is not None and (not file or (op.kind is Kind.READS and (_is_no_file(op, file) or _inside(file, folder))))
        for file in files
    )


def _is_no_file(op: Op, file: str) -> bool:
    return isinstance(op.file, str) and file.startswith(NO_FILES)


def _inside(file: str, folder: str) -> bool:
    """Returns whether a file is in a folder, both for the operating system and for TensorFlow.

    The operating system follows links before it resolves `..`; TensorFlow resolves `..` in the text of the name.
    """
    if "://" in file or "\0" in file:
        return False
    root = os.path.realpath(folder) + os.sep
    return all(os.path.realpath(name).startswith(root) for name in (file, os.path.normpath(file)))
