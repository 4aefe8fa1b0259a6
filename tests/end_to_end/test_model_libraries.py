"""Models with ops of other packages: keyjoin imports packages that a flag names, and reports missing ones."""

import ast
import dataclasses
import fnmatch
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.options.groups import CodeOptions
from pipeline.options.parser import OptionsParser
from pipeline.run_folder import manifest, resume
from tests.conftest import ROOT, Result
from tests.support import commands, models
from tests.support.library_models import FOREST_ROWS, TEXTS
from transforms.errors import UsageError
from transforms.model_safety.op_kinds import OPS
from transforms.model_safety.op_packages import PACKAGES, find_package
from transforms.saved_model import libraries, loader
from transforms.saved_model.libraries import import_libraries, remedy_for
from transforms.saved_model.loader import Loading

TEXT, FOREST = "--model_libraries=tensorflow_text", "--model_libraries=ydf_tf"
TWO_BAD = "--max_bad_rows=2"
TEXT_REMEDY = "it is an op of tensorflow-text: give --model_libraries=tensorflow_text"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models and their expected predictions."""
    if not libraries._is_installed("ydf_tf"):
        pytest.skip("ydf-tf has wheels for Linux and the newest macOS only")
    folder = tmp_path_factory.mktemp("libraries")
    subprocess.run(
        [sys.executable, "-m", "tests.support.library_models", folder], cwd=ROOT, check=True, capture_output=True
    )
    lines = [json.dumps({"text": text}) + "\n" for text in [*TEXTS, None, None]]
    (folder / "text.jsonl").write_text("".join(lines))
    repaired = {"key": f"{folder}/text.jsonl#{len(''.join(lines[:-2]))}", "row": json.dumps({"text": TEXTS[0]})}
    (folder / "repaired.jsonl").write_text(json.dumps({**repaired, "row_encoding": "utf-8"}) + "\n")
    (folder / "forest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in FOREST_ROWS))
    (folder / "request.json").write_text(json.dumps({"instances": [{"text": text} for text in TEXTS]}))
    return folder


@pytest.fixture(scope="module")
def said(made: Path) -> list[commands.Said]:
    """Results of commands that were given the libraries."""
    at = {name: str(made / name) for name in ("tokenizer", "forest", "wrapped", "scored", "trees")}
    return commands.run(
        ["predict", f"--model={at['tokenizer']}", f"--instances={made}/request.json", TEXT],
        ["wrap", f"--model={at['tokenizer']}", f"--output={at['wrapped']}", TEXT],
        ["run", f"--input={made}/text.jsonl", f"--model={at['wrapped']}", f"--output={at['scored']}", TEXT, TWO_BAD],
        ["verify", f"--run={at['scored']}", "--rescore=9", f"--model={at['wrapped']}", TEXT],
        ["run", f"--input={made}/forest.jsonl", f"--model={at['forest']}", f"--output={at['trees']}", FOREST],
        ["verify", f"--run={at['trees']}", "--rescore=9", f"--model={at['forest']}", FOREST],
        ["replay", f"--run={at['scored']}", f"--rows={made}/repaired.jsonl", TEXT],
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*-of-*")) for line in path.read_text().splitlines()]


def test_a_tokenizer_of_tensorflow_text_gives_what_it_gives_when_called(made: Path, said: list[Any]) -> None:
    predicted, wrapped, run, verified, *_ = said
    expected = json.loads((made / "tokenizer.json").read_text())
    assert (predicted.code, wrapped.code, run.code, verified.code) == (0, 0, 0, 0), said
    answer = json.loads(predicted.out)["predictions"]
    found = rows(made / "scored")
    assert [row["text"] for row in found] == [*TEXTS, TEXTS[0]]  # the last row was replayed
    assert [found[-1][name] for name in ("tokens", "score")] == [found[0][name] for name in ("tokens", "score")]
    for predictions in (answer, found[:-1]):
        assert [row["tokens"] for row in predictions] == expected["tokens"]
        assert [row["score"] for row in predictions] == pytest.approx(expected["score"], rel=1e-6)
    assert "scored again: 5 equal" in verified.out
    # Its ops only compute, so no warning is printed.
    assert "warning" not in wrapped.err + run.err


def test_a_forest_of_ydf_gives_what_it_gives_when_called(made: Path, said: list[Any]) -> None:
    *_, run, verified, _ = said
    expected = json.loads((made / "forest.json").read_text())["output"]
    assert (run.code, verified.code) == (0, 0), said
    assert [row["output"] for row in rows(made / "trees")] == pytest.approx(expected, rel=1e-6)
    assert "9 equal" in verified.out
    # The model computes the path of its trees, so a warning is printed.
    (warning,) = [line for line in run.err.splitlines() if "warning" in line]
    assert "SimpleMLLoadModelFromPathWithHandle reads files" in warning


def test_the_manifest_has_the_libraries_and_their_versions(made: Path, said: list[Any]) -> None:
    document = json.loads((made / "scored" / "_keyjoin/manifest.json").read_text())
    assert said[-1].code == 0, said[-1]
    assert document["options"]["model_libraries"] == ["tensorflow_text"]
    assert document["versions"]["tensorflow-text"].startswith("2.21.")
    (replay,) = document["replays"]
    assert (replay["joined"], replay["versions"]["tensorflow-text"]) == (1, document["versions"]["tensorflow-text"])


def test_every_command_refuses_the_model_without_its_library_and_prints_how_to_install_it(
    made: Path, said: list[Any], keyjoin: Callable[..., Result], tmp_path: Path
) -> None:
    assert said[2].code == 0
    model, data = f"--model={made}/wrapped", f"--input={made}/text.jsonl"
    for command in (
        ("run", data, model),
        ("check", data, model),
        ("run", data, model, "--isolate"),
        ("inspect", model),
        ("predict", model, f"--instances={made}/request.json"),
        ("wrap", f"--model={made}/tokenizer", f"--output={tmp_path}/w"),
        # The manifest names the library, but is not trusted: a library is code.
        ("verify", f"--run={made}/scored", "--rescore=9", model),
        ("replay", f"--run={made}/scored"),
    ):
        done = keyjoin(*command)
        (line,) = done.err.splitlines()
        assert (done.code, line.endswith(TEXT_REMEDY)) == (2, True), (command, done.err)
        assert "is refused: CaseFoldUTF8 is not an op of the installed TensorFlow" in line
    trees = keyjoin("inspect", f"--model={made}/forest", "--model_ops=allow")
    assert trees.code == 2
    assert trees.err.endswith("it is an op of ydf-tf: give --model_libraries=ydf_tf\n")


def test_the_table_has_every_op_that_the_libraries_register(made: Path) -> None:
    registered = json.loads((made / "ops.json").read_text())
    assert all(len(ops) > 5 for ops in registered.values())
    for module, ops in registered.items():
        assert {find_package(op) for op in ops} == {p for p in PACKAGES if p.module == module}
        (package,) = {find_package(op) for op in ops}
        for pattern in package.ops.split():
            assert fnmatch.filter(ops, pattern), pattern
        assert {op for op in ops if op in OPS} == {op for op in ops if "Path" in op}


def test_no_op_of_tensorflow_is_taken_for_one_of_a_library() -> None:
    own = libraries._ops()
    assert len(own) > 1900
    assert [op for op in own if find_package(op)] == []


def test_ops_of_a_library_that_keyjoin_does_not_know_are_reported_and_denied_on_request(
    made: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own" / "kernels.py"
    own.parent.mkdir()
    own.write_text(
        "import tensorflow_text\nfrom transforms.model_safety import op_packages\nop_packages.PACKAGES = ()\nprint('imported')\n"
    )
    model = f"--model={made}/tokenizer"
    warned, denied = commands.run(
        ["inspect", "--json", model, "--model_libraries=kernels"],
        ["inspect", model, "--model_libraries=kernels", "--model_ops=deny"],
        PYTHONPATH=str(own.parent),
    )
    assert warned.code == 0, warned
    ops = json.loads(warned.out)["ops"]  # text that a library prints must not get into the JSON
    assert ops["verdict"] == "warned"
    assert {finding["kind"] for finding in ops["findings"]} == {"library"}
    assert "WordpieceTokenizeWithOffsets" in {finding["op"] for finding in ops["findings"]}
    assert "does what the code of a model library does, which keyjoin does not check" in warned.err
    assert denied.code == 2
    assert "is refused: " in denied.err


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resets keyjoin's record of imported libraries."""
    monkeypatch.setattr(libraries, "_imported", {})
    monkeypatch.setattr(libraries, "_registered", set())


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Writes an importable module."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


