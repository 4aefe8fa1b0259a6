"""Lists the TensorFlow ops that do more than compute, and what they do.

The source is the registry of ops and their kernels in TensorFlow 2.21, with 1,909 ops. The table was made from two
sets of these: the ops with a file, a path, an address or a command among their inputs and attributes, and all 555
stateful ops. An op that is neither named here nor stateful only computes its outputs. The table also has two ops of
ydf-tf that read files.
https://github.com/tensorflow/tensorflow/tree/v2.21.0/tensorflow/core/ops
"""

import enum
import fnmatch
import re
from typing import Any, NamedTuple

from transforms.compat import tensorflow


class Kind(enum.Enum):
    """What an op does besides computing.

    Attributes:
        sentence: What the op does, as the end of a sentence about it.
        denied: Whether keyjoin refuses a model with such an op, unless the user allows it.
    """

    sentence: str
    denied: bool

    def __new__(cls, value: str, sentence: str, denied: bool) -> "Kind":
        """Makes a member. Messages and the manifest use its value as the name."""
        member = object.__new__(cls)
        member._value_ = value
        member.sentence, member.denied = sentence, denied
        return member

    READS = ("reads", "reads files outside of the model's folder, or such that cannot be told before", False)
    PRINTS = ("prints", "prints what may be of the rows", False)
    COMPILED = (
        "compiled",
        "holds a program that XLA compiles (exported from JAX or torch), which keyjoin does not look into",
        False,
    )
    OPAQUE = ("opaque", "has an effect that keyjoin cannot tell", False)
    LIBRARY = ("library", "does what the code of a model library does, which keyjoin does not check", False)
    WRITES = ("writes", "writes files", True)
    PYTHON = ("python", "calls Python code", True)
    NETWORK = ("network", "talks to other machines or processes", True)
    GRAPH = ("graph", "runs a graph that is hidden inside of a string", True)
    UNKNOWN = ("unknown", "is not an op of the installed TensorFlow", True)


class Op(NamedTuple):
    """An op that does more than compute.

    Attributes:
        kind: What the op does.
        file: The input with the names of its files, by its number, or the attribute with them, by its name. An op
            without names of files (they are empty) does nothing. An op that only reads the model's own files is no
            finding. With None, the op is always a finding.
    """

    kind: Kind
    file: int | str | None = None


_INPUTS = {
    (Kind.READS, 0): """
        ReadFile MatchingFiles MatchingFilesDataset ExperimentalMatchingFilesDataset Restore RestoreSlice RestoreV2
        DTensorRestoreV2 LoadAndRemapMatrix TFRecordDataset TFRecordDatasetV2 TextLineDataset CSVDataset CSVDatasetV2
        ExperimentalCSVDataset FixedLengthRecordDataset FixedLengthRecordDatasetV2 LMDBDataset ExperimentalLMDBDataset
        LoadDataset SnapshotDatasetReader SnapshotChunkDataset ListSnapshotChunksDataset
        SimpleMLLoadModelFromPath""",
    (Kind.READS, 1): """
        InitializeTableFromTextFile InitializeTableFromTextFileV2 SqlDataset ExperimentalSqlDataset
        SimpleMLLoadModelFromPathWithHandle""",
    (Kind.READS, None): """
        GenerateVocabRemapping SnapshotNestedDatasetReader WholeFileReader WholeFileReaderV2
        TextLineReader TextLineReaderV2 TFRecordReader TFRecordReaderV2
        FixedLengthRecordReader FixedLengthRecordReaderV2 LMDBReader""",
    (Kind.READS, "vocab_file"): "FixedUnigramCandidateSampler",
    (Kind.READS, "filename"): "Skipgram",
    (Kind.READS, "file_pattern"): "RecordInput",
    (Kind.READS, "memory_region_name"): "ImmutableConst",
    (Kind.READS, "descriptor_source"): "DecodeProtoV2 EncodeProto",
    (Kind.WRITES, 1): "CacheDataset CacheDatasetV2",
    (Kind.WRITES, None): """
        WriteFile Save SaveSlices SaveV2 MergeV2Checkpoints SaveDataset SaveDatasetV2 SnapshotDataset SnapshotDatasetV2
        DatasetToTFRecord ExperimentalDatasetToTFRecord DumpTensor CalibrationStatisticsSaver CreateSummaryFileWriter
        CreateSummaryDbWriter SummaryWriter ImportEvent WriteSummary WriteRawProtoSummary WriteScalarSummary
        WriteHistogramSummary WriteImageSummary WriteAudioSummary WriteGraphSummary StatsAggregatorSetSummaryWriter""",
    (Kind.PYTHON, None): "PyFunc PyFuncStateless EagerPyFunc",
    (Kind.PRINTS, None): "Print PrintV2",
    (Kind.NETWORK, "debug_urls"): "DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount DebugNumericSummary",
    (Kind.NETWORK, None): """
        RpcServer RpcServerStart RpcServerRegister RpcClient RpcCall RpcCheckStatus RpcGetValue RemoteCall
        DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4 RegisterDataset
        RegisterDatasetV2 DistributedSave FileSystemSetConfiguration Send Recv _Send _Recv _HostSend _HostRecv
        CollectiveAllToAllV2 CollectiveAllToAllV3 CollectiveAssignGroupV2 CollectiveBcastRecv CollectiveBcastRecvV2
        CollectiveBcastSend CollectiveBcastSendV2 CollectiveGather CollectiveGatherV2 CollectiveInitializeCommunicator
        CollectivePermute CollectiveReduce CollectiveReduceScatterV2 CollectiveReduceV2 CollectiveReduceV3""",
    (Kind.GRAPH, None): "DatasetFromGraph DeserializeIterator",
    (Kind.COMPILED, None): "XlaCallModule",
    # These run a program that is hidden in a string, or end the process.
    (Kind.OPAQUE, None): "XlaCustomCall XlaCustomCallV2 Abort",
}
OPS = {name: Op(kind, file) for (kind, file), names in _INPUTS.items() for name in names.split()}
# Values of `descriptor_source` that name no file: the messages linked into the program, and bytes.
NO_FILES = ("local://", "bytes://")

