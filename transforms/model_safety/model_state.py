"""Whether calling a signature of a SavedModel can change what later calls of it give, as its graph says."""

import fnmatch
import functools
import re
from collections.abc import Iterable
from typing import Any

from transforms.compat import tensorflow

# TensorFlow marks each of them as stateful. They make a handle, only read, keep their state for one call, or call
# functions, whose ops are looked at as well. Whatever else is stateful may change something.
_READ_ONLY = """
    Assert CheckNumerics* Empty GuaranteeConst DeviceIndex If While Case StatefulPartitionedCall
    XlaLaunch XlaLaunchV2 XlaCallModule
    VarHandleOp VarIsInitializedOp VariableShape ReadVariableOp ResourceGather ResourceGatherNd DisableCopyOnRead
    Variable VariableV2 IsVariableInitialized Ref*
    HashTable HashTableV2 AnonymousHashTable LookupTableFind LookupTableFindV2 LookupTableSize LookupTableSizeV2
    LookupTableExport LookupTableExportV2
    TensorArray* RangeDataset TensorDataset TensorSliceDataset SparseTensorSliceDataset"""
_PATTERN = re.compile("|".join(map(fnmatch.translate, _READ_ONLY.split())))


def changes_state(nodes: Iterable[Any]) -> bool:
    """Whether an op among some nodes changes state: of a variable, a table, a queue, a random generator.

    Args:
        nodes: NodeDef protos, those of called functions among them.
    """
    return any(map(changes, {node.op for node in nodes}))


@functools.cache
def changes(op: str) -> bool:
    """Whether an op changes state; one that takes a reference (TensorFlow 1) does, though it is not called stateful.

    Args:
        op: Type of an op; the name of a function counts as an op that TensorFlow does not have.
    """
    if _PATTERN.match(op):
        return False
    definition = tensorflow.op_definition(op)
    return definition is None or definition.is_stateful or any(taken.is_ref for taken in definition.input_arg)