BROKEN = {
    "raises": ("raise RuntimeError('one\\n  two')", "RuntimeError: one two"),
    "lacks a module": ("import keyjoin_has_no_such_module", "ModuleNotFoundError: No module named 'keyjoin_has_no"),
    "ends the process": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "is no Python": ("def", "SyntaxError: invalid syntax"),
    "has a kernel for another TensorFlow": (
        "import tensorflow as tf; tf.load_op_library('/nowhere.so')",
        "NotFoundError: /nowhere.so",
    ),
}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("case", BROKEN)
def test_a_library_that_cannot_be_imported_is_refused_in_one_line(case: str, own: Callable[[str, str], str]) -> None:
    text, expected = BROKEN[case]
    name = own("keyjoin_broken", text)
    with pytest.raises(UsageError, match="cannot be imported: ") as caught:
        import_libraries([name])
    assert str(caught.value).startswith(f"--model_libraries: keyjoin_broken cannot be imported: {expected}")
    assert str(caught.value).endswith(f"install a release of it that fits TensorFlow {tf.__version__}")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("fresh")
def test_a_library_is_imported_once_and_what_it_prints_goes_to_standard_error(
    own: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = own("keyjoin_prints", "print('imported')")
    import_libraries([name, name])
    import_libraries([name])
    assert tuple(capsys.readouterr()) == ("", "imported\n")


MISSING = {
    "tensorflow_text": "; pip install 'tensorflow-text==2.21.*'; ",
    "ydf_tf": "; pip install 'ydf-tf==2.21.*'; ",
    "tensorflow_txt": " (did you mean tensorflow_text?); install the package that has it",
    "keyjoin_none": "; install the package that has it",
    "keyjoin_none.ops": "; install the package that has it",
    "json.no_ops": "; install the package that has it",
}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", MISSING)
def test_a_missing_library_is_refused_with_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = libraries._is_installed
    monkeypatch.setattr(libraries, "_is_installed", lambda n: n.startswith("json") and find(n))
    with pytest.raises(UsageError) as caught:
        import_libraries([name])
    assert str(caught.value).startswith(f"--model_libraries: there is no module {name}{MISSING[name]}")
    assert str(caught.value).endswith("; workers need it, too, see docs/image.md")


TEXT_OP, FOREST_OP, ADDON = "TFText>NgramsStringJoin", "SimpleMLCreateModelResource", "Addons>DeformableConv2D"
REMEDIES = [
    ([TEXT_OP], (), True, "it is an op of tensorflow-text: give --model_libraries=tensorflow_text"),
    (
        [TEXT_OP],
        (),
        False,
        "it is an op of tensorflow-text: pip install 'tensorflow-text==2.21.*', and give "
        "--model_libraries=tensorflow_text",
    ),
    (
        [FOREST_OP, TEXT_OP, TEXT_OP, ADDON],
        ("own",),
        False,
        "it is an op of ydf-tf: pip install 'tensorflow-text==2.21.*' 'ydf-tf==2.21.*', and give "
        "--model_libraries=own,tensorflow_text,ydf_tf",
    ),
    (
        [TEXT_OP],
        ("tensorflow_text",),
        True,
        "the installed tensorflow-text has no such op: install another release, or export the model without it",
    ),
    (
        [ADDON, TEXT_OP],
        (),
        True,
        "it is an op of tensorflow-addons, which does not fit TensorFlow 2.21.0: export the model without it",
    ),
    (
        ["OwnOp"],
        (),
        True,
        "name the Python module that registers that op with --model_libraries=MODULE, or export the model without it",
    ),
]


@pytest.mark.parametrize(("ops", "imported", "installed", "expected"), REMEDIES)
def test_the_remedy_for_an_unknown_op_can_be_pasted(
    ops: list[str], imported: tuple[str, ...], installed: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_imported", dict.fromkeys(imported))
    monkeypatch.setattr(libraries, "_is_installed", lambda _: installed)
    assert remedy_for(ops) == expected


def test_an_unknown_op_that_nothing_runs_has_the_same_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow refuses a graph that contains an unknown op, even if nothing runs the op."""
    from tensorflow.core.protobuf import saved_model_pb2

    monkeypatch.setattr(libraries, "_imported", {})
    folder = Path(models.plain(tmp_path / "model"))
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    saved.meta_graphs[0].graph_def.node.add(name="other", op="SimpleMLCreateModelResource")
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(UsageError, match=r"cannot be loaded: Op type not registered .* give --model_libraries=ydf_tf"):
        loader.load(str(folder))


@given(st.text() | st.lists(st.sampled_from([".", "a", "class", "_b1", "é", " ", "\n", "-", "1"])).map("".join))
def test_a_name_is_a_module_or_refused(text: str) -> None:
    try:
        found = OptionsParser(CodeOptions, "", "").read([f"--model_libraries={text}"]).model_libraries
    except UsageError:
        return
    assert found
    for name in found:
        (imported,) = ast.parse(f"import {name}").body
        assert isinstance(imported, ast.Import)
        assert len(imported.names) == 1


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_a_worker_without_the_library_ends_the_job_with_the_remedy(lines: Any, model: Any, tmp_path: Path) -> None:
    # The run imports the module first, when it scores the first rows; the worker imports it second, and fails.
    (tmp_path / "kernels.py").write_text(
        "import os, pathlib\n"
        "mark = pathlib.Path(__file__).with_name('imported')\n"
        "if mark.exists():\n    raise ModuleNotFoundError(name='kernels')\n"
        "mark.touch()\n"
    )
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    flags = (f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.plain)}", f"--output={tmp_path / 'out'}")
    (done,) = commands.run(["run", *flags, *prism, "--model_libraries=kernels"], PYTHONPATH=str(tmp_path))
    assert done.code == 1, done
    (line,) = [line for line in done.err.splitlines() if line.startswith("keyjoin: error")]
    assert "a worker cannot load the model: --model_libraries: there is no module kernels; install the package" in line
    assert "workers need it, too, see docs/image.md" in line
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_a_transform_takes_libraries(model: Any, own: Callable[[str, str], str], fresh: None) -> None:  # noqa: ARG001
    from keyjoin import KeyedPredict

    folder = model(models.plain)
    with pytest.raises(UsageError, match="there is no module keyjoin_none"):
        KeyedPredict(folder, model_libraries=["keyjoin_none"])
    step = KeyedPredict(folder, model_libraries=[own("keyjoin_own", "")])
    assert step.handler.load.args[-1] == Loading(libraries=("keyjoin_own",))  # a worker loads the model with this
    assert "keyjoin_own" in libraries._imported


def test_versions_of_libraries_are_recorded_and_compared() -> None:
    found = manifest._module_versions(("tensorflow_text.python.ops", "json", "hypothesis"))
    assert found == {name: importlib.metadata.version(name) for name in ("hypothesis", "tensorflow-text")}
    assert manifest._module_versions(()) == {}
    assert not {*found} & resume.NOT_COMPARED


def test_a_run_is_not_resumed_with_another_library_or_release(made: Path, said: list[Any]) -> None:
    assert said[2].code == 0
    earlier = resume.find_earlier(str(made / "scored"))
    assert earlier is not None
    before = earlier.record.settings()
    options = dataclasses.replace(before.options, model_libraries=())
    versions = {name: version for name, version in before.versions.items() if name != "tensorflow-text"}
    version = before.versions["tensorflow-text"]
    changed = msgspec.structs.replace(before, options=options, versions=versions)
    assert list(resume.differences(before, changed)) == [
        "--model_libraries was tensorflow_text, is now not given",
        f"tensorflow-text was {version}, is now not recorded",
    ]
    newer = msgspec.structs.replace(before, versions={**before.versions, "tensorflow-text": "9"})
    assert list(resume.differences(before, newer)) == [f"tensorflow-text was {version}, is now 9"]
