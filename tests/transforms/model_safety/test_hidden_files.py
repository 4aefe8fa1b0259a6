"""keyjoin refuses every graph that computes a file name: tested on 1,000 random graphs and on each op of TensorFlow."""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

from tests.transforms.model_safety.test_graph_walk import const, graph, node
from transforms.errors import UsageError
from transforms.model_safety.graph_walk import PASSING
from transforms.model_safety.model_ops import DENY, find, judge
from transforms.model_safety.op_kinds import RESOURCE, STRING, may_change_strings

R = tf.raw_ops
GRAPHS = 1_000
DECOY = ""  # a check that follows the graph wrongly takes this for the file name
NAMES = itertools.count()


def unique() -> str:
    return f"n{next(NAMES)}"


# 1. Sources of the name: each gives a scalar that holds `target` once the graph runs.


def changed_variable(change: Callable[[tf.Tensor, str], tf.Operation]) -> Callable[[str], tf.Tensor]:
    def name(target: str) -> tf.Tensor:
        shared = unique()
        handle = R.VarHandleOp(dtype=tf.string, shape=[1], shared_name=shared)
        with tf.control_dependencies([R.AssignVariableOp(resource=handle, value=[DECOY])]):
            done = change(R.VarHandleOp(dtype=tf.string, shape=[1], shared_name=shared), target)
        with tf.control_dependencies([done]):
            return tf.reshape(R.ReadVariableOp(resource=handle, dtype=tf.string), [])

    return name


def strided(handle: tf.Tensor, target: str) -> tf.Operation:
    return R.ResourceStridedSliceAssign(ref=handle, begin=[0], end=[1], strides=[1], value=[target])


def in_place(handle: tf.Tensor, target: str) -> tf.Operation:
    return R.InplaceUpdate(x=R.ReadVariableOp(resource=handle, dtype=tf.string), i=[0], v=[target])


def gathered_variable(target: str) -> tf.Tensor:
    handle = R.VarHandleOp(dtype=tf.string, shape=[2], shared_name=unique())
    with tf.control_dependencies([R.AssignVariableOp(resource=handle, value=[DECOY, target])]):
        return R.ResourceGather(resource=handle, indices=1, dtype=tf.string)


def ref_variable(target: str) -> tf.Tensor:
    variable = R.VariableV2(shape=[1], dtype=tf.string, shared_name=unique())
    with tf.control_dependencies([R.Assign(ref=variable, value=[DECOY])]):
        return tf.identity(R.ScatterUpdate(ref=variable, indices=[0], updates=[target]))[0]


def queue(make: Callable[..., Any], take: Callable[..., Any]) -> Callable[[str], tf.Tensor]:
    def name(target: str) -> tf.Tensor:
        handle = make()
        with tf.control_dependencies([R.QueueEnqueueV2(handle=handle, components=[target])]):
            return tf.reshape(take(handle)[0], [])

    return name


def dequeue(handle: tf.Tensor) -> Any:
    return R.QueueDequeueV2(handle=handle, component_types=[tf.string])


def dequeue_many(handle: tf.Tensor) -> Any:
    return R.QueueDequeueManyV2(handle=handle, n=1, component_types=[tf.string])


def table(target: str) -> tf.Tensor:
    handle = R.HashTableV2(key_dtype=tf.string, value_dtype=tf.string, shared_name=unique())
    with tf.control_dependencies([R.InitializeTableV2(table_handle=handle, keys=[DECOY], values=[target])]):
        return R.LookupTableFindV2(table_handle=handle, keys=DECOY, default_value=DECOY)


def mutable_table(target: str) -> tf.Tensor:
    handle = R.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.string, shared_name=unique())
    key = tf.constant([1], tf.int64)
    with tf.control_dependencies([R.LookupTableInsertV2(table_handle=handle, keys=key, values=[target])]):
        return R.LookupTableExportV2(table_handle=handle, Tkeys=tf.int64, Tvalues=tf.string).values[0]