# Stateful ops without an effect outside of the model. Their state is the model's own memory: variables, tables, queues,
# random numbers. Others only call functions, whose ops are checked too, or make a batch fail.
_HARMLESS = """
    Assert CheckNumerics CheckNumericsV2 If _If XlaIf While _While XlaWhile Case StatefulPartitionedCall XlaLaunch
    Variable VariableV2 VariableShape TemporaryVariable VarHandleOp VarIsInitializedOp ReadVariableOp DestroyResourceOp
    AssignVariableOp AssignAddVariableOp AssignSubVariableOp Resource* DisableCopyOnRead IsResourceHandleRefCounting
    GuaranteeConst Empty DeepCopy DeviceIndex Timestamp IsTensorFloat32Enabled SleepOp SleepIdentityOp
    *HashTable *HashTableV2 *HashTableOfTensors *HashTableOfTensorsV2 LookupTable* InitializeTableV2
    InitializeTableFromDataset *Random* *SeedGenerator Multinomial NonDeterministicInts ParameterizedTruncatedNormal
    TruncatedNormal StatefulUniform* StatefulStandardNormal* StatefulTruncatedNormal Rng* SampleDistortedBoundingBox*
    *CandidateSampler NegTrain BoostedTrees* IsBoostedTrees* Cudnn* *SparseToTensorsMap TakeManySparseFromTensorsMap
    TensorArray* Stack StackV2 StackClose* StackPop* StackPush* Barrier Mutex* ConsumeMutexLock *Queue *QueueV2 Queue*
    MapClear MapIncompleteSize MapPeek MapSize MapStage MapUnstage* OrderedMap* Stage StagePeek StageSize StageClear
    Unstage *ConditionalAccumulator GetSession* DeleteSession* *Iterator* *MemoryCache RangeDataset TensorDataset
    TensorSliceDataset SparseTensorSliceDataset ListDataset GeneratorDataset GlobalShuffleDataset *GroupByReducerDataset
    *SetStatsAggregatorDataset *ThreadPoolDataset *ThreadPoolHandle ReduceDataset DatasetToSingleElement
    ShuffleDatasetV* ShuffleAndRepeatDatasetV2 *StatsAggregatorHandle* *StatsAggregatorSummary IdentityReader*
    Reader*"""
_PATTERN = re.compile("|".join(map(fnmatch.translate, _HARMLESS.split())))


# These ops take a handle and strings, but change no strings of a variable in place. Most have a handle of something
# else, such as a table or a queue.
_KEEPING = """
    AssignVariableOp ReadVariableOp ResourceGather ResourceGatherNd LookupTable* InitializeTable*
    *Iterator* *Dataset* Queue* Stack* TensorArray*"""
_KEEPING_PATTERN = re.compile("|".join(map(fnmatch.translate, _KEEPING.split())))
# These ops change an input tensor in place, even if it is a constant or if other ops use it, too.
_IN_PLACE = re.compile("Inplace.*|_ParallelConcatUpdate")
STRING, RESOURCE = 7, 20  # DT_STRING and DT_RESOURCE in types.proto


def may_change_strings(node: Any) -> bool:
    """Returns whether an op may change strings of a variable or of any tensor in place.

    `AssignVariableOp` does not count, because the strings that it assigns are known from its input.

    Args:
        node: NodeDef proto.
    """
    definition = tensorflow.op_definition(node.op)
    if definition is None or _KEEPING_PATTERN.match(node.op):
        return False
    if not _IN_PLACE.match(node.op) and all(argument.type != RESOURCE for argument in definition.input_arg):
        return False
    return any(_may_be_string(attribute, node) for attribute in definition.attr)


def _may_be_string(attribute: Any, node: Any) -> bool:
    """Returns whether an attribute is the type string, or a type that the caller of the function sets."""
    if attribute.type not in ("type", "list(type)"):
        return False
    value = node.attr.get(attribute.name, attribute.default_value)
    types = (value.type,) if value.WhichOneof("value") == "type" else value.list.type
    return STRING in types or value.WhichOneof("value") not in ("type", "list")


def is_harmless(op: str) -> bool:
    """Returns whether a stateful op has no effect outside of the model.

    >>> is_harmless("VarHandleOp"), is_harmless("RandomUniform"), is_harmless("TPUExecute")
    (True, True, False)
    """
    return _PATTERN.match(op) is not None
