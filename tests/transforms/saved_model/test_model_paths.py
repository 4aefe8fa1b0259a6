"""Paths that are no SavedModel: each kind of model file gets its own remedy, which works when it is pasted."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Result
from tests.support import models
from transforms.saved_model import model_paths

V1 = tf.compat.v1
FILES = {
    "m.tflite": ("a TensorFlow Lite model", b"\x20\0\0\0TFL3"),
    "m.weights.h5": ("holds weights and no layers", model_paths.HDF5),
    "m.hdf5": ("a Keras model in HDF5; convert it: ", model_paths.HDF5),
    "no_suffix": ("a Keras model in HDF5; convert it: ", model_paths.HDF5),
    "m.pb": ("a frozen graph; convert it", b""),
    "m.tar.gz": ("an archive; unpack it: tar -xzf ", b""),
    "m.zip": ("an archive; unpack it: unzip ", b""),
    "m.onnx": ("an ONNX model", b""),
    "m.PT": ("a PyTorch model", b""),
    "m.joblib": ("a pickled Python object", b""),
    "m.ckpt.index": ("a part of a checkpoint", b""),
    "m.ckpt.data-00000-of-00001": ("a part of a checkpoint", b""),
    "saved_model.pb": ("it is a file of one; give its folder", b""),
    "m.txt": ("give the folder that holds saved_model.pb, or a .keras file", b"x"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["inspect", "check", "wrap"])
def test_a_file_of_another_kind_gets_its_remedy(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path, name: str, command: str
) -> None:
    said, content = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    flags = {"inspect": (), "check": (f"--input={lines({'x': 1})}",), "wrap": (f"--output={tmp_path / 'new'}",)}[
        command
    ]
    done = keyjoin(command, f"--model={path}", *flags)
    assert (done.code, f"{path} is not a SavedModel: " in done.err, said in done.err) == (2, True, True), done.err


FOLDERS = {
    "a checkpoint": (["checkpoint", "ckpt-1.index"], "it is a checkpoint, which holds weights and no graph"),
    "a folder of models": (["a/saved_model.pb", "b/saved_model.pb"], "give one of the folders in it, such as "),
    "a .keras file in it": (["m.keras"], "m.keras"),
    "empty": ([], "give the folder that holds saved_model.pb, or a .keras file"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_of_another_kind_gets_its_remedy(keyjoin: Callable[..., Result], tmp_path: Path, case: str) -> None:
    names, said = FOLDERS[case]
    folder = tmp_path / "m"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    done = keyjoin("inspect", f"--model={folder}")
    assert (done.code, said in done.err) == (2, True), done.err


def pasted(message: str) -> None:
    """Runs the command of a message."""
    words = shlex.split(message.split("convert it", 1)[1].split(": ", 1)[1].rsplit(" and give --model", 1)[0])
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


@given(names=st.lists(st.text("0123456789a", min_size=1, max_size=4)))
def test_the_newest_version_is_that_of_the_largest_number(names: list[str]) -> None:
    numbers = [int(name) for name in names if "a" not in name]
    found = model_paths.newest(names)
    assert (None if found is None else int(found)) == max(numbers, default=None)
    assert found is None or found in names


def test_a_folder_of_versions_takes_the_newest_and_says_so(
    keyjoin: Callable[..., Result], lines: Any, tmp_path: Path
) -> None:
    for version, factor in (("9", 9.0), ("0010", 10.0)):
        models.save(tmp_path / "m" / version, lambda x, factor=factor: {"y": x * factor}, models.spec("x"))
    (tmp_path / "m" / "11").mkdir()  # it is still being written
    flags = (f"--input={lines({'x': 1.0})}", f"--model={tmp_path / 'm'}")
    done = keyjoin("run", *flags)
    assert [row["y"] for row in done.rows()] == [10.0]
    newest = tmp_path / "m" / "0010"
    assert f"holds versions of a model; the newest is used, {newest}\n" in done.err
    assert done.manifest()["model"]["path"] == str(newest)
    for command, more in (("inspect", ()), ("check", flags[:1]), ("wrap", (f"--output={tmp_path / 'new'}",))):
        assert str(newest) in keyjoin(command, flags[1], *more).err
    assert keyjoin("verify", f"--run={done.output}", "--rescore=1", f"--model={tmp_path / 'm'}").code == 0


def test_a_model_without_signatures_says_what_its_save_call_lacks(
    keyjoin: Callable[..., Result], tmp_path: Path
) -> None:
    module = tf.Module()
    module.one, module.other = (tf.function(lambda x: x, input_signature=[models.spec("x")]) for _ in range(2))
    tf.saved_model.save(module, str(tmp_path / "m"))
    done = keyjoin("inspect", f"--model={tmp_path / 'm'}")
    assert (done.code, "save it again with one: tf.saved_model.save(module, " in done.err) == (2, True), done.err


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
    for field in ("city", "examples"):  # the empty text is an Example without values
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