def stack(target: str) -> tf.Tensor:
    handle = R.StackV2(max_size=1, elem_type=tf.string, stack_name=unique())
    with tf.control_dependencies([R.StackPushV2(handle=handle, elem=target)]):
        return R.StackPopV2(handle=handle, elem_type=tf.string)


def tensor_array(target: str) -> tf.Tensor:
    array = tf.TensorArray(tf.string, 1).write(0, target)
    return array.read(0)


def tensor_list(target: str) -> tf.Tensor:
    items = R.TensorListFromTensor(tensor=[target], element_shape=tf.constant([], tf.int32))
    return R.TensorListGetItem(
        input_handle=items, index=0, element_shape=tf.constant([], tf.int32), element_dtype=tf.string
    )


def tensor_list_popped(target: str) -> tf.Tensor:
    empty = R.EmptyTensorList(element_shape=tf.constant([], tf.int32), max_num_elements=2, element_dtype=tf.string)
    items = R.TensorListPushBack(input_handle=empty, tensor=target)
    return R.TensorListPopBack(
        input_handle=items, element_shape=tf.constant([], tf.int32), element_dtype=tf.string
    ).tensor


def tensor_map(target: str) -> tf.Tensor:
    items = R.TensorMapInsert(input_handle=R.EmptyTensorMap(), key=1, value=target)
    return R.TensorMapLookup(input_handle=items, key=1, value_dtype=tf.string)


def staged(target: str) -> tf.Tensor:
    area = {"shared_name": unique(), "capacity": 1}
    with tf.control_dependencies([R.Stage(values=[target], **area)]):
        return R.Unstage(dtypes=[tf.string], **area)[0]


def map_staged(target: str) -> tf.Tensor:
    area = {"shared_name": unique(), "dtypes": [tf.string], "capacity": 1}
    key = tf.constant(1, tf.int64)
    with tf.control_dependencies([R.MapStage(key=key, indices=[0], values=[target], **area)]):
        return R.MapUnstage(key=key, indices=[0], **area)[0]


def barrier(target: str) -> tf.Tensor:
    handle = R.Barrier(component_types=[tf.string], shapes=[[]], shared_name=unique())
    insert = R.BarrierInsertMany(handle=handle, keys=["k"], values=[target], component_index=0)
    with tf.control_dependencies([insert]):
        return R.BarrierTakeMany(handle=handle, num_elements=1, component_types=[tf.string]).values[0][0]


def session_tensor(target: str) -> tf.Tensor:
    return R.GetSessionTensor(handle=R.GetSessionHandle(value=target), dtype=tf.string)


def iterator(target: str) -> tf.Tensor:
    handle = R.IteratorV2(shared_name=unique(), container="", output_types=[tf.string], output_shapes=[[]])
    data = tf.data.Dataset.from_tensors(target)._variant_tensor
    with tf.control_dependencies([R.MakeIterator(dataset=data, iterator=handle)]):
        return R.IteratorGetNext(iterator=handle, output_types=[tf.string], output_shapes=[[]])[0]


def data_set(target: str) -> tf.Tensor:
    return tf.data.experimental.get_single_element(tf.data.Dataset.from_tensors(target).map(tf.identity))


def reduced(target: str) -> tf.Tensor:
    return tf.data.Dataset.from_tensors(target).reduce(DECOY, lambda _, name: name)


def optional(target: str) -> tf.Tensor:
    given = R.OptionalFromValue(components=[tf.constant(target)])
    return R.OptionalGetValue(optional=given, output_types=[tf.string], output_shapes=[[]])[0]


def loop(target: str) -> tf.Tensor:
    return tf.while_loop(lambda i, _: i < 1, lambda i, _: (i + 1, tf.constant(target)), (0, tf.constant(DECOY)))[1]


def called(target: str) -> tf.Tensor:
    return tf.function(lambda: tf.strings.strip(tf.constant(target)) + "", autograph=False)()


