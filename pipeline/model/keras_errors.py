"""Explains why Keras cannot load a `.keras` file: what it refuses or does not know, in which layer, and the remedy."""

import importlib.util
import json
import re
import textwrap
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

FLAG = "--custom_objects"
CONFIGURATION = "config.json"  # in a `.keras` file
MAIN = "__main__"
# REQUESTED and FILE match safe mode's message about what it refuses. MARKS: a word of this message -> a text in the
# configuration of the refused layer.
REQUESTED = re.compile("Requested the (?P<what>.*?) ?[.] This carries a potential risk")
FILE = re.compile("Vocabulary file: '(.*?)'")
MARKS = {
    "lambda": '"__lambda__"',
    "TFSMLayer": '"TFSMLayer"',
    "vocabulary": '"vocabulary": "',
}
UNKNOWN = re.compile("Could not locate (?P<kind>class|function) '(?P<name>[^']*)'")
NO_PACKAGE = re.compile("because its parent module (?P<package>[^. ]+)[^ ]* cannot be imported")
TORCH, JAX = "TorchModuleWrapper", ("JaxLayer", "FlaxLayer")
GRAPH_NODE = re.compile(r"\{\{.*?\}\}")  # the node of the graph in which TensorFlow raised an error
EXPORT = "export it yourself with model.export(FOLDER) and give that folder"


def explain(shown: str, path: str, error: Exception, modules: Sequence[str]) -> str:
    """Makes the message that says why a file cannot be exported, and what to do.

    Args:
        shown: The path of the file, for the message.
        path: The path of the file, to open it.
        error: The error that Keras raised.
        modules: The imported modules with custom objects.
    """
    layers = list(_layers(_configuration(path)))
    return (
        _other_backend(shown, layers)
        or _unsafe(shown, layers, error)
        or _unknown(shown, layers, error, modules)
        or _other(shown, error)
    )


def _configuration(path: str) -> Any:
    """Reads the configuration of the layers; None if it cannot be read. Keras's own error then says why."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(CONFIGURATION))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile):
        return None


def _layers(value: Any) -> Iterator[dict[str, Any]]:
    """Yields the layers of a configuration. The layers inside a layer come before that layer."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _layers(inner)
    if isinstance(value, dict) and isinstance(value.get("config"), dict) and "class_name" in value:
        yield value


def _named(layer: dict[str, Any]) -> str:
    return f"the layer {layer['config'].get('name')!r} ({layer['class_name']})"


def _other_backend(shown: str, layers: Sequence[dict[str, Any]]) -> str | None:
    """Explains a layer that TensorFlow cannot run, or cannot run without a missing package; None if there is none."""
    for layer in layers:
        if layer["class_name"] == TORCH:
            return (
                f"{shown} cannot be exported: {_named(layer)} runs in torch only, and keyjoin loads .keras files with "
                "the TensorFlow backend; replace it by layers of Keras, and save the model again"
            )
        if layer["class_name"] in JAX and importlib.util.find_spec("jax") is None:
            return (
                f"{shown} cannot be exported: {_named(layer)} needs JAX, which is not installed: pip install jax; or "
                f"load the file where it was made, with KERAS_BACKEND=jax, and {EXPORT}"
            )
    return None


def _unsafe(shown: str, layers: Sequence[dict[str, Any]], error: Exception) -> str | None:
    """Explains what Keras's safe mode refuses, and in which layer; None if the error is another one."""
    refused = REQUESTED.search(" ".join(str(error).split()))
    if refused is None:
        return None
    what, file = refused["what"].replace("`", ""), FILE.search(str(error))
    if file:
        what += f", {file[1]!r}"
    mark = next((mark for word, mark in MARKS.items() if word in what), None)
    layer = mark and next((layer for layer in layers if "name" in layer["config"] and mark in json.dumps(layer)), None)
    return (
        f"{shown} is refused by Keras's safe mode{f' for {_named(layer)}' if layer else ''}, because of the {what}; "
        f"where you trust the file, {EXPORT}"
    )


def _unknown(shown: str, layers: Sequence[dict[str, Any]], error: Exception, modules: Sequence[str]) -> str | None:
    """Explains which class or function Keras does not know, and how to define it; None if the error is another one."""
    package = NO_PACKAGE.search(str(error))
    if package:
        name = package["package"].replace("_", "-")
        return f"{shown} cannot be exported: it has layers of {name}, which cannot be imported: pip install {name}"
    unknown = UNKNOWN.search(str(error))
    if unknown is None:
        return None
    name = unknown["name"].rpartition(">")[2]
    layer = next((layer for layer in layers if layer["class_name"] == name), None)
    of = f" of {_named(layer)}" if layer and "name" in layer["config"] else ""
    module = str(layer.get("module") or "") if layer else ""
    said = f"{shown} cannot be exported: Keras does not know the {unknown['kind']} {name!r}{of}"
    if module in modules:
        return f"{said}: the module {module} does not define it; give the file and the module of one release"
    if not all(part.isidentifier() for part in module.split(".")) or module in ("", MAIN, "builtins"):
        module = "MODULE"
    return (
        f"{said}; where you trust its code, name the module that defines it: {FLAG}={','.join([*modules, module])}, "
        "and run keyjoin in the folder that holds the module"
    )


def _other(shown: str, error: Exception) -> str:
    # The message of Keras has the whole configuration before the cause.
    cause = GRAPH_NODE.sub("", str(error).rpartition("Exception encountered:")[2])
    cause = " ".join(cause.split()) or type(error).__name__
    return (
        f"{shown} cannot be exported: {textwrap.shorten(cause, 200, placeholder='…').rstrip('.')}; check the "
        "file, or export the model with model.export(FOLDER) where its layers are defined and give the folder"
    )
