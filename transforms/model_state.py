"""Whether calling a signature of a SavedModel can change what later calls of it give, as its graph says."""

import fnmatch
import re
from typing import Any

from transforms.model_ops import signature_part
from transforms.model_walk import Walk

# TensorFlow marks each of them as stateful. They make a handle, only read, keep their state for one call, or call
# functions, whose ops are looked at as well. Whatever else is stateful may change something.
_READ_ONLY = """
    Assert CheckNumerics* Empty GuaranteeConst DeviceIndex If While Case StatefulPartitionedCall XlaLaunch
    VarHandleOp VarIsInitializedOp VariableShape ReadVariableOp ResourceGather ResourceGatherNd DisableCopyOnRead
    Variable VariableV2 IsVariableInitialized Ref*
    HashTable HashTableV2 AnonymousHashTable LookupTableFind LookupTableFindV2 LookupTableSize LookupTableSizeV2
    LookupTableExport LookupTableExportV2
    TensorArray* RangeDataset TensorDataset TensorSliceDataset SparseTensorSliceDataset"""
_PATTERN = re.compile("|".join(map(fnmatch.translate, _READ_ONLY.split())))


def changes_state(graph: Any, signature: str) -> bool:
    """Whether a signature reaches an op that changes state: of a variable, a table, a queue, a random generator.

    Args:
        graph: MetaGraphDef proto, as it will be loaded.
        signature: Name of a signature that the graph has.
    """
    walk = Walk(graph)
    ops = {node.op for _, node in walk.reach(signature_part(graph, signature))}
    return any(map(_changes, ops - walk.functions.keys()))


def _changes(op: str) -> bool:
    """Whether an op changes state; one that takes a reference (TensorFlow 1) does, though it is not called stateful."""
    from tensorflow.python.framework import op_def_registry

    if _PATTERN.match(op):
        return False
    definition = op_def_registry.get(op)
    return definition is None or definition.is_stateful or any(taken.is_ref for taken in definition.input_arg)