def switched(target: str) -> tf.Tensor:
    pair = R.Switch(data=tf.constant(target), pred=tf.constant(True))
    return R.Merge(
        inputs=[pair.output_true, R.Switch(data=tf.constant(DECOY), pred=tf.constant(True)).output_false]
    ).output


def entered(target: str) -> tf.Tensor:
    frame = unique()
    inside = R.Enter(data=tf.constant(target), frame_name=frame)
    return R.Exit(data=inside)


VARIABLES = {
    "scatter": changed_variable(lambda h, t: R.ResourceScatterUpdate(resource=h, indices=[0], updates=[t])),
    "scatter nd": changed_variable(lambda h, t: R.ResourceScatterNdUpdate(ref=h, indices=[[0]], updates=[t])),
    "strided slice": changed_variable(strided),
    "assigned": changed_variable(lambda h, t: R.AssignVariableOp(resource=h, value=[tf.strings.join([DECOY, t])])),
    "in place": changed_variable(in_place),
    "gathered": gathered_variable,
    "ref": ref_variable,
}
HOLDING = {
    "queue": queue(lambda: R.FIFOQueueV2(component_types=[tf.string], shared_name=unique()), dequeue),
    "padding queue": queue(
        lambda: R.PaddingFIFOQueueV2(component_types=[tf.string], shapes=[[]], shared_name=unique()), dequeue_many
    ),
    "random queue": queue(
        lambda: R.RandomShuffleQueueV2(component_types=[tf.string], shapes=[[]], shared_name=unique()), dequeue_many
    ),
    "table": table,
    "mutable table": mutable_table,
    "stack": stack,
    "tensor array": tensor_array,
    "tensor list": tensor_list,
    "popped": tensor_list_popped,
    "tensor map": tensor_map,
    "staged": staged,
    "map staged": map_staged,
    "barrier": barrier,
    "session tensor": session_tensor,
    "iterator": iterator,
    "data set": data_set,
    "reduced": reduced,
    "optional": optional,
}
COMPUTED = {
    "join": lambda t: tf.strings.join([t[:1], t[1:]]),
    "substring": lambda t: tf.strings.substr("x" + t, 1, 10_000),
    "replaced": lambda t: tf.strings.regex_replace("x", "x", t),
    "static": lambda t: R.StaticRegexReplace(input="x", pattern="x", rewrite=t),
    "transcoded": lambda t: R.UnicodeTranscode(input=t, input_encoding="UTF-8", output_encoding="UTF-8"),
    "picked": lambda t: tf.gather([DECOY, t], 1),
    "picked nd": lambda t: tf.gather_nd([DECOY, t], [1]),
    "where": lambda t: tf.where([False], [DECOY], [t])[0],
    "select": lambda t: R.Select(condition=False, x=DECOY, y=t),
    "sliced": lambda t: tf.slice([DECOY, t], [1], [1])[0],
    "unpacked": lambda t: tf.unstack([DECOY, t])[1],
    "split": lambda t: tf.split([DECOY, t], 2)[1][0],
    "reversed": lambda t: tf.reverse([DECOY, t], [0])[0],
    "concatenated": lambda t: tf.concat([[t], [DECOY]], 0)[0],
    "filled": lambda t: tf.fill([1], t)[0],
    "tiled": lambda t: tf.tile([t], [2])[1],
    "scattered": lambda t: tf.tensor_scatter_nd_update([DECOY], [[0]], [t])[0],
    "stitched": lambda t: tf.dynamic_stitch([[0], [0]], [[DECOY], [t]])[0],
    "decoded": lambda t: tf.io.decode_base64(tf.io.encode_base64(t)),
    "parsed": lambda t: tf.io.parse_tensor(tf.io.serialize_tensor(t), tf.string),
    "csv": lambda t: tf.io.decode_csv(t, [[DECOY]])[0],
    "shape of a constant": lambda t: tf.reshape(tf.expand_dims(tf.constant([t, DECOY])[0], 0), []),
    "loop": loop,
    "branch": lambda t: tf.cond(tf.constant(True), lambda: tf.constant(t) + "", lambda: tf.constant(DECOY)),
    "case": lambda t: tf.switch_case(tf.constant(1), [lambda: tf.constant(DECOY), lambda: tf.constant(t) + ""]),
    "called": called,
    "switched": switched,
    "entered": entered,
    "identities": lambda t: R.IdentityN(input=[DECOY, tf.constant(t) + ""])[1],
    "default": lambda t: R.PlaceholderWithDefault(input=tf.constant(t) + "", shape=[]),
}  # fmt: skip
SOURCES = {**VARIABLES, **HOLDING, **COMPUTED}


