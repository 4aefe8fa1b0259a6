"""Detects, from the graph of a SavedModel, whether a call of a signature can change the results of later calls."""

import fnmatch
import functools
import re
from collections.abc import Iterable
from typing import Any

from transforms.compat import tensorflow

# TensorFlow marks each of these ops as stateful, but they change nothing that a later call of the model sees. They make
# a handle, only read, keep their state for one call, or call functions, whose ops are checked too. Any other stateful
# op may change state.
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
    """Returns whether any node changes the state of a variable, a table, a queue or a random generator.

    Args:
        nodes: NodeDef protos, with those of called functions.
    """
    return any(map(changes, {node.op for node in nodes}))


@functools.cache
def changes(op: str) -> bool:
    """Returns whether an op may change state.

    Ops of TensorFlow 1 that take a reference change state, although TensorFlow does not mark them as stateful. An op
    that TensorFlow does not know may change state.

    Args:
        op: The type of an op. The name of a function counts as an op that TensorFlow does not know.
    """
    if _PATTERN.match(op):
        return False
    definition = tensorflow.op_definition(op)
    return definition is None or definition.is_stateful or any(taken.is_ref for taken in definition.input_arg)
