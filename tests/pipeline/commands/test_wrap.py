"""Wrapping adds the key to every kind of model, and does not change a bit of the predictions."""

import functools
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.cli import main
from pipeline.commands.wrap import WARM_UP, wrap
from pipeline.model.add_key import FILES, read
from pipeline.model.keras_export import export_keras
from tests.support.wrap_models import KEYS, MAKERS, ROWS, Case, save, save_identity, v1
from transforms.errors import RunError, UsageError
from transforms.saved_model import loader
from transforms.saved_model.contract import find_contract
from transforms.saved_model.loader import Loading

SINGLE = [name for name in MAKERS if name != "two-by-two"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make(folder / name) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def saved(cases, tmp_path_factory) -> dict[str, Case]:
    """The models as folders: a `.keras` file is replaced by its export."""
    exported = str(tmp_path_factory.mktemp("exported") / "model")
    export_keras(cases["keras-file"].path, exported)
    return cases | {"keras-file": cases["keras-file"]._replace(path=exported)}


@pytest.fixture(scope="module")
def wrapped(cases, tmp_path_factory):
    """Wraps a model in a style; each combination is wrapped once."""

    @functools.cache
    def make(name: str, style: str) -> str:
        output = str(tmp_path_factory.mktemp(f"{name}-{style}") / "keyed")
        wrap(cases[name].path, output, style)
        return output

    return make


def call_in_session(folder: str, arrays, signature="serving_default"):
    return loader.load(folder, Loading(signature))(arrays)


def call_eagerly(folder: str, arrays, signature="serving_default"):
    function = tf.saved_model.load(folder).signatures[signature]
    outputs = function(**{name: tf.constant(array) for name, array in arrays.items()})
    return {name: output.numpy() for name, output in outputs.items()}


CALLS = [call_in_session, call_eagerly]


def assert_equal(left: np.ndarray, right: np.ndarray) -> None:
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", MAKERS)
def test_function_style_gives_equal_predictions_and_the_key(name, call, wrapped, saved):
    output = wrapped(name, "function")
    expected = call_in_session(saved[name].path, saved[name].rows)
    answers = call(output, {**saved[name].rows, "key": KEYS})
    assert_equal(answers.pop("key"), KEYS)
    if len(expected) == 1:
        expected = {"prediction": expected.popitem()[1]}
    assert sorted(answers) == sorted(expected)
    for output_name, values in expected.items():
        assert_equal(answers[output_name], values)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", SINGLE)
def test_functional_style_gives_one_matrix_with_the_key_last(name, call, wrapped, saved):
    output = wrapped(name, "functional")
    (prediction,) = call_in_session(saved[name].path, saved[name].rows).values()
    answers = call(output, {**saved[name].rows, "key": KEYS})
    assert list(answers) == ["prediction_with_key"]
    expected = np.column_stack([prediction.reshape(ROWS, -1), KEYS.astype(np.float32)])
    assert_equal(np.ascontiguousarray(answers["prediction_with_key"]), expected)


def test_predictions_of_a_keras_file_are_those_of_keras_itself(cases, wrapped):
    rows = cases["keras-file"].rows
    answers = call_in_session(wrapped("keras-file", "function"), {**rows, "key": KEYS})
    model = keras.models.load_model(cases["keras-file"].path)
    # The exported normalization is a constant and divides in another way, so the last bit may differ.
    np.testing.assert_allclose(answers["prediction"], model.predict(rows["features"], verbose=0), rtol=1e-6)


# If tf_keras is installed, TensorFlow imports it and loads the model, which it refuses on most machines.
WITHOUT_TF_KERAS = """
import sys
sys.modules["tf_keras"] = None
import tensorflow as tf
print(sorted(tf.saved_model.load(sys.argv[1]).signatures["serving_default"].structured_outputs))
"""


def test_plain_tensorflow_refuses_the_keras_2_model_and_takes_it_wrapped(cases, tmp_path):
    wrap(cases["keras-2"].path, str(tmp_path / "keyed"), "function")
    for folder, expected in (
        (cases["keras-2"].path, "add_slot"),
        (str(tmp_path / "keyed"), "['key', 'prediction']"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TF_KERAS, folder], capture_output=True, text=True, check=False
        )
        assert expected in (done.stderr if done.returncode else done.stdout)


def test_models_of_every_kind_are_found_to_compute_only(saved):
    for case in saved.values():
        assert loader.load(case.path, Loading(policy="deny")).findings == ()


def test_weights_and_assets_are_the_same_bytes(cases, tmp_path):
    for name in ("module", "keras-2", "tf1"):
        source, target = Path(cases[name].path), tmp_path / name
        wrap(str(source), str(target), "function")
        copied = {p.relative_to(target) for p in target.rglob("*") if p.is_file()}
        original = {p.relative_to(source) for p in source.rglob("*") if p.is_file()}
        assert original - copied <= {Path("fingerprint.pb"), Path("keras_metadata.pb")}
        assert copied <= original
        for path in copied - {Path("saved_model.pb")}:
            assert (target / path).read_bytes() == (source / path).read_bytes()


def test_the_same_model_gives_the_same_bytes(cases, tmp_path):
    for name in ("first", "second"):
        wrap(cases["two-by-two"].path, str(tmp_path / name), "function")
    assert (tmp_path / "first/saved_model.pb").read_bytes() == (tmp_path / "second/saved_model.pb").read_bytes()


def test_only_the_named_signature_gets_the_key_and_the_next_one_can_follow(cases, tmp_path):
    once, twice = str(tmp_path / "once"), str(tmp_path / "twice")
    rows = cases["module"].rows
    line = call_in_session(cases["module"].path, rows, "classify")["line"]
    wrap(cases["module"].path, once, "function", "classify")
    wrap(once, twice, "functional")
    for folder in (once, twice):
        answers = call_in_session(folder, {**rows, "key": KEYS}, "classify")
        assert sorted(answers) == ["key", "prediction"]
        assert_equal(answers["prediction"], line)
    assert list(call_in_session(once, rows)) == ["score"]
    assert list(call_in_session(twice, {**rows, "key": KEYS})) == ["prediction_with_key"]


def test_keyjoin_finds_the_key_in_both_styles(cases, tmp_path):
    for style, last_column in (("function", False), ("functional", True)):
        wrap(cases["keras-3"].path, str(tmp_path / style), style)
        contract = find_contract(loader.load(str(tmp_path / style)), "serving_default")
        assert [tensor.name for tensor in contract.inputs] == ["features"]
        assert [tensor.shape for tensor in contract.predictions] == [(1,)]
        assert [echo.last_column for echo in contract.echoes] == [last_column]


def test_half_floats_become_float32_in_the_matrix(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def halve(x):
        return {"y": tf.cast(x, tf.float16)}

    save(halve, tmp_path / "model")
    wrap(str(tmp_path / "model"), str(tmp_path / "keyed"), "functional")
    x = np.linspace(-1, 1, ROWS, dtype=np.float32)
    answers = call_in_session(str(tmp_path / "keyed"), {"x": x, "key": KEYS})["prediction_with_key"]
    assert answers[:, 0].tolist() == x.astype(np.float16).astype(np.float32).tolist()


def test_a_model_in_text_is_read_too(cases, tmp_path):
    wrap(cases["module"].path, str(tmp_path / "binary"), "function")
    text = tmp_path / "text"
    wrap(cases["module"].path, str(text), "function", "classify")
    (text / FILES[1]).write_text(str(read(cases["module"].path)))
    (text / FILES[0]).unlink()
    wrap(str(text), str(tmp_path / "from_text"), "function")
    assert read(str(tmp_path / "from_text")) == read(str(tmp_path / "binary"))
    assert not (tmp_path / "from_text" / FILES[1]).exists()


def test_warm_up_requests_without_a_key_are_left_out(tmp_path):
    save_identity(tmp_path / "model")
    (tmp_path / "model" / WARM_UP).parent.mkdir()
    (tmp_path / "model" / WARM_UP).write_bytes(b"requests")
    summary = wrap(str(tmp_path / "model"), str(tmp_path / "keyed"), "function")
    assert "warmup_requests was left out" in summary.splitlines()[1]
    assert not (tmp_path / "keyed" / WARM_UP).exists()


def test_a_read_only_model_gives_a_folder_that_can_be_changed(tmp_path):
    save_identity(tmp_path / "model")
    for folder, _, files in os.walk(tmp_path / "model"):
        for path in (*files, "."):
            os.chmod(os.path.join(folder, path), 0o500)
    (tmp_path / "keyed").mkdir()
    wrap(str(tmp_path / "model"), str(tmp_path / "keyed"), "function")
    assert all(p.stat().st_mode & 0o200 for p in (tmp_path / "keyed").rglob("*"))


def test_the_command_prints_what_it_made(tmp_path, capsys):
    save_identity(tmp_path / "model")
    main(["wrap", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "keyed")])
    assert capsys.readouterr().out == f"{tmp_path}/keyed: serving_default takes x, key and returns prediction, key\n"


def keras_with_code(folder: Path) -> str:
    """A `.keras` file whose code, if run, creates a file."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: Path("run").touch() or x)])
    os.remove("run")
    model.save(folder / "model.keras")
    return str(folder / "model.keras")


def keras_with_own_layer(folder: Path) -> str:
    path = folder / "model.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(folder / "dense.keras")
    with zipfile.ZipFile(folder / "dense.keras") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b'"Dense"', b'"OwnLayer"'))
    return str(path)


def written(folder: Path, name: str, content: bytes = b"") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def other_tags(folder: Path) -> str:
    proto = read(save_identity(folder / "model"))
    proto.meta_graphs[0].meta_info_def.tags[:] = ["serve", "tpu"]
    return str(written(folder, "tagged/saved_model.pb", proto.SerializeToString()).parent)


WRONG_MODELS = {
    "missing": (
        lambda f: str(f / "none"),
        "no model at .*/none; give the folder that holds saved_model.pb, or a .keras file",
    ),
    "missing .keras": (lambda f: str(f / "no.keras"), "no model at .*/no.keras; give"),
    "remote": (lambda _: "gs://bucket/model", "gs://bucket/model is not on this machine; copy"),
    "h5": (
        lambda f: str(written(f, "model.h5")),
        "model.h5 is not a SavedModel: it is a Keras model in HDF5; convert it: ",
    ),
    "the file": (lambda f: str(written(f, "saved_model.pb")), "is a part of a SavedModel; give all of it: --model "),
    "no SavedModel": (lambda f: str(f), "is not a SavedModel: it has no saved_model.pb; give the folder"),
    "versions": (
        lambda f: (
            str(written(f, "m/9/saved_model.pb").parent.parent)
            if written(f, "m/readme") and not (f / "m/9").mkdir()
            else ""
        ),
        "give one of the folders in it, such as .*/m/9",
    ),
    "damaged": (lambda f: str(written(f, "m/saved_model.pb", b"\xff").parent), "cannot be read: .*; export"),
    "other tags": (
        other_tags,
        "no graph whose only tag is serve, .*; its graphs: one with the tags serve, tpu; give one of them the tag: ",
    ),
    "no signature": (
        lambda f: str(tf.saved_model.save(tf.Module(), str(f / "m"), signatures={}) or f / "m"),
        "m was saved without signatures, and has no traced function; give one where it was made: ",
    ),
    "fixed batch": (
        lambda f: save_identity(f / "m", shape=(8, 2)),
        "m takes 8 rows a call, and .*; use the model as it is, without a key, or export it with a free batch",
    ),
    "keyed": (
        lambda f: save_identity(f / "m", "key"),
        "keyed already: serving_default has an input key; use",
    ),
    "own output": (
        lambda f: save_identity(f / "m", outputs=("key", "y")),
        "has an output key of its own; export",
    ),
    "code": (
        keras_with_code,
        r"model.keras is refused by Keras's safe mode for the layer 'lambda\w*' \(Lambda\), .*; .*model.export",
    ),
    "own layer": (keras_with_own_layer, "cannot be exported: .*OwnLayer.* model.export"),
    "no zip": (lambda f: str(written(f, "text.keras", b"text")), "text.keras cannot be exported: .*zip"),
}


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_a_wrong_model_is_refused_in_one_line(name, tmp_path, monkeypatch):
    (tmp_path / "inputs").mkdir()
    monkeypatch.chdir(tmp_path)
    make, message = WRONG_MODELS[name]
    model = make(tmp_path / "inputs")
    with pytest.raises(UsageError, match=message) as caught:
        wrap(model, str(tmp_path / "keyed"), "function")
    assert len(str(caught.value).splitlines()) == 1
    # Nothing remains: no output, and no file created by the model's code.
    assert os.listdir(tmp_path) == ["inputs"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"outputs": ("a", "b")}, r"but it has 2 \(a, b\); use --style function"),
        ({"dtype": tf.float64}, "but y is float64; use --style function"),
        ({"dtype": tf.string}, "but y is string; use --style function"),
        ({"shape": (None, 2, 3)}, r"but y has the shape \(None, 2, 3\); use --style function"),
        ({"shape": None}, "but y has the shape <unknown>; use --style function"),
    ],
)
def test_functional_style_refuses_what_is_not_one_matrix(given, message, tmp_path):
    model = save_identity(tmp_path / "model", **given)
    with pytest.raises(UsageError, match=message):
        wrap(model, str(tmp_path / "keyed"), "functional")
    wrap(model, str(tmp_path / "keyed"), "function")


def test_functional_style_refuses_a_sparse_output(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.sparse_placeholder(tf.float32, [None, 2])
        v1.saved_model.simple_save(session, str(tmp_path / "model"), {"x": x}, {"y": x})
    with pytest.raises(UsageError, match="but y is sparse or ragged; use --style function"):
        wrap(str(tmp_path / "model"), str(tmp_path / "keyed"), "functional")


def test_an_unknown_signature_names_the_nearest_and_all(cases, tmp_path):
    with pytest.raises(UsageError, match=r"classfy \(did you mean classify\?\).*: classify, serving_default$"):
        wrap(cases["module"].path, str(tmp_path / "keyed"), "function", "classfy")


def test_an_output_in_use_is_refused(tmp_path):
    model = save_identity(tmp_path / "model")
    kept = written(tmp_path, "full/kept")
    inside = str(tmp_path / "model" / "keyed")
    for output, message in (
        (str(kept.parent), "exists and is not an empty folder; choose another"),
        (str(kept), "exists and is not an empty folder"),
        (model, "exists and is not an empty folder"),
        (inside, "lies in the model's own folder; choose a folder outside"),
        ("gs://bucket/keyed", "is not on this machine; give a local folder"),
    ):
        with pytest.raises(UsageError, match=message):
            wrap(model, output, "function")
    assert kept.exists()


def test_an_output_that_cannot_be_written_leaves_nothing(tmp_path):
    model = save_identity(tmp_path / "model")
    blocking = written(tmp_path, "blocking")
    with pytest.raises(UsageError, match=r"cannot be written to; choose another place"):
        wrap(model, str(blocking / "keyed"), "function")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.copyfile", refuse)
        with pytest.raises(RunError, match="No space left on device"):
            wrap(model, str(tmp_path / "keyed"), "function")
    assert sorted(os.listdir(tmp_path)) == ["blocking", "model"]