# 2. Uses of the name: each gives an op or a tensor that accesses the file.


def cached(name: tf.Tensor) -> tf.Tensor:
    data = tf.data.Dataset.from_tensors(1.0)._variant_tensor
    kept = R.CacheDataset(input_dataset=data, filename=name, output_types=[tf.float32], output_shapes=[[]])
    return R.DatasetToSingleElement(dataset=kept, output_types=[tf.float32], output_shapes=[[]])[0]


def lines(name: tf.Tensor) -> tf.Tensor:
    return tf.data.TextLineDataset(name).reduce(0, lambda n, _: n + 1)


def initialized(name: tf.Tensor) -> tf.Operation:
    handle = R.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name=unique())
    return R.InitializeTableFromTextFileV2(table_handle=handle, filename=name, key_index=-2, value_index=-1)


SINKS = {
    "write": lambda name: R.WriteFile(filename=name, contents="written"),
    "cache": cached,
    "save": lambda name: R.SaveV2(prefix=name, tensor_names=["x"], shape_and_slices=[""], tensors=[1.0]),
    "read": lambda name: R.ReadFile(filename=name),
    "match": lambda name: R.MatchingFiles(pattern=name),
    "lines": lines,
    "table": initialized,
    "restore": lambda name: R.RestoreV2(prefix=name, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])[0],
}
WRITING = {"write", "cache", "save"}


# 3. Places in the graph that call `act`, which uses the name: each gives a number that depends on it.


def after(done: Any) -> tf.Tensor:
    with tf.control_dependencies([done]):
        return tf.constant(0.0)


def after_loop(act: Callable[[], Any]) -> tf.Tensor:
    return tf.while_loop(lambda i, _: i < 1, lambda i, _: (i + 1, after(act())), (0, 0.0))[1]


def in_condition(act: Callable[[], Any]) -> tf.Tensor:
    return tf.while_loop(lambda i, _: after(act()) > i, lambda i, y: (i + 1, y), (0.0, 0.0))[1]


def in_map(change: Callable[[Any, Any], Any]) -> Callable[[Any], tf.Tensor]:
    def reached(act: Callable[[], Any]) -> tf.Tensor:
        data = change(tf.data.Dataset.from_tensors(0.0), lambda *_: after(act()))
        return data.reduce(0.0, lambda _, value: tf.cast(value, tf.float32))

    return reached


def function(act: Callable[[], Any]) -> tf.Tensor:
    return tf.function(lambda: after(act()), autograph=False)()


WAYS = {
    "itself": lambda act: after(act()),
    "function": function,
    "functions": lambda act: function(lambda: function(act)),
    "branch": lambda act: tf.cond(tf.constant(True), lambda: after(act()), lambda: 0.0),
    "case": lambda act: tf.switch_case(tf.constant(1), [lambda: 0.0, lambda: after(act())]),
    "loop": after_loop,
    "condition": in_condition,
    "map": in_map(lambda data, f: data.map(f)),
    "parallel map": in_map(lambda data, f: data.map(f, num_parallel_calls=2)),
    "filter": in_map(lambda data, f: data.filter(lambda x: f(x) > -1.0)),
    "flat map": in_map(lambda data, f: data.flat_map(lambda x: tf.data.Dataset.from_tensors(f(x)))),
    "interleave": in_map(lambda data, f: data.interleave(lambda x: tf.data.Dataset.from_tensors(f(x)))),
    "scan": in_map(lambda data, f: data.scan(0.0, lambda s, x: (s, f(x)))),
    "take while": in_map(lambda data, f: data.take_while(lambda x: f(x) > -1.0)),
    "map_fn": lambda act: tf.map_fn(lambda _: after(act()), tf.constant([0.0]))[0],
    "reduce": lambda act: tf.data.Dataset.range(1).reduce(0.0, lambda *_: after(act())),
}

