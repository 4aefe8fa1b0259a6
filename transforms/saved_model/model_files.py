"""Identifies the format of a model file that is no SavedModel, and says how to convert it.

It uses the name of the file and its first bytes.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from typing import NamedTuple

HDF5 = b"\x89HDF\r\n\x1a\n"  # https://docs.hdfgroup.org/hdf5/develop/_f_m_t3.html, "Disk Format: Level 0A"
# At byte 4: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/compiler/mlir/lite/schema/schema.fbs.
TFLITE = b"TFL3"
BEGINNING = 1 << 16  # bytes that are read from the start of a file
SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
PACKED = {".tar.gz": "tar -xzf", ".tgz": "tar -xzf", ".tar": "tar -xf", ".zip": "unzip"}
CONVERT_H5 = "import keras; keras.models.load_model({file}, compile=False).export({new})"
_V1 = "import tensorflow as tf; v1 = tf.compat.v1; v1.disable_eager_execution(); "
_SAVE_V1 = (
    "t = s.graph.get_tensor_by_name; "
    'v1.saved_model.simple_save(s, {new}, {{"x": t("INPUT:0")}}, {{"y": t("OUTPUT:0")}})'
)
CONVERT_GRAPH = (
    f'{_V1}v1.import_graph_def(v1.GraphDef.FromString(open({{file}}, "rb").read()), name=""); '
    f"s = v1.Session(); {_SAVE_V1}"
)
CONVERT_CHECKPOINT = (
    f'{_V1}r = v1.train.import_meta_graph({{file}} + ".meta", clear_devices=True); s = v1.Session(); '
    f"r.restore(s, {{file}}); {_SAVE_V1}"
)


class Foreign(NamedTuple):
    """A format of model files that no release of TensorFlow reads.

    Attributes:
        what: The name of the format, with an article.
        way: How to convert the file to a SavedModel, or what else can score it.
    """

    what: str
    way: str


_NO_WAY = "nothing well known makes a SavedModel of it, and keyjoin scores SavedModels; Beam's {} scores it"
_BACK = "nothing well known makes a SavedModel of it; give the model that it was converted from"
_WEIGHTS = Foreign("a file of weights", "load them into the model's own code, and save that as a SavedModel")
_TORCH = Foreign(
    "a PyTorch model",
    "nothing well known makes a SavedModel of it directly; export it to ONNX with torch.onnx.export, and convert that "
    "with onnx2tf (https://github.com/PINTO0309/onnx2tf), or score it with Beam's PytorchModelHandlerTensor",
)
_PICKLE = Foreign("a pickled Python object, as of scikit-learn", _NO_WAY.format("SklearnModelHandlerNumpy"))
_XGBOOST = Foreign("an XGBoost model", _NO_WAY.format("XGBoostModelHandlerNumpy"))
BY_SUFFIX = {
    ".onnx": Foreign("an ONNX model", "convert it with onnx2tf (https://github.com/PINTO0309/onnx2tf)"),
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".safetensors": _WEIGHTS,
    ".gguf": _WEIGHTS,
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".joblib": _PICKLE,
    ".pmml": Foreign("a PMML model", "nothing well known makes a SavedModel of it, and keyjoin scores SavedModels"),
    ".bst": _XGBOOST,
    ".ubj": _XGBOOST,
    ".cbm": Foreign("a CatBoost model", "nothing well known makes a SavedModel of it, and keyjoin scores SavedModels"),
    ".mlmodel": Foreign("a Core ML model", _BACK),
    ".tflite": Foreign("a TensorFlow Lite model", _BACK),
}
# Suffix -> pattern of a text near the start of the file -> its format.
BY_TEXT = {
    ".json": {
        rb'"(learner|version)"\s*:': _XGBOOST,  # https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
        rb'"modelTopology"\s*:': Foreign("a TensorFlow.js model", _BACK),
        rb'"class_name"\s*:': Foreign(
            "the layers of a Keras model, without weights",
            "make the model with keras.models.model_from_json, load its weights, and call model.export",
        ),
    },
    ".txt": {
        rb"^tree\nversion=": Foreign(
            "a LightGBM model", "nothing well known makes a SavedModel of it, and keyjoin scores SavedModels"
        )
    },
}


def describe(path: str) -> str | None:
    """Describes what a file is, and how to make a SavedModel of it, as a part of a message.

    Args:
        path: A file on this machine.

    Returns:
        The part of the message; None if the format is unknown.

    Raises:
        OSError: The file cannot be read.
    """
    name, beginning = os.path.basename(path).lower(), _begins(path)
    root, suffix = os.path.splitext(path)
    new, suffix = beside(root, "-saved"), suffix.lower()
    if name.endswith(".weights.h5"):
        return (
            "it holds weights and no layers; build the model with its own code, call model.load_weights"
            f"({json.dumps(path)}) and model.export({json.dumps(new)})"
        )
    if suffix in (".h5", ".hdf5") or beginning.startswith(HDF5):
        return (
            f"it is a Keras model in HDF5; convert it: {python(CONVERT_H5, path, new)} and give "
            f"--model {shlex.quote(new)} (where Keras 3 cannot read it: pip install tf_keras, and write tf_keras for "
            "keras)"
        )
    if (prefix := checkpoint_prefix(path)) is not None:
        return describe_checkpoint(prefix)
    if suffix == ".pb":
        return _of_graph(path, new)
    for end, command in PACKED.items():
        if name.endswith(end):
            return f"it is an archive; unpack it: {command} {shlex.quote(path)} and give the folder that it holds"
    found = BY_SUFFIX[".tflite"] if beginning[4:].startswith(TFLITE) else BY_SUFFIX.get(suffix)
    texts = BY_TEXT.get(suffix, {})
    found = found or next((kind for text, kind in texts.items() if re.search(text, beginning)), None)
    return None if found is None else f"it is {found.what}; {found.way}"


def _of_graph(path: str, new: str) -> str | None:
    """Returns whether a protocol buffer is a SavedModel or a frozen graph; None if it is neither.

    The bytes of one may also parse as the other. So it checks a field that each of them always has.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    def parsed(parse: Callable[[bytes], object]) -> object:
        try:
            return parse(content)
        except DecodeError:
            return None

    with open(path, "rb") as file:
        content = file.read()
    if getattr(parsed(SavedModel.FromString), "saved_model_schema_version", 0):
        folder = os.path.dirname(path)
        put = f"cp {shlex.quote(path)} {shlex.quote(os.path.join(folder, SAVED_MODEL[0]))}"
        return (
            "it is the graph of a SavedModel under another name; give it its own name, beside its folder variables: "
            f"{put} and give --model {shlex.quote(folder or os.curdir)}"
        )
    if getattr(parsed(GraphDef.FromString), "node", ()):
        return (
            "it is a frozen graph; convert it, with the names of its tensors for INPUT and OUTPUT: "
            f"{python(CONVERT_GRAPH, path, new)} and give --model {shlex.quote(new)}"
        )
    return None


