"""keyjoin finds what a model does besides computing, anywhere in its graph, and refuses it before loading the model."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from google.protobuf import message
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import loader_impl

from keyjoin import KeyedPredict
from pipeline.cli import main
from pipeline.commands.wrap import wrap
from pipeline.model import check_model
from tests.conftest import BOSTON, ROOT, Result
from tests.support.models import save, spec
from transforms.errors import UsageError
from transforms.model_safety import op_kinds
from transforms.model_safety.model_ops import ALLOW, DENY, POLICIES, WARN, Finding, find, judge
from transforms.model_safety.op_kinds import Kind
from transforms.model_safety.op_packages import find_package
from transforms.saved_model import loader


def findings(folder: str, signature: str = "serving_default") -> list[Finding]:
    return find(loader_impl.parse_saved_model(folder).meta_graphs[0], folder, signature)


def kinds(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.kind.value, finding.op) for finding in found]


WRITES = [("writes", "WriteFile")]


def saving(do: Callable[[tf.Tensor], Any]) -> Callable[[Path], str]:
    """Makes a model that computes, and also calls `do` with x, a vector of floats."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        done = do(x)
        return {"y": x + (tf.cast(done, tf.float32) if isinstance(done, tf.Tensor) else 0.0)}

    return lambda folder: save(folder, call, spec("x"))


@tf.function
def write_deep(x: tf.Tensor) -> None:
    """Calls a function from a branch in a loop; all three become functions of the graph."""
    for _ in tf.range(2):
        if tf.reduce_sum(x) > 1e30:
            write_now(x)


@tf.function
def write_now(x: tf.Tensor) -> None:
    tf.io.write_file("/tmp/keyjoin-never", tf.strings.as_string(x[0]))  # noqa: S108  never run


def length(text: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.strings.length(text))


def lines_of(path: str) -> tf.Tensor:
    return tf.data.TextLineDataset(path).reduce(0, lambda count, _: count + 1)


DOING = {
    "write": (write_deep, [("writes", "WriteFile")], ()),
    "python": (lambda x: tf.py_function(lambda v: v, [x], tf.float32), [("python", "EagerPyFunc")], ()),
    "numpy": (lambda x: tf.numpy_function(lambda v: v, [x], tf.float32), [("python", "PyFunc")], ()),
    "print": (lambda x: tf.print(x), [("prints", "PrintV2")], ()),
    "print to a file": (lambda x: tf.print(x, output_stream="file:///tmp/never"), [("writes", "PrintV2")], ()),
    "print of TF1": (lambda x: tf.compat.v1.Print(x, [x]), [("prints", "Print")], ()),
    "read": (lambda _: length(tf.io.read_file("/etc/passwd")), [("reads", "ReadFile")], ("/etc/passwd",)),
    "read anything": (lambda x: length(tf.io.read_file(tf.strings.as_string(x[0]))), [("reads", "ReadFile")], ()),
    "glob": (lambda _: length(tf.io.matching_files("/etc/*")), [("reads", "MatchingFiles")], ("/etc/*",)),
    "data set": (lambda _: lines_of("/etc/hosts"), [("reads", "TextLineDataset")], ()),
    "save": (lambda x: tf.raw_ops.SaveV2(prefix="never", tensor_names=["x"], shape_and_slices=[""], tensors=[x]) and None, [("writes", "SaveV2")], ()),
    "random numbers": (lambda x: tf.random.normal(tf.shape(x)), [], ()),
    "assertion": (lambda x: tf.debugging.assert_all_finite(x, "no"), [], ()),
    "data in memory": (lambda _: tf.data.Dataset.range(3).cache().shuffle(3).reduce(0.0, lambda count, _: count + 1.0), [], ()),
}  # fmt: skip


@pytest.mark.parametrize("name", DOING)
def test_what_a_model_does_is_found_in_nested_functions(name: str, tmp_path: Path) -> None:
    do, expected, files = DOING[name]
    found = findings(saving(do)(tmp_path / "model"))
    assert kinds(found) == expected
    assert all(finding.part == "signature" and finding.function for finding in found)
    assert [finding.files for finding in found] == [files] * len(expected)