# Ops that return the name unchanged: keyjoin looks through them, and they do not make a computed name known.
HANDING_ON = (
    tf.identity,
    lambda name: tf.reshape(name, []),
    lambda name: tf.squeeze(tf.expand_dims(name, 0)),
    lambda name: R.IdentityN(input=[name, tf.constant(DECOY)])[0],
    lambda name: R.Snapshot(input=name),
    lambda name: R.PlaceholderWithDefault(input=name, shape=[]),
)


class Made(NamedTuple):
    """A graph, the op that runs, and how the graph was made."""

    graph: tf.Graph
    runs: str
    how: tuple[str, ...]


def make(target: str, source: str, sink: str, way: str, *, inside: bool, passed: Any = tf.identity) -> Made:
    """Makes a graph from x to y in which the op called `runs` accesses the file `target`."""
    with tf.Graph().as_default() as made:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        name = None if inside else SOURCES[source](target)
        reached = WAYS[way](lambda: SINKS[sink](passed(SOURCES[source](target) if name is None else name)))
        tf.identity(x + reached, name="y")
    return Made(made, reached.op.name, (source, sink, way, "inside" if inside else "outside"))


# When the op runs: in the signature, or when the model is loaded.
PLACES = {
    "signature": lambda *_: None,
    "main op": lambda described, op: described.collection_def["saved_model_main_op"].node_list.value.append(op),
    "legacy init op": lambda described, op: described.collection_def["legacy_init_op"].node_list.value.append(op),
    "init signature": lambda described, op: (
        described.signature_def["__saved_model_init_op"]
        .outputs["__saved_model_init_op"]
        .CopyFrom(meta_graph_pb2.TensorInfo(name=op))
    ),
    "restore": lambda described, op: described.saver_def.__setattr__("restore_op_name", op),
    "port": lambda described, op: (
        described.signature_def["s"].outputs["z"].CopyFrom(meta_graph_pb2.TensorInfo(name=f"{op}:0"))
    ),
}


def describe(made: Made, place: str) -> Any:
    described = meta_graph_pb2.MetaGraphDef(graph_def=made.graph.as_graph_def())
    described.signature_def["s"].inputs["x"].name = "x:0"
    described.signature_def["s"].outputs["y"].name = "y:0" if place == "signature" else "x:0"
    PLACES[place](described, made.runs)
    return described


def refused(described: Any, policy: str | None) -> bool:
    try:
        judge("m", find(described, "/m", "s"), policy)
    except UsageError:
        return True
    return False


def test_none_of_a_thousand_graphs_passes() -> None:
    rng = random.Random(19)
    used: set[tuple[str, str]] = set()
    for _ in range(GRAPHS):
        source, sink, way = rng.choice(list(SOURCES)), rng.choice(list(SINKS)), rng.choice(list(WAYS))
        inside = source not in OUTSIDE and rng.random() < 0.5
        made = make("/tmp/never", source, sink, way, inside=inside, passed=rng.choice(HANDING_ON))  # noqa: S108  not run
        place = rng.choice(list(PLACES))
        described = describe(made, place)
        assert refused(described, DENY), (made.how, place)
        assert refused(described, None) == (sink in WRITING), (made.how, place)
        used |= {("source", source), ("sink", sink), ("way", way), ("place", place)}
    assert len(used) == len(SOURCES) + len(SINKS) + len(WAYS) + len(PLACES)


OUTSIDE = {
    "ref",
    "barrier",
    "switched",
    "entered",
    "stack",
    "session tensor",
}  # these do not work in functions, or mean something else there
NOT_RUN = {"session tensor"}