def checkpoint_prefix(path: str) -> str | None:
    """Returns the name that all files of a checkpoint begin with; None if the path belongs to no checkpoint.

    >>> checkpoint_prefix("m/model.ckpt-7.data-00000-of-00001"), checkpoint_prefix("m/x.index")
    ('m/model.ckpt-7', 'm/x')
    """
    found = re.fullmatch(r"(.+)\.(index|meta|data-\d{5}-of-\d{5})", path, re.DOTALL)
    if found:
        return found[1]
    if os.path.basename(path) == "checkpoint":
        return newest_checkpoint(os.path.dirname(path))
    return path if os.path.exists(f"{path}.index") else None


def newest_checkpoint(folder: str) -> str | None:
    """Returns the prefix of the newest checkpoint in a folder; None if the folder has none."""
    with os.scandir(folder or os.curdir) as entries:
        found = [(entry.stat().st_mtime_ns, entry.name) for entry in entries if entry.name.endswith(".index")]
    return os.path.join(folder, max(found)[1].removesuffix(".index")) if found else None


def describe_checkpoint(prefix: str) -> str:
    """Describes what kind of checkpoint it is, and how to make a SavedModel of it, as a part of a message.

    Args:
        prefix: The name that all files of the checkpoint begin with.
    """
    new = beside(prefix, "-saved")
    if os.path.exists(f"{prefix}.meta"):
        return (
            "it is a checkpoint of TensorFlow 1; convert it, with the names of its tensors for INPUT and OUTPUT: "
            f"{python(CONVERT_CHECKPOINT, prefix, new)} and give --model {shlex.quote(new)}"
        )
    return (
        "it is a checkpoint, which holds weights and no graph; build the model with its own code, call "
        f"tf.train.Checkpoint(model).restore({json.dumps(prefix)}).assert_existing_objects_matched(), with model=model "
        f"where it was saved so, and save it: model.export({json.dumps(new)}) for a Keras model, or "
        f"tf.saved_model.save(model, {json.dumps(new)})"
    )


def python(code: str, path: str, new: str, **more: str) -> str:
    """Makes a shell command that runs Python code with this interpreter.

    Args:
        code: The code, a template for `str.format` with the fields `file` and `new`.
        path: The path that the code reads, for `file`.
        new: The path that the code writes, for `new`.
        more: The values of other fields.
    """
    file, new = (json.dumps(text, ensure_ascii=False) for text in (path, new))
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code.format(file=file, new=new, **more))}"


def beside(path: str, end: str) -> str:
    """Makes a new path in the folder of another path.

    >>> beside("m/", "-saved")
    'm-saved'
    """
    return path.rstrip("/") + end


def _begins(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(BEGINNING)
