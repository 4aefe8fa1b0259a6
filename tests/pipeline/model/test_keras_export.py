"""A `.keras` file is loaded in a process of its own, with limits of time, memory and file size."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

from pipeline.model import keras_export
from pipeline.model.keras_export import Limits, export_keras
from tests.conftest import BOSTON, ROOT
from tests.support import models
from transforms.errors import UsageError

MODEL = str(BOSTON / "model.keras")
ENOUGH = Limits.of(1)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ENOUGH._replace(seconds=0), "loading it takes more than 0 s; where you trust the file, export it yourself"),
        (ENOUGH._replace(cpu_seconds=1), "loading it takes more than 1 s of processor time; where you trust"),
        (
            ENOUGH._replace(memory=100 << 20),
            "the process that loads it ended with .*; it may have needed more memory than 100 MiB",
        ),
        (ENOUGH._replace(file=1000), ".*File too large.*; check the file"),
    ],
    ids=["time", "processor time", "memory", "file"],
)
def test_a_file_that_takes_too_much_is_refused_in_one_line(limits: Limits, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"model.keras cannot be exported: {message}") as caught:
        export_keras(MODEL, str(tmp_path / "model"), limits=limits)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "model" / "saved_model.pb").exists()


def test_an_older_keras_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(keras_export, "OLDEST", (99, 0, 0))
    with pytest.raises(UsageError, match=r"less safely than 99\.0\.0; install keras>=99\.0\.0"):
        keras_export._export(MODEL, MODEL, str(tmp_path / "model"))


def test_the_locked_keras_is_new_enough() -> None:
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("keras==")]
    assert [pin.split(";")[0].strip() for pin in pins] == ["keras==3.12.4", "keras==3.15.1"]


def doubled(x: Any) -> Any:
    return x * 2


def of(layer: keras.layers.Layer, dtype: str = "float32") -> keras.Model:
    x = keras.Input((2,), dtype=dtype)
    return keras.Model(x, layer(x))


def with_tfsm(folder: Path) -> keras.Model:
    saved = models.save(folder / "saved", lambda x: {"y": x * 2}, models.spec("x", 2))
    return of(keras.layers.TFSMLayer(saved, call_endpoint="serving_default", name="outer"))


def with_inner(_: Path) -> keras.Model:
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2, name="deep")], name="between")
    return of(inner)


UNSAFE: dict[str, tuple[Callable[[Path], keras.Model], str]] = {
    "lambda": (
        lambda _: of(keras.layers.Lambda(lambda x: x * 2, name="twice")),
        r"for the layer 'twice' \(Lambda\), because of the deserialization of a Lambda layer whose function is a Python",
    ),
    "lambda in a model": (with_inner, r"for the layer 'deep' \(Lambda\), because of"),
    "model": (
        with_tfsm,
        r"for the layer 'outer' \(TFSMLayer\), .* TFSMLayer, which loads an external SavedModel; where",
    ),
    "vocabulary": (
        lambda _: of(keras.layers.StringLookup(vocabulary=["a"], name="words"), "string"),
        r"for the layer 'words' \(StringLookup\), because of the loading of a vocabulary file .*, '/etc/hostname'; where",
    ),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_safe_mode_refuses_is_named_with_its_layer(name: str, tmp_path: Path) -> None:
    build, message = UNSAFE[name]
    build(tmp_path).save(tmp_path / "first.keras")
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(tmp_path / "first.keras") as first, zipfile.ZipFile(path, "w") as second:
        for member in first.namelist():
            text = first.read(member)
            if member == "config.json":  # Keras itself saves the words, not the path of their file
                text = text.replace(json.dumps(["a"]).encode(), b'"/etc/hostname"')
            second.writestr(member, text)
    with pytest.raises(UsageError, match=f"model.keras is refused by Keras's safe mode {message}") as caught:
        export_keras(str(path), str(tmp_path / "model"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_function_that_keras_does_not_know_is_no_matter_of_safe_mode(tmp_path: Path) -> None:
    of(keras.layers.Lambda(doubled, name="twice")).save(tmp_path / "model.keras")
    with pytest.raises(UsageError, match=r"cannot be exported: .*doubled"):
        export_keras(str(tmp_path / "model.keras"), str(tmp_path / "model"))