def run(made: Made) -> None:
    with tf.compat.v1.Session(graph=made.graph) as session, contextlib.suppress(tf.errors.OutOfRangeError):
        session.run("y:0", {"x:0": [1.0]})


@pytest.mark.parametrize("source", sorted(SOURCES.keys() - NOT_RUN))
def test_such_a_graph_would_write(source: str, tmp_path: Path) -> None:
    run(make(str(tmp_path / "written"), source, "write", "itself", inside=False))
    assert (tmp_path / "written").read_text() == "written"


@pytest.mark.parametrize("way", WAYS)
def test_it_would_write_from_anywhere(way: str, tmp_path: Path) -> None:
    run(make(str(tmp_path / "written"), "join", "write", way, inside=True))
    assert (tmp_path / "written").read_text() == "written"


@pytest.mark.parametrize("sink", sorted(WRITING))
def test_each_way_to_write_writes(sink: str, tmp_path: Path) -> None:
    run(make(str(tmp_path / "written"), "scatter", sink, "itself", inside=False))
    assert list(tmp_path.iterdir())


class TestEveryOp:
    """Rules that hold for each op of the installed TensorFlow, whether or not a graph above uses it."""

    @staticmethod
    def ops() -> Iterator[Any]:
        registered = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
        yield from op_def_pb2.OpList.FromString(registered).op

    @staticmethod
    def attributes(op: Any) -> str:
        """Sets all type attributes of an op to string."""
        kinds = {"type": f"type: {STRING}", "list(type)": f"list {{ type: {STRING} }}"}
        return " ".join(f'attr {{ key: "{a.name}" value {{ {kinds[a.type]} }} }}' for a in op.attr if a.type in kinds)

    def test_no_op_but_those_that_hand_it_on_makes_a_name_known(self) -> None:
        known = set()
        for op in self.ops():
            made = node("p", op.name, *["c"] * max(1, len(op.input_arg)), attr=self.attributes(op))
            described = graph(node("y", "CacheDataset", "x", "p") + made + const("c", 'string_val: ""'))
            if not refused(described, DENY):
                known.add(op.name)
        assert known == set(PASSING)

    def test_no_op_changes_a_variable_unseen(self) -> None:
        """A variable gets the empty name, and then its handle goes to every op that takes handles and has types."""
        passed = set()
        for op in self.ops():
            takes = any(a.type == RESOURCE for a in op.input_arg)
            if not takes or not any(a.type in ("type", "list(type)") for a in op.attr):
                continue
            described = graph(
                node("y", "CacheDataset", "x", "v", "^o")
                + node("v", "ReadVariableOp", "h", "^o")
                + node("o", op.name, *["h"] * len(op.input_arg), "^a", attr=self.attributes(op))
                + node("a", "AssignVariableOp", "h", "c", attr=f'attr {{ key: "dtype" value {{ type: {STRING} }} }}')
                + node("h", "VarHandleOp")
                + const("c", 'string_val: ""')
            )
            if not refused(described, DENY):
                passed.add(op.name)
        others = "Lookup", "Initialize", "Queue", "Stack", "TensorArray", "Iterator", "MultiDeviceIterator"
        left = {name for name in passed if not name.startswith(others) and "Dataset" not in name}
        assert left == {"ReadVariableOp", "ResourceGather", "ResourceGatherNd"}  # these only read the variable

    def test_types_that_the_caller_gives_are_taken_for_strings(self) -> None:
        scatter = 'attr { key: "dtype" value { placeholder: "T" } }'
        described = graph(node("y", "ResourceScatterUpdate", "h", attr=scatter))
        assert may_change_strings(described.graph_def.node[0])
        types = 'attr { key: "dtype" value { type: 1 } } attr { key: "Tindices" value { type: 3 } }'
        numbers = graph(node("y", "ResourceScatterUpdate", "h", attr=types))
        assert not may_change_strings(numbers.graph_def.node[0])
