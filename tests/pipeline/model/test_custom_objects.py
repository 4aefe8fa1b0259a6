"""Custom layers of `.keras` files: keyjoin imports their module only if a flag names it."""

import importlib.util
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import pytest

from pipeline.model.keras_errors import explain
from pipeline.model.keras_export import export_keras
from tests.conftest import BOSTON, Result
from transforms.errors import UsageError
from transforms.saved_model import loader

MODULE = '''
import pathlib
import keras

pathlib.Path(__file__).with_name("imported").touch()

@keras.saving.register_keras_serializable()
class Times(keras.layers.Layer):
    """Registered."""
    def __init__(self, by, **rest):
        super().__init__(**rest)
        self.by = by
    def call(self, x):
        return x * self.by
    def get_config(self):
        return {**super().get_config(), "by": self.by}

class Plus(keras.layers.Layer):
    """Not registered."""
    def call(self, x):
        return x + 1.0

def halved(x):
    return x / 2.0
'''
FLAG = "--custom_objects=own_layers"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module in the current folder that no command has imported yet."""
    path = tmp_path / "own_layers.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("own_layers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_layers", module)  # Keras looks up the classes that it saves here
    spec.loader.exec_module(module)
    (tmp_path / "imported").unlink()
    monkeypatch.chdir(tmp_path)
    yield module
    keras.saving.get_custom_objects().pop("Custom>Times")


@pytest.fixture
def path(own: Any, tmp_path: Path) -> str:
    """A `.keras` file that computes (x + 1) * 2.5 / 2; x has shape (3,)."""
    x = keras.Input((3,), name="x")
    scaled = own.Times(2.5, name="mine")(own.Plus(name="one")(x))
    keras.Model(x, keras.layers.Activation(own.halved)(scaled)).save(tmp_path / "model.keras")
    return str(tmp_path / "model.keras")


def test_every_command_takes_the_module_from_the_current_folder(
    keyjoin: Callable[..., Result], path: str, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"x": [1, 2, 3]}\n{"x": "none"}\n')
    (tmp_path / "request.json").write_text('{"instances": [{"x": [1, 2, 3]}]}')
    model, expected = f"--model={path}", [2.5, 3.75, 5.0]
    assert keyjoin("inspect", model, FLAG).code == 0
    assert json.loads(keyjoin("predict", model, FLAG, "--instances=request.json").out)["predictions"] == [
        {"output_0": expected}
    ]
    assert keyjoin("wrap", model, FLAG, f"--output={tmp_path}/wrapped").code == 0
    ran = keyjoin("run", model, FLAG, f"--input={tmp_path}/in.jsonl", "--max_bad_rows=1")
    assert [row["output_0"] for row in ran.rows()] == [expected]
    assert ran.manifest()["options"]["custom_objects"] == ["own_layers"]
    again = keyjoin("verify", f"--run={ran.output}", "--rescore=1", model, FLAG)
    assert (again.code, "1 equal" in again.out) == (0, True), again.out + again.err
    letter = ran.dead()[0] | {"row": '{"x": [0, 0, 0]}'}
    (tmp_path / "repaired.jsonl").write_text(json.dumps(letter) + "\n")
    replayed = keyjoin("replay", f"--run={ran.output}", f"--rows={tmp_path}/repaired.jsonl", FLAG)
    assert replayed.code == 0
    assert [row["output_0"] for row in Result(0, "", "", ran.output).rows()] == [expected, [1.25] * 3]


def test_no_module_is_imported_that_is_not_named(keyjoin: Callable[..., Result], path: str, tmp_path: Path) -> None:
    result = keyjoin("inspect", f"--model={path}")
    assert result.code == 2
    assert "Keras does not know the class 'Plus' of the layer 'one' (Plus)" in result.err
    assert f"name the module that defines it: {FLAG}, and run keyjoin in the folder that holds the module" in result.err
    assert not (tmp_path / "imported").exists()


def test_a_replay_does_not_import_what_the_output_names(
    keyjoin: Callable[..., Result], path: str, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"x": [1, 2, 3]}\n{"x": "none"}\n')
    ran = keyjoin("run", f"--model={path}", FLAG, f"--input={tmp_path}/in.jsonl", "--max_bad_rows=1")
    (tmp_path / "imported").unlink()
    assert keyjoin("replay", f"--run={ran.output}").code == 2
    assert keyjoin("verify", f"--run={ran.output}", "--rescore=1", f"--model={path}").code == 2
    assert not (tmp_path / "imported").exists()


def test_a_module_that_cannot_be_imported_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--custom_objects: own_layer cannot be imported: ModuleNotFoundError"):
        export_keras(path, str(tmp_path / "out"), ["own_layer"])
    (tmp_path / "broken.py").write_text("raise SystemExit('no')")
    with pytest.raises(UsageError, match="--custom_objects: broken cannot be imported: SystemExit: no; run keyjoin"):
        export_keras(path, str(tmp_path / "out"), ["broken"])


@pytest.mark.parametrize("command", ["inspect", "wrap"])
def test_modules_for_a_saved_model_are_refused(keyjoin: Callable[..., Result], tmp_path: Path, command: str) -> None:
    flags = [f"--output={tmp_path}/out"] if command == "wrap" else []
    result = keyjoin(command, f"--model={BOSTON}/model", FLAG, *flags)
    assert result.code == 2
    assert f"{FLAG} is for the layers of a .keras file" in result.err


def test_a_file_is_loaded_with_tensorflow_whatever_the_environment_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keras.json").write_text('{"backend": "torch", "floatx": "float16", "epsilon": 1e-7}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    export_keras(str(BOSTON / "model.keras"), str(tmp_path / "out"))
    assert {tensor.dtype for tensor in loader.load(str(tmp_path / "out")).outputs.values()} == {"float32"}


def configured(folder: Path, *layers: dict[str, Any]) -> str:
    """A `.keras` file with a configuration only; reading must stop there."""
    with zipfile.ZipFile(folder / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": layers}}))
    return str(folder / "m.keras")


def layer(kind: str, module: str = "keras.layers") -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": {"name": "mine"}}


UNKNOWN = "Could not locate class 'Own'. Make sure custom classes"


@pytest.mark.parametrize(
    ("found", "error", "modules", "said"),
    [
        (layer("TorchModuleWrapper"), "No module named 'torch'", [], "the layer 'mine' (TorchModuleWrapper) runs in torch"),
        (layer("JaxLayer"), "Could not locate function 'f'", [], "the layer 'mine' (JaxLayer) needs JAX, which is not"),
        (layer("Own", "a.b"), UNKNOWN, ["c"], "defines it: --custom_objects=c,a.b, and run"),
        (layer("Own", "a.b"), UNKNOWN, ["a.b"], "the module a.b does not define it"),
        (layer("Own", "__main__"), UNKNOWN, [], "--custom_objects=MODULE"),
        (layer("Own", "a; rm -r /"), UNKNOWN, [], "--custom_objects=MODULE"),
        (layer("Dense"), "Could not locate function 'Custom>f'. Make", [], "does not know the function 'f'; where"),
        (
            layer("Own", "keras_hub.src.own"),
            "Could not deserialize class 'Own' because its parent module keras_hub.src.own cannot be imported. Full",
            [],
            "it has layers of keras-hub, which cannot be imported: pip install keras-hub",
        ),
        (layer("Dense"), "Exception encountered: no room.", [], "cannot be exported: no room; check the file"),
    ],
)  # fmt: skip
def test_what_keras_lacks_is_named_with_the_remedy(
    found: dict[str, Any], error: str, modules: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # JAX may be installed
    assert said in explain("m.keras", configured(tmp_path, found), ValueError(error), modules)


def test_a_file_without_a_configuration_is_explained_too(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"no archive")
    said = explain("m.keras", str(tmp_path / "m.keras"), OSError("no such thing"), [])
    assert said.startswith("m.keras cannot be exported: no such thing; check the file")
