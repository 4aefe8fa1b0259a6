"""Reads and writes the protocol buffer of a SavedModel, and adds a key to a signature.

The key is added to the stored graph and not to a loaded model, because only this works for every model
that TensorFlow Serving loads. `tf.saved_model.load` refuses models of Keras 2 that were saved with their
optimizer, and models of TF1 have no functions to call. The bytes of the weights stay the same, and nothing
of the model is executed.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from transforms.errors import UsageError
from transforms.saved_model import model_paths, tags, unsigned
from transforms.saved_model.model import KEY
from transforms.saved_model.signature import fixed_rows

Style = Literal["function", "functional"]

FILES = ("saved_model.pb", "saved_model.pbtxt")
PREDICTION = "prediction"
PREDICTION_WITH_KEY = "prediction_with_key"
# Dtypes whose values float32 holds without rounding.
FLOATS = ("float32", "float16", "bfloat16")
PREDICT_METHOD = "tensorflow/serving/predict"
INIT_OP_SIGNATURE = "__saved_model_init_op"
INIT_OP_COLLECTION = "saved_model_main_op"


def read(folder: str) -> Any:
    """Reads the SavedModel proto of a folder.

    Raises:
        UsageError: The folder is not a SavedModel, or the SavedModel is damaged.
    """
    from google.protobuf import message, text_format
    from tensorflow.core.protobuf import saved_model_pb2

    found = [name for name in FILES if os.path.isfile(os.path.join(folder, name))]
    if not found:
        raise UsageError(model_paths.refusal(folder))
    path, saved = os.path.join(folder, found[0]), saved_model_pb2.SavedModel()
    try:
        with open(path, "rb") as file:
            content = file.read()
        if path.endswith(".pb"):
            saved.ParseFromString(content)
        else:
            text_format.Parse(content.decode(), saved)
    except (OSError, UnicodeDecodeError, message.DecodeError, text_format.ParseError) as error:
        raise UsageError(f"{path} cannot be read: {error}; export the model again") from error
    return saved


def write(saved: Any, folder: str) -> None:
    """Writes the proto into a folder and replaces the one there. The same proto always gives the same bytes."""
    for name in FILES:
        if os.path.exists(path := os.path.join(folder, name)):
            os.unlink(path)
    with open(os.path.join(folder, FILES[0]), "wb") as file:
        file.write(saved.SerializeToString(deterministic=True))


def add_key(saved: Any, model: str, signature: str, style: Style) -> Any:
    """Adds a key to a signature of the proto, in place. The other signatures stay unchanged.

    Args:
        saved: The SavedModel proto.
        model: The path of the model, for messages.
        signature: The name of the signature.
        style: How the model returns the key: `function` as a separate output, `functional` as the last column.

    Returns:
        The SignatureDef with the key.

    Raises:
        UsageError: The signature does not exist, it already has a key, or its outputs do not fit the style.
    """
    graph = serving_graph(saved, model)
    definition = find_signature(graph, model, signature)
    if style == "functional":
        prediction = _single_prediction(definition, model)
        nodes, key, echo = _concat_key(prediction, _free_scope(graph.graph_def.node))
        outputs = {PREDICTION_WITH_KEY: echo}
    else:
        nodes, key, echo = _pass_key(_free_scope(graph.graph_def.node))
        outputs = _outputs_beside_key(definition, model) | {KEY: echo}
    graph.graph_def.node.extend(nodes)
    definition.inputs[KEY].CopyFrom(key)
    _replace(definition.outputs, outputs)
    # A classification or regression signature has prescribed outputs. With the key, the outputs differ from these.
    definition.method_name = PREDICT_METHOD
    _hide_objects(graph)
    return definition


def serving_graph(saved: Any, model: str) -> Any:
    """Returns the graph that TensorFlow Serving picks: the one whose only tag is `serve`."""
    found = tags.of(saved)
    if [tags.SERVE] not in found:
        raise UsageError(tags.refusal(model, found))
    return saved.meta_graphs[found.index([tags.SERVE])]


def find_signature(graph: Any, model: str, signature: str) -> Any:
    """Returns the SignatureDef that the key can be added to.

    Args:
        graph: The MetaGraphDef proto.
        model: The path of the model, for messages.
        signature: The name of the signature.

    Raises:
        UsageError: The signature does not exist, it already has a key, or it fixes its batch to several rows.
    """
    unsigned.check(graph, model, signature)
    definition = graph.signature_def[signature]
    if KEY in definition.inputs:
        raise UsageError(f"{model} is keyed already: {signature} has an input {KEY}; use the model as it is")
    rows = fixed_rows(definition)
    if rows not in (None, 1):
        raise UsageError(
            f"{model} takes {rows} rows a call, and keyjoin would fill up a call with copies of a row and of its key; "
            "use the model as it is, without a key, or export it with a free batch dimension"
        )
    return definition


def _outputs_beside_key(definition: Any, model: str) -> dict[str, Any]:
    """Returns the model's own outputs. A single output is renamed to `prediction`; several outputs keep their names."""
    outputs = _copies(definition.outputs)
    if len(outputs) == 1:
        return {PREDICTION: outputs.popitem()[1]}
    if KEY in outputs:
        raise UsageError(f"{model} has an output {KEY} of its own; export it with another name for that output")
    return outputs