def with_asset(folder: Path) -> str:
    """A model with a lookup table in an asset file, which it reads again in each call."""
    vocabulary = folder.parent / "words.txt"
    vocabulary.write_text("a\nb\n")
    module = tf.Module()
    module.asset = tf.saved_model.Asset(str(vocabulary))
    layout = tf.lookup.TextFileIndex
    lines = tf.lookup.TextFileInitializer(module.asset, tf.string, layout.WHOLE_LINE, tf.int64, layout.LINE_NUMBER)
    module.table = tf.lookup.StaticHashTable(lines, -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "word")])
    def call(word: tf.Tensor) -> dict[str, tf.Tensor]:
        again = tf.cast(length(tf.io.read_file(module.asset.asset_path)), tf.int64)
        return {"y": module.table.lookup(word) + again}

    module.call = call
    tf.saved_model.save(module, str(folder), signatures={"serving_default": call})
    return str(folder)


def changed(folder: str, change: Callable[[Any], None]) -> str:
    """Changes the graph in a model's file."""
    path = Path(folder, "saved_model.pb")
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(saved.meta_graphs[0])
    path.write_bytes(saved.SerializeToString())
    return folder


def test_files_of_the_model_itself_are_no_finding_and_others_are(tmp_path: Path) -> None:
    folder = with_asset(tmp_path / "model")
    assert findings(folder) == []
    asset = Path(folder, "assets", "words.txt")
    outside = tmp_path / "outside.txt"
    asset.rename(outside)
    asset.symlink_to(outside)
    assert sorted(kinds(findings(folder))) == [("reads", "InitializeTableFromTextFileV2"), ("reads", "ReadFile")]

    asset.unlink()
    # TensorFlow resolves `..` in the text of the path, the system resolves it from the target of the link.
    Path(folder, "assets", "a", "b").mkdir(parents=True)
    Path(folder, "assets", "link").symlink_to("a/b")
    for name in ("../../outside.txt", "link/../../../outside.txt"):

        def lead_out(graph: Any, name: str = name) -> None:
            graph.asset_file_def[0].filename = name

        found = findings(changed(folder, lead_out))
        assert [(f.part, [Path(os.path.normpath(file)) for file in f.files]) for f in sorted(found, key=lambda f: f.part)] == [
            ("initialization", [outside]), ("signature", [outside]),
        ]  # fmt: skip


def test_models_with_preprocessing_only_compute(tmp_path: Path) -> None:
    word = keras.Input((1,), dtype="string", name="word")
    number, values = keras.Input((1,), dtype="int64", name="number"), keras.Input((3,), name="values")
    vectors = keras.layers.TextVectorization(max_tokens=9, output_sequence_length=4)
    vectors.adapt(tf.constant(["a b", "b c"]))
    normal = keras.layers.Normalization()
    normal.adapt(tf.constant([[1.0, 2, 3], [3, 4, 5]]))
    both = [
        keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(vectors(word))),
        keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(word),
        keras.layers.IntegerLookup(vocabulary=[1, 2], output_mode="one_hot")(number),
        keras.layers.Dropout(0.5)(normal(values)),
        keras.layers.Bidirectional(keras.layers.LSTM(2))(keras.layers.Reshape((3, 1))(values)),
    ]
    out = keras.layers.Dense(1)(keras.layers.Concatenate()(both))
    keras.Model([word, number, values], out).export(str(tmp_path / "model"), verbose=False)
    assert findings(str(tmp_path / "model")) == []
    assert findings(str(BOSTON / "model")) == []


def test_only_the_signature_that_is_called_counts(tmp_path: Path) -> None:
    module = tf.Module()
    signature = [tf.TensorSpec([None], tf.float32, "x")]
    module.clean = tf.function(lambda x: {"y": x + 1.0}, input_signature=signature)
    module.dirty = tf.function(lambda x: write_now(x) or {"y": x}, input_signature=signature)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"clean": module.clean, "dirty": module.dirty})
    assert findings(str(tmp_path / "m"), "clean") == []
    assert kinds(findings(str(tmp_path / "m"), "dirty")) == [("writes", "WriteFile")]


