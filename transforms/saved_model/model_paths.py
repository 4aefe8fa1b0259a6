"""Says why a path is no SavedModel, and what to do about it: one message for each kind of model file."""

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence

SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
ANY = "give the folder that holds saved_model.pb, or a .keras file"
HDF5 = b"\x89HDF\r\n\x1a\n"  # https://docs.hdfgroup.org/hdf5/develop/_f_m_t3.html, "Disk Format: Level 0A"
OTHERS = {
    ".onnx": "an ONNX model",
    ".pt": "a PyTorch model",
    ".pth": "a PyTorch model",
    ".safetensors": "a file of weights",
    ".pkl": "a pickled Python object",
    ".joblib": "a pickled Python object",
}
PACKED = {".tar.gz": "tar -xzf", ".tgz": "tar -xzf", ".tar": "tar -xf", ".zip": "unzip"}
CONVERT_H5 = "import keras; keras.models.load_model({file}, compile=False).export({new})"
CONVERT_GRAPH = (
    "import tensorflow as tf; v1 = tf.compat.v1; v1.disable_eager_execution(); "
    'v1.import_graph_def(v1.GraphDef.FromString(open({file}, "rb").read()), name=""); '
    "s = v1.Session(); t = s.graph.get_tensor_by_name; "
    'v1.saved_model.simple_save(s, {new}, {{"x": t("INPUT:0")}}, {{"y": t("OUTPUT:0")}})'
)


def is_saved_model(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names is a SavedModel."""
    return not set(SAVED_MODEL).isdisjoint(names)


def newest(names: Iterable[str]) -> str | None:
    """The name of the newest version, as TensorFlow Serving numbers the folders of a model; None if there is none.

    Source: https://www.tensorflow.org/tfx/serving/serving_config, "Serving a Specific Version of a Model".

    Args:
        names: Of the folders below that hold a SavedModel.

    >>> newest(["9", "0010", "a"]), newest(["a"])
    ('0010', None)
    """
    versions = [name for name in names if name.isascii() and name.isdigit()]
    return max(versions, key=lambda name: (int(name), name), default=None)


def refusal(path: str) -> str:
    """Why a path on this machine is no SavedModel, and a command that makes one of it where there is one.

    Args:
        path: What was given as a model, which is none.
    """
    if not os.path.exists(path):
        return f"no model at {path}; {ANY}"
    if os.path.isdir(path):
        return f"{path} is not a SavedModel: {_of_folder(path, sorted(os.listdir(path)))}"
    return f"{path} is not a SavedModel: {_of_file(path)}"


def _of_folder(path: str, names: Sequence[str]) -> str:
    if any(name == "checkpoint" or name.endswith(".index") for name in names):
        return (
            "it is a checkpoint, which holds weights and no graph; load it into the model's own code, and save that: "
            f"tf.saved_model.save(model, {_beside(path, '-saved')!r})"
        )
    inside = [name for name in names if os.path.isfile(os.path.join(path, name, SAVED_MODEL[0]))]
    if inside:
        return f"it has no saved_model.pb; give one of the folders in it, such as {os.path.join(path, inside[-1])}"
    single = next((name for name in names if name.endswith((".keras", ".h5"))), None)
    return f"it has no saved_model.pb; {f'give {os.path.join(path, single)}' if single else ANY}"


def _of_file(path: str) -> str:
    name = os.path.basename(path).lower()
    new = _beside(path[: -len(os.path.splitext(path)[1]) or None], "-saved")
    if name in SAVED_MODEL:
        return f"it is a file of one; give its folder, {os.path.dirname(path) or os.curdir}"
    if name.endswith(".weights.h5"):
        return (
            "it holds weights and no layers; build the model with its own code, call model.load_weights "
            f"({path!r}) and model.export({new!r})"
        )
    if name.endswith((".h5", ".hdf5")) or _begins(path, HDF5):
        return (
            f"it is a Keras model in HDF5; convert it: {_python(CONVERT_H5, path, new)} and give --model {new} "
            "(where Keras 3 cannot read it: pip install tf_keras, and write tf_keras for keras)"
        )
    if name.endswith(".tflite") or _begins(path, b"TFL3", at=4):
        return "it is a TensorFlow Lite model; give the SavedModel that it was converted from"
    if name.endswith((".index", ".meta")) or ".data-" in name:
        return "it is a part of a checkpoint, which holds weights; load it into the model's own code, and save that"
    if name.endswith(".pb"):
        return (
            f"it is a frozen graph; convert it, with the names of its tensors for INPUT and OUTPUT: "
            f"{_python(CONVERT_GRAPH, path, new)} and give --model {new}"
        )
    for suffix, command in PACKED.items():
        if name.endswith(suffix):
            return f"it is an archive; unpack it: {command} {shlex.quote(path)} and give the folder that comes of it"
    other = OTHERS.get(os.path.splitext(name)[1])
    return f"it is {other}, and keyjoin scores TensorFlow models; export it to a SavedModel" if other else ANY


def _python(code: str, path: str, new: str) -> str:
    file, new = (json.dumps(text, ensure_ascii=False) for text in (path, new))
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code.format(file=file, new=new))}"


def _beside(path: str, end: str) -> str:
    return path.rstrip("/") + end


def _begins(path: str, magic: bytes, at: int = 0) -> bool:
    with open(path, "rb") as file:
        return file.read(at + len(magic))[at:] == magic


def unsigned(folder: str) -> str:
    """What to do about a SavedModel without signatures."""
    return (
        f"{folder} was saved without signatures; save it again with one: tf.saved_model.save(module, "
        f"{_beside(folder, '-signed')!r}, signatures=module.call.get_concrete_function("
        "tf.TensorSpec([None, 3], tf.float32, name='x'))), or model.export(…) for a Keras model"
    )