def _single_prediction(definition: Any, model: str) -> Any:
    """Returns the single output that the key can become a column of."""
    import tensorflow as tf

    names = sorted(definition.outputs)
    first = definition.outputs[names[0]]
    shape = tf.TensorShape(first.tensor_shape)
    dtype = tf.dtypes.as_dtype(first.dtype).name
    if len(names) > 1:
        cause = f"it has {len(names)} ({', '.join(names)})"
    elif first.WhichOneof("encoding") != "name":
        cause = f"{names[0]} is sparse or ragged"
    elif dtype not in FLOATS:
        cause = f"{names[0]} is {dtype}"
    elif shape.rank not in (1, 2):
        cause = f"{names[0]} has the shape {shape}"
    else:
        return first
    raise UsageError(
        f"{model}: the key can become a column only of a single output that is a float32 vector or matrix, "
        f"but {cause}; use --style function"
    )


def _pass_key(scope: str) -> tuple[list[Any], Any, Any]:
    """Makes the tutorial's `add_key`: the nodes, the key's input and the key's output.

    The output is a separate node, because a session cannot fetch a tensor that it is fed.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as graph, tf.name_scope(scope):
        key = tf.compat.v1.placeholder(tf.int32, [None], KEY)
        echo = tf.identity(key, "echo")
    return list(graph.as_graph_def().node), _tensor_info(key), _tensor_info(echo)


def _concat_key(prediction: Any, scope: str) -> tuple[list[Any], Any, Any]:
    """Makes the tutorial's wrapper model: the nodes, the key's input, and the output with prediction and key."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph, tf.name_scope(scope):
        key = tf.compat.v1.placeholder(tf.int32, [None], KEY)
        shape = tf.TensorShape(prediction.tensor_shape)
        stand_in = tf.compat.v1.placeholder(prediction.dtype, shape, PREDICTION)
        matrix = tf.reshape(stand_in, [-1, 1]) if shape.rank == 1 else stand_in
        column = tf.cast(tf.reshape(key, [-1, 1]), tf.float32)
        both = tf.concat([tf.cast(matrix, tf.float32), column], axis=1, name=PREDICTION_WITH_KEY)
    nodes = [node for node in graph.as_graph_def().node if node.name != stand_in.op.name]
    for node in nodes:
        node.input[:] = [prediction.name if name == stand_in.op.name else name for name in node.input]
    return nodes, _tensor_info(key), _tensor_info(both)


def _tensor_info(tensor: Any) -> Any:
    from tensorflow.core.protobuf import meta_graph_pb2

    return meta_graph_pb2.TensorInfo(
        name=tensor.name, dtype=tensor.dtype.as_datatype_enum, tensor_shape=tensor.shape.as_proto()
    )


def _free_scope(nodes: Iterable[Any]) -> str:
    """Returns a name scope that no node is in."""
    taken = {node.name.partition("/")[0] for node in nodes}
    return next(scope for n in range(len(taken) + 1) if (scope := f"keyjoin_{n}") not in taken)


def _replace(outputs: Any, by: Mapping[str, Any]) -> None:
    outputs.clear()
    for name, info in by.items():
        outputs[name].CopyFrom(info)


def _copies(infos: Any) -> dict[str, Any]:
    """Copies the messages of a proto's map. The messages in the map become invalid when the map is cleared."""
    return {name: type(info).FromString(info.SerializeToString()) for name, info in infos.items()}


def _hide_objects(graph: Any) -> None:
    """Makes `tf.saved_model.load` read the graph, which has the key, and not the objects, which do not.

    The loader then treats every signature as a function of its inputs. This is wrong for the signature with
    the op that initializes tables, if a vocabulary file feeds the op. So the signature is removed, and the op
    goes to the collection, where all of TensorFlow's loaders look for it next.
    """
    graph.ClearField("object_graph_def")
    if INIT_OP_SIGNATURE in graph.signature_def:
        op = graph.signature_def[INIT_OP_SIGNATURE].outputs[INIT_OP_SIGNATURE].name
        del graph.signature_def[INIT_OP_SIGNATURE]
        graph.collection_def[INIT_OP_COLLECTION].node_list.value[:] = [op]