def test_every_op_of_the_table_is_one_of_tensorflow() -> None:
    from tensorflow.python.framework import op_def_registry

    own = {name: op for name, op in op_kinds.OPS.items() if find_package(name) is None}
    assert [name for name in own if op_def_registry.get(name) is None] == []
    for name, op in own.items():
        definition = op_def_registry.get(name)
        if isinstance(op.file, str):
            assert op.file in [attribute.name for attribute in definition.attr], name
        elif op.file is not None:
            assert definition.input_arg[op.file].type == tf.string.as_datatype_enum, name


def finding(kind: Kind) -> Finding:
    return Finding(kind, "Op", "node", "f", "signature", (), 1)


@pytest.mark.parametrize("kind", Kind)
def test_the_policy_decides(kind: Kind) -> None:
    for policy in (ALLOW, WARN):
        with pytest.raises(UsageError) if kind is Kind.PYTHON else contextlib.nullcontext():
            judge("m", [finding(kind)], policy)
    judge("m", [], DENY)
    with pytest.raises(
        UsageError,
        match=r"m is refused: Op .* when the model is called: node node of the function f; (export|name|a SavedModel does not hold the Python function)",
    ):
        judge("m", [finding(kind)], DENY)
    if kind in (Kind.READS, Kind.PRINTS, Kind.COMPILED, Kind.OPAQUE, Kind.LIBRARY):
        judge("m", [finding(kind)], None)
    else:
        with pytest.raises(UsageError, match="m is refused"):
            judge("m", [finding(kind)], None)


@given(st.lists(st.sampled_from(Kind), max_size=4), st.sampled_from([None, *POLICIES]))
def test_no_flag_is_offered_for_a_model_that_calls_python(others: list[Kind], policy: str | None) -> None:
    found = sorted(map(finding, [*others, Kind.PYTHON]), key=lambda one: -list(Kind).index(one.kind))
    with pytest.raises(UsageError, match="calls Python code") as caught:
        judge("m", found, policy)
    assert "--" not in str(caught.value)


BYTES = (BOSTON / "model" / "saved_model.pb").read_bytes()


