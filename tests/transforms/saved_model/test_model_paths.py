"""Paths that are not a SavedModel: the error for each kind of model file suggests a command, which works if pasted."""

import errno
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tests.conftest import Result
from tests.support import models
from transforms.saved_model import model_files, model_paths

v1 = tf.compat.v1

V1 = tf.compat.v1
FILES = {
    "m.tflite": ("a TensorFlow Lite model", b""),
    "lite": ("a TensorFlow Lite model", b"\x20\0\0\0TFL3"),
    "m.weights.h5": ("holds weights and no layers", model_files.HDF5),
    "m.hdf5": ("a Keras model in HDF5; convert it: ", model_files.HDF5),
    "no_suffix": ("a Keras model in HDF5; convert it: ", model_files.HDF5),
    "m.pb": ("give the folder that holds saved_model.pb, or a .keras file", b""),
    "m.tar.gz": ("an archive; unpack it: tar -xzf ", b""),
    "m.zip": ("an archive; unpack it: unzip ", b""),
    "m.onnx": ("an ONNX model; convert it with onnx2tf", b""),
    "m.PT": ("a PyTorch model; nothing well known makes a SavedModel of it directly; export it to ONNX", b""),
    "m.pth": ("Beam's PytorchModelHandlerTensor", b""),
    "m.safetensors": ("a file of weights; load them into the model's own code", b""),
    "m.joblib": ("a pickled Python object, as of scikit-learn; nothing well known", b""),
    "m.pkl": ("Beam's SklearnModelHandlerNumpy scores it", b""),
    "m.pmml": ("a PMML model; nothing well known", b"<PMML>"),
    "m.bst": ("an XGBoost model; nothing well known", b""),
    "m.ubj": ("Beam's XGBoostModelHandlerNumpy scores it", b""),
    "m.json": ("an XGBoost model", b'{"learner":{"attributes":{}},"version":[3,0,0]}'),
    "layers.json": ("the layers of a Keras model, without weights", b'{"module": "keras", "class_name": "Sequential"}'),
    "js.json": ("a TensorFlow.js model; nothing well known", b'{"format": "x", "modelTopology": {"class_name": ""}}'),
    "other.json": ("give the folder that holds saved_model.pb, or a .keras file", b'{"a": 1}'),
    "m.mlmodel": ("a Core ML model; nothing well known", b""),
    "m.cbm": ("a CatBoost model; nothing well known", b""),
    "tree.txt": ("a LightGBM model; nothing well known", b"tree\nversion=v4\n"),
    "m.ckpt.index": ("a checkpoint, which holds weights and no graph", b""),
    "m.ckpt.data-00000-of-00001": ("a checkpoint, which holds weights and no graph", b""),
    "m.ckpt.meta": ("a checkpoint of TensorFlow 1; convert it", b""),
    "m.txt": ("give the folder that holds saved_model.pb, or a .keras file", b"x"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_gets_its_remedy(keyjoin: Callable[..., Result], tmp_path: Path, name: str) -> None:
    said, content = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    done = keyjoin("inspect", f"--model={path}")
    assert (done.code, f"{path} is not a SavedModel: " in done.err, said in done.err) == (2, True, True), done.err
    if path.suffix != ".keras" and "give the folder" not in said:
        above = keyjoin("inspect", f"--model={tmp_path}")  # the folder, which holds only this file
        assert (above.code, said in above.err) == (2, True), above.err


@pytest.mark.parametrize("command", ["check", "wrap", "predict"])
def test_every_command_gives_the_remedy(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, command: str
) -> None:
    (tmp_path / "m.onnx").touch()
    request = tmp_path / "request.json"
    request.write_text('{"instances": [1]}')
    flags = {
        "check": (f"--input={lines({'x': 1})}",),
        "wrap": (f"--output={tmp_path / 'new'}",),
        "predict": (f"--instances={request}",),
    }
    done = keyjoin(command, f"--model={tmp_path / 'm.onnx'}", *flags[command])
    assert (done.code, "it is an ONNX model" in done.err) == (2, True), done.err


FOLDERS = {
    "a checkpoint": (["checkpoint", "ckpt-1.index"], "it is a checkpoint, which holds weights and no graph"),
    "a folder of models": (["a/saved_model.pb", "b/saved_model.pb"], "give one of the folders in it, such as "),
    "of MLflow": (["MLmodel", "data/model/saved_model.pb"], "/m/data/model"),
    "a .keras file in it": (["m.keras"], "m.keras"),
    "a .keras file and others": (["a.onnx", "m.keras"], "give "),
    "other files": (["README.md", "requirements.txt"], "give the folder that holds saved_model.pb, or a .keras file"),
    "empty": ([], "give the folder that holds saved_model.pb, or a .keras file"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_of_another_kind_gets_its_remedy(keyjoin: Callable[..., Result], tmp_path: Path, case: str) -> None:
    names, said = FOLDERS[case]
    folder = tmp_path / "m"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    done = keyjoin("inspect", f"--model={folder}")
    assert (done.code, said in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    "part", ["variables", "variables/", "assets", "saved_model.pb", "fingerprint.pb", "variables/variables.index"]
)
def test_a_part_of_a_saved_model_leads_to_all_of_it(
    keyjoin: Callable[..., Result], model: Any, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    whole = model(models.plain)
    done = keyjoin("inspect", f"--model={whole}/{part}")
    assert (done.code, done.err) == (
        2,
        f"keyjoin: error: {whole}/{part} is a part of a SavedModel; give all of it: --model {whole}\n",
    )
    monkeypatch.chdir(whole)
    assert keyjoin("inspect", f"--model={part}").err.endswith("give all of it: --model .\n")


def test_what_lies_in_the_folder_of_a_saved_model_is_no_part_of_it(
    keyjoin: Callable[..., Result], tmp_path: Path
) -> None:
    folder = models.plain(tmp_path / "m")
    Path(folder, "other.onnx").touch()
    assert "it is an ONNX model" in keyjoin("inspect", f"--model={folder}/other.onnx").err


def test_a_pipe_is_no_model_and_is_not_waited_for(keyjoin: Callable[..., Result], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m")
    done = keyjoin("inspect", f"--model={tmp_path / 'm'}")
    assert (done.code, "is neither a file nor a folder" in done.err) == (2, True), done.err


def test_what_cannot_be_read_is_refused(
    keyjoin: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(path: str) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    (tmp_path / "m").touch()
    monkeypatch.setattr(model_files, "describe", no)
    done = keyjoin("inspect", f"--model={tmp_path / 'm'}")
    assert (done.code, "cannot be read: " in done.err, "permission" in done.err) == (2, True, True), done.err


def pasted(message: str) -> None:
    """Runs the command in a message. Runs Python code in this process, which has TensorFlow, unless that harms it."""
    command = re.search(
        r"(?:convert it.*?|pack it again|save it with one of them|give one of them the tag|variables): (.*) and give --",
        message,
    )
    assert command, message
    words = shlex.split(command[1])
    if words[:2] == [sys.executable, "-c"] and "disable_eager" not in words[2]:
        exec(words[2], {})  # noqa: S102  what the user is to paste
    else:
        subprocess.run(words, check=True, capture_output=True)


def test_the_command_that_converts_hdf5_works(keyjoin: Callable[..., Result], lines: Any, tmp_path: Path) -> None:
    path = tmp_path / "it's.h5"
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.save(path)
    pasted(keyjoin("inspect", f"--model={path}").err)
    done = keyjoin("run", f"--input={lines({'x': [2.0]})}", "--model=" + str(tmp_path / "it's-saved"))
    assert [list(row.values())[1] for row in done.rows()] == [[2.0]]


def test_the_command_that_converts_a_frozen_graph_works(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path
) -> None:
    with V1.Graph().as_default() as graph:
        V1.identity(V1.placeholder(tf.float32, [None], "INPUT") * 3.0, "OUTPUT")
    path = tmp_path / "frozen.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    pasted(keyjoin("inspect", f"--model={path}").err)
    done = keyjoin("run", f"--input={lines({'x': 2.0})}", f"--model={tmp_path / 'frozen-saved'}")
    assert [row["y"] for row in done.rows()] == [6.0]


def linear(weight: float) -> keras.Model:
    """Makes a model that multiplies a value by the weight."""
    return keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(weight))]
    )


def predicted(model: Any) -> float:
    """Returns the prediction for 2."""
    return float(np.squeeze(model(np.array([[2.0]], np.float32))))


@pytest.mark.parametrize("name", ["m", "it's.keras"])
def test_the_command_that_packs_a_keras_file_again_works(
    keyjoin: Callable[..., Result], tmp_path: Path, name: str
) -> None:
    linear(3.0).save(tmp_path / "whole.keras")
    zipfile.ZipFile(tmp_path / "whole.keras").extractall(tmp_path / name)
    done = keyjoin("inspect", f"--model={tmp_path / name}")
    assert (done.code, "it is a .keras file that was unpacked" in done.err) == (2, True), done.err
    pasted(done.err)
    packed = tmp_path / f"{name.removesuffix('.keras')}-packed.keras"
    assert predicted(keras.models.load_model(packed)) == 6.0


@pytest.mark.parametrize("given", ["m.weights.h5", "."])
def test_what_is_to_be_called_for_weights_works(keyjoin: Callable[..., Result], tmp_path: Path, given: str) -> None:
    linear(3.0).save_weights(tmp_path / "m.weights.h5")
    err = keyjoin("inspect", f"--model={tmp_path / given}").err
    model = linear(0.0)
    for call in re.findall(r"model\.\w+\(.*?\)", err):
        exec(call, {"model": model})  # noqa: S102  what the user is to paste
    assert predicted(tf.saved_model.load(str(tmp_path / "m.weights-saved")).serve) == 6.0


@pytest.mark.parametrize("given", ["", "checkpoint", "ckpt-1", "ckpt-1.index", "ckpt-1.data-00000-of-00001"])
def test_what_is_to_be_called_for_a_checkpoint_works(
    keyjoin: Callable[..., Result], tmp_path: Path, given: str
) -> None:
    folder = tmp_path / "c"
    tf.train.Checkpoint(linear(3.0)).save(str(folder / "ckpt"))
    done = keyjoin("inspect", f"--model={folder / given}")
    restore = re.search(r"tf\.train\.Checkpoint\(model\)\S+\(\)", done.err)
    assert (done.code, restore is not None) == (2, True), done.err
    model = linear(0.0)
    assert restore
    exec(restore[0], {"model": model, "tf": tf})  # noqa: S102  what the user is to paste
    assert predicted(model) == 6.0


def test_the_command_that_converts_a_checkpoint_of_tensorflow_1_works(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    with V1.Graph().as_default(), V1.Session() as session:
        x = V1.placeholder(tf.float32, [None], "INPUT")
        V1.identity(x * V1.get_variable("w", initializer=3.0, use_resource=False), "OUTPUT")
        session.run(V1.global_variables_initializer())
        V1.train.Saver().save(session, str(folder / "model.ckpt"))
    said = [
        keyjoin("inspect", f"--model={folder / given}").err.partition("it is a checkpoint")[2]
        for given in ("", "checkpoint", "model.ckpt", "model.ckpt.meta", "model.ckpt.index")
    ]
    assert len(set(said)) == 1
    pasted(said[0])
    done = keyjoin("run", f"--input={lines({'x': 2.0})}", f"--model={folder / 'model.ckpt-saved'}")
    assert [row["y"] for row in done.rows()] == [6.0]


def test_a_saved_model_of_another_name_is_no_frozen_graph(keyjoin: Callable[..., Result], tmp_path: Path) -> None:
    folder = Path(models.plain(tmp_path / "m"))
    path = (folder / "saved_model.pb").rename(folder / "my model.pb")
    done = keyjoin("inspect", f"--model={path}")
    assert (done.code, "it is the graph of a SavedModel under another name" in done.err) == (2, True), done.err
    pasted(done.err)
    assert keyjoin("inspect", f"--model={folder}").code == 0


@given(
    nodes=st.lists(st.sampled_from(["Const", "Add"]), max_size=3),
    functions=st.integers(0, 2),
    producer=st.integers(0, 3),
    graphs=st.integers(0, 2),
)
def test_saved_models_and_graphs_are_distinguished(
    tmp_path_factory: pytest.TempPathFactory, nodes: list[str], functions: int, producer: int, graphs: int
) -> None:
    graph = graph_pb2.GraphDef()
    for number, op in enumerate(nodes):
        graph.node.add(name=f"n{number}", op=op)
    for number in range(functions):
        graph.library.function.add().signature.name = f"f{number}"
    graph.versions.producer = producer
    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    for _ in range(graphs):
        saved.meta_graphs.add().graph_def.CopyFrom(graph)
    path = tmp_path_factory.getbasetemp() / "some.pb"
    path.write_bytes(graph.SerializeToString())
    assert ("a frozen graph" in str(model_files.describe(str(path)))) == bool(nodes)
    path.write_bytes(saved.SerializeToString())
    assert "the graph of a SavedModel" in str(model_files.describe(str(path)))


@given(names=st.lists(st.text("0123456789a", min_size=1, max_size=4)))
def test_the_newest_version_is_that_of_the_largest_number(names: list[str]) -> None:
    numbers = [int(name) for name in names if "a" not in name]
    found = model_paths.newest(names)
    assert (None if found is None else int(found)) == max(numbers, default=None)
    assert found is None or found in names


def test_a_folder_of_versions_takes_the_newest_and_reports_it(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path
) -> None:
    for version, factor in (("9", 9.0), ("0010", 10.0)):
        models.save(tmp_path / "m" / version, lambda x, factor=factor: {"y": x * factor}, models.spec("x"))
    (tmp_path / "m" / "11").mkdir()  # a version that is still being written
    flags = (f"--input={lines({'x': 1.0})}", f"--model={tmp_path / 'm'}")
    done = keyjoin("run", *flags)
    assert [row["y"] for row in done.rows()] == [10.0]
    newest = tmp_path / "m" / "0010"
    assert f"holds versions of a model; the newest is used, {newest}\n" in done.err
    assert done.manifest()["model"]["path"] == str(newest)
    for command, more in (("inspect", ()), ("check", flags[:1]), ("wrap", (f"--output={tmp_path / 'new'}",))):
        assert str(newest) in keyjoin(command, flags[1], *more).err
    assert keyjoin("verify", f"--run={done.output}", "--rescore=1", f"--model={tmp_path / 'm'}").code == 0


class Unsigned(tf.Module):
    """Functions of many kinds, none of which is a signature."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(3.0)

    @tf.function
    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return x * (0.0 if training else self.w)

    @tf.function
    def predict(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"y": batch["a"] * self.w + batch["b"]}

    @tf.function
    def keyword(self, *, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return text, text + "!"

    @tf.function
    def nested(self, x: tf.Tensor) -> dict[str, dict[str, tf.Tensor]]:
        return {"y": {"z": x}}

    @tf.function
    def ragged(self, x: tf.RaggedTensor) -> tf.Tensor:
        return tf.reduce_sum(x, 1)


FLOATS = tf.TensorSpec([None], tf.float32)
TRACES: dict[str, tuple[list[tuple[str, tuple[Any, ...], dict[str, Any]]], dict[str, Any] | None, list[Any]]] = {
    "called": (
        [("__call__", (FLOATS,), {"training": True}), ("__call__", (FLOATS,), {"training": False})],
        {"x": 2.0},
        [6.0],
    ),
    "of a fixed size": ([("__call__", (tf.TensorSpec([1], tf.float32),), {})], {"x": 2.0}, [6.0]),
    "of any shape": ([("__call__", (tf.TensorSpec(None, tf.float32),), {})], {"x": 2.0}, [6.0]),
    "a dictionary": ([("predict", ({"a": FLOATS, "b": FLOATS},), {})], {"batch_a": 2.0, "batch_b": 1.0}, [7.0]),
    "keywords": ([("keyword", (), {"text": tf.TensorSpec([None], tf.string)})], {"text": "a"}, ["a", "a!"]),
    "one that fits": ([("nested", (FLOATS,), {}), ("__call__", (FLOATS,), {})], {"x": 2.0}, [6.0]),
    "none that fits": (
        [("nested", (FLOATS,), {}), ("ragged", (tf.RaggedTensorSpec([None, None], tf.float32),), {})],
        None,
        [],
    ),
    "none": ([], None, []),
}


@pytest.mark.parametrize("case", TRACES)
def test_a_model_without_signatures_gets_the_call_that_saves_it_with_its_own_function(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, case: str
) -> None:
    traces, row, predictions = TRACES[case]
    top, inner = tf.Module(), Unsigned()
    top.inner = inner
    for name, arguments, named in traces:
        getattr(inner, name).get_concrete_function(*arguments, **named)
    folder = tmp_path / "a model"
    tf.saved_model.save(top, str(folder), signatures={})
    done = keyjoin("inspect", f"--model={folder}")
    assert (done.code, f"{folder} was saved without signatures" in done.err) == (2, True), done.err
    assert all(f"inner.{name}(" in done.err for name, _, _ in traces)
    if row is None:
        assert "give one where it was made: tf.saved_model.save(module, " in done.err
        return
    pasted(done.err)
    ran = keyjoin("run", f"--input={lines(row)}", f"--model={tmp_path / 'a model-signed'}")
    assert [[value for name, value in one.items() if name not in row] for one in ran.rows()] == [predictions], ran.err


PYTHON: dict[str, tuple[Callable[[tf.Tensor], tf.Tensor], str]] = {
    "numpy_function": (lambda x: tf.numpy_function(np.sin, [x], tf.float32), "PyFunc"),
    "py_function": (lambda x: tf.py_function(np.sin, [x], tf.float32), "EagerPyFunc"),
    "in a branch": (
        lambda x: tf.cond(tf.size(x) > 1, lambda: tf.numpy_function(np.sin, [x], tf.float32), lambda: x),
        "PyFunc",
    ),
}


@pytest.mark.parametrize("case", PYTHON)
@pytest.mark.parametrize("policy", ["", "--model_ops=allow", "--model_ops=warn", "--model_ops=deny"])
def test_a_python_function_is_refused_by_its_op_whatever_the_policy(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, case: str, policy: str
) -> None:
    function, op = PYTHON[case]
    saved = models.save(tmp_path / "m", lambda x: {"y": tf.reshape(function(x), [-1])}, models.spec("x"))
    for command in (("inspect",), ("run", f"--input={lines({'x': 1.0})}"), ("wrap", f"--output={tmp_path / 'new'}")):
        done = keyjoin(*command, f"--model={saved}", *filter(None, [policy]))
        found = done.code, f"{op} calls Python code" in done.err, "--model_ops" in done.err, done.output.exists()
        assert found == (2, True, False, False), (command, done.err)
        assert "does not hold the Python function" in done.err


def test_text_is_not_taken_for_serialized_examples(keyjoin: Callable[..., Result], lines: Any, tmp_path: Path) -> None:
    def parse(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(examples, {"age": tf.io.FixedLenFeature([], tf.float32, 0.0)})
        return {"y": features["age"] * 2.0}

    saved = models.save(tmp_path / "m", parse, models.spec("examples", dtype=tf.string))
    for field in ("city", "examples"):  # the empty string is a valid Example without values
        done = keyjoin("check", f"--input={lines({'age': 3.0, field: ''})}", f"--model={saved}")
        assert (done.code, "takes serialized tf.Examples" in done.err) == (2, True), done.err
    assert keyjoin("check", f"--input={lines('city', 'x')}", f"--model={saved}").code == 2
    made = tf.train.Example()
    made.features.feature["age"].float_list.value.append(3.0)
    text = tf.io.encode_base64(made.SerializeToString(), pad=True).numpy().decode().replace("-", "+").replace("_", "/")
    done = keyjoin("run", f"--input={lines({'examples': {'b64': text}})}", f"--model={saved}")
    assert [row["y"] for row in done.rows()] == [6.0]


def test_suffixes_in_capitals_are_known(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    path = tmp_path / "A.JSONL"
    path.write_text('{"x": [1, 2, 3]}\n')
    done = keyjoin("run", f"--input={path}", f"--model={model(models.few, 1)}")
    assert (done.complete(), [part.name for part in done.output.glob("A-*")]) == (True, ["A-00000-of-00001.jsonl"])


# The tags of each graph, and the number of the graph to serve.
TAGS = [
    (([],), 0),
    ((["serve", "gpu"],), 0),
    ((["train"], ["serving"]), 1),
    ((["train", "serve"], ["serve", "tpu"], []), 1),
    ((["train"],), 0),
]


@pytest.mark.parametrize(("tags", "chosen"), TAGS, ids=str)
def test_a_graph_with_other_tags_gets_the_command_that_makes_a_copy_with_the_tag(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, tags: tuple[list[str], ...], chosen: int
) -> None:
    folder, path = tmp_path / "it's a model", lines({"x": 2.0})
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        signatures = {"serving_default": v1.saved_model.predict_signature_def({"x": x}, {"y": x * v1.Variable(3.0)})}
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, tags[0], signatures)
        for more in tags[1:]:
            builder.add_meta_graph(more, signatures)
        builder.save()
    for command in ("run", "check"):
        done = keyjoin(command, f"--input={path}", f"--model={folder}")
        assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
        assert "no graph whose only tag is serve" in done.err
    assert f"saved.meta_graphs[{chosen}]" in done.err
    before = (folder / "saved_model.pb").read_bytes()
    pasted(done.err)
    assert (folder / "saved_model.pb").read_bytes() == before
    copy = f"--model={folder}-serve"
    assert [row["y"] for row in keyjoin("run", f"--input={path}", copy).rows()] == [6.0]
    assert keyjoin("wrap", copy, f"--output={tmp_path / 'keyed'}").code == 0