@given(st.integers(0, len(BYTES) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_graph_is_reported_or_inspected(at: int, value: int, cut: bool) -> None:
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(BYTES[:at] if cut else BYTES[:at] + bytes([value]) + BYTES[at + 1 :])
    except message.DecodeError:
        return
    for described in saved.meta_graphs:
        if "serving_default" in described.signature_def:
            find(described, "/m", "serving_default")


@pytest.mark.parametrize("content", [b"", BYTES[:1000], b"\xff" * 100], ids=["empty", "truncated", "no proto"])
def test_a_damaged_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be loaded: ") as caught:
        loader.load(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def writing(tmp_path: Path) -> tuple[str, Path]:
    """Returns a model that writes a file when it is called, and the path of the file."""
    written = tmp_path / "written"

    def do(x: tf.Tensor) -> None:
        tf.io.write_file(str(written), tf.strings.as_string(tf.shape(x)[0]))

    return saving(do)(tmp_path / "model"), written


def test_no_command_runs_a_model_that_writes(
    keyjoin: Callable[..., Result], lines: Any, writing: tuple[str, Path], tmp_path: Path
) -> None:
    model, written = writing
    request = tmp_path / "request.json"
    request.write_text('{"instances": [{"x": 1.0}]}')
    refused = "is refused: WriteFile writes files when the model is called: node WriteFile of the function __inference_"
    for command in (
        ("run", f"--input={lines({'x': 1.0})}"),
        ("check", f"--input={lines({'x': 1.0})}", f"--output={tmp_path / 'c'}"),
        ("inspect",),
        ("predict", f"--instances={request}"),
        ("wrap", f"--output={tmp_path / 'wrapped'}"),
    ):
        done = keyjoin(*command, f"--model={model}")
        assert (done.code, refused in done.err, done.err.count("\n")) == (2, True, 1), (command, done.err)
        assert "--model_ops=warn" in done.err
    assert not written.exists()
    assert not (tmp_path / "wrapped").exists()


def test_a_trusted_model_runs_and_the_manifest_records_what_it_did(
    keyjoin: Callable[..., Result], lines: Any, writing: tuple[str, Path]
) -> None:
    model, written = writing
    flags = (f"--input={lines({'x': 1.0})}", f"--model={model}")
    warned = keyjoin("run", *flags, "--model_ops=warn")
    assert (warned.code, warned.rows()) == (0, [{"x": 1.0, "y": 1.0}])
    assert warned.err.startswith(f"keyjoin: warning: {model}: WriteFile writes files when the model is called")
    assert written.exists()
    ops = warned.manifest()["model"]["ops"]
    assert (ops["verdict"], ops["policy"], ops["findings"][0]["kind"]) == ("warned", "warn", "writes")
    allowed = keyjoin("run", *flags, "--model_ops=allow")
    assert (allowed.code, allowed.err, allowed.manifest()["model"]["ops"]["verdict"]) == (0, "", "allowed")


def test_a_model_that_prints_is_warned_of_and_refused_on_request(capsys: Any, tmp_path: Path) -> None:
    model = saving(DOING["print"][0])(tmp_path / "model")
    assert main(["inspect", f"--model={model}", "--json"]) == 0
    shown = capsys.readouterr()
    assert "keyjoin: warning: " in shown.err
    assert "PrintV2 prints what may be of the rows when the model is called" in shown.err
    assert json.loads(shown.out)["ops"]["verdict"] == "warned"
    assert main(["inspect", f"--model={model}", "--model_ops=deny"]) == 2
    assert "is refused: PrintV2" in capsys.readouterr().err


def test_a_pinned_model_is_the_only_one(keyjoin: Callable[..., Result], lines: Any, tmp_path: Path) -> None:
    model = saving(lambda _: None)(tmp_path / "model")
    right, wrong = check_model.fingerprint(model), "0" * 64
    flags = (f"--input={lines({'x': 1.0})}", f"--model={model}")
    done = keyjoin("run", *flags, f"--model_sha256={right.upper()}")
    assert (done.code, done.manifest()["model"]["sha256"]) == (0, right)
    request = tmp_path / "request.json"
    request.write_text('{"instances": [{"x": 1.0}]}')
    for command in (
        ("run", *flags[:1]),
        ("predict", f"--instances={request}"),
        ("inspect",),
        ("wrap", f"--output={tmp_path / 'w'}"),
    ):
        refused = keyjoin(*command, flags[1], f"--model_sha256={wrong}")
        assert refused.code == 2
        assert f"has the sha256 {right}, not {wrong} as --model_sha256 says" in refused.err
    assert "is not a sha256, 64 hexadecimal digits" in keyjoin("run", *flags, "--model_sha256=abc").err


def test_the_sha256_covers_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "data").write_text("1")
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").write_text("")
    (model / "variables").symlink_to(tmp_path / "real")
    (model / "loop").symlink_to(model)
    first = check_model.fingerprint(str(model))
    (tmp_path / "real" / "data").write_text("2")
    assert check_model.fingerprint(str(model)) != first
    (model / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"cannot be read: .*repair the model"):
        check_model.identify(str(model), None)


def test_a_pipeline_of_ones_own_refuses_it_too(writing: tuple[str, Path]) -> None:
    with pytest.raises(UsageError, match="is refused: WriteFile writes files"):
        KeyedPredict(writing[0], input_map={"x": "x"})
    assert not writing[1].exists()
    KeyedPredict(writing[0], input_map={"x": "x"}, model_ops=ALLOW)


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_is_documented_with_what_happens_by_default(kind: Kind) -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{kind.value}` |")]
    assert line.endswith(f"| {'refused' if kind.denied else 'warning'} |")


def test_wrap_keeps_what_the_model_does_in_sight(tmp_path: Path) -> None:
    model = saving(write_now)(tmp_path / "model")
    wrap(model, str(tmp_path / "keyed"), "function", model_ops=WARN)
    assert kinds(findings(str(tmp_path / "keyed"))) == WRITES
