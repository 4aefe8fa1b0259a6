"""Implements `keyjoin wrap`, which adds a key to a trained model: a `.keras` file or a SavedModel."""

import contextlib
import dataclasses
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.compat.startup import import_session, import_tensorflow
from pipeline.model import add_key, check_model
from pipeline.model.add_key import Style
from pipeline.model.keras_export import KERAS, check_custom_objects, export_keras
from pipeline.model.model_folder import newest_version
from pipeline.options.command_options import WrapOptions
from pipeline.run_folder.writable import check_writable
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show
from transforms.errors import RunError, UsageError
from transforms.model_safety.graph_walk import Walk
from transforms.model_safety.model_ops import find, judge, signature_part
from transforms.saved_model.composites import keep
from transforms.saved_model.connect import connect, ensure_values
from transforms.saved_model.loader import check_folder
from transforms.saved_model.model import KEY
from transforms.storage.paths import absolute
from transforms.storage.remedies import described

WARM_UP = os.path.join("assets.extra", "tf_serving_warmup_requests")
# These files describe only the original model: its checksum, and the metadata from which Keras 2 restores its objects.
STALE = ("fingerprint.pb", "keras_metadata.pb")


def main(options: WrapOptions) -> Exit:
    """Runs the command.

    Args:
        options: The options of the command.

    Returns:
        `Exit.COMPLETE`.

    Raises:
        UsageError: The model or the output folder is wrong.
        RunError: The output cannot be written.
    """
    show(wrap(**vars(dataclasses.replace(options, model=newest_version(options.model)))))
    return Exit.COMPLETE


def wrap(
    model: str,
    output: str,
    style: Style,
    signature: str = "serving_default",
    model_ops: str | None = None,
    model_sha256: str | None = None,
    model_libraries: Sequence[str] = (),
    custom_objects: Sequence[str] = (),
) -> str:
    """Adds a key to a signature of a model.

    The copy gives the same predictions as the original, bit for bit. It has only the signatures, without the objects
    of the original. So Keras cannot load the copy as a Keras model. `tf.saved_model.load` loads it, but
    `tf.saved_model.save` cannot save it again. Keep the original for these uses.

    Args:
        model: `.keras` file or SavedModel folder.
        output: Folder for the SavedModel with the key, new or empty.
        style: `function` adds an output `key`, and renames a single other output to `prediction`. `functional` makes
            one output `prediction_with_key`, whose last column is the key in float32.
        signature: The signature that gets the key.
        model_ops: How to treat a model that does more than compute, see `transforms.model_safety.model_ops.judge`.
        model_sha256: The sha256 that the model must have; None to accept any.
        model_libraries: Python modules that register the model's own ops.
        custom_objects: Python modules that define the own layers of a `.keras` file.

    Returns:
        A summary for the user, in one or two lines.

    Raises:
        UsageError: The model, the signature or the output folder is wrong; nothing was written.
        RunError: The output cannot be written.
    """
    _check_model(model)
    _check_output(model, output)
    check_writable(output)
    if model_sha256:
        check_model.identify(model, model_sha256)
    import_tensorflow()
    import_session(model_libraries)
    check_custom_objects(model, custom_objects)
    with _appearing(output) as folder:
        source = model
        if os.path.isfile(model):
            export_keras(model, source := folder, custom_objects)
        saved = add_key.read(source)
        graph = add_key.serving_graph(saved, model)
        add_key.find_signature(graph, model, signature)
        keep(graph)
        # `keep` and `_connect` read the object graph. So they are called before `add_key`, which removes it.
        _connect(graph, source, signature)
        definition = add_key.add_key(saved, model, signature, style)
        findings = find(graph, source, signature)
        judge(model, findings, model_ops)
        check_model.warn(model, findings, model_ops)
        if source != folder:
            _copy(source, folder)
        left_out = _remove_stale(folder)
        add_key.write(saved, folder)
    return _summary(output, signature, definition) + left_out


def _connect(graph: Any, folder: str, signature: str) -> None:
    """Connects the variables and tables that the signatures read to those that get a value on loading.

    keyjoin makes these connections when it loads a model. The copy stores them, so it also works in other programs.

    Raises:
        UsageError: The signature that gets the key reads a variable or table without a value.
    """
    walk = Walk(graph)
    connect(walk, folder)
    ensure_values(walk, folder, signature, [node for _, node in walk.reach(signature_part(graph, signature))])


def _check_model(model: str) -> None:
    if "://" in model:
        raise UsageError(f"{model} is not on this machine; copy the model to a local folder and give that")
    if not model.endswith(KERAS) or not os.path.isfile(model):
        check_folder(model)


def _check_output(model: str, output: str) -> None:
    if "://" in output:
        raise UsageError(f"{output} is not on this machine; give a local folder, and copy it there afterwards")
    if os.path.exists(output) and not (os.path.isdir(output) and not os.listdir(output)):
        raise UsageError(f"{output} exists and is not an empty folder; choose another folder")
    if os.path.isdir(model):
        inside = os.path.realpath(model)
        if os.path.commonpath([inside, os.path.realpath(output)]) == inside:
            raise UsageError(f"{output} lies in the model's own folder; choose a folder outside of {model}")


@contextlib.contextmanager
def _appearing(output: str) -> Iterator[str]:
    """Yields the path of a temporary folder, and renames the folder to the output at the end.

    So the output appears only once it is whole. The temporary folder is removed after an error.

    Raises:
        RunError: A file cannot be written.
    """
    parent, name = os.path.split(absolute(output))
    temporary = os.path.join(parent, f"_{name}.{uuid.uuid4().hex}.tmp")
    try:
        os.makedirs(parent, exist_ok=True)
        yield temporary
        os.rename(temporary, os.path.join(parent, name))
    except OSError as error:
        raise RunError(f"cannot write {output}: {described(error)}, and run again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(source: str, target: str) -> None:
    """Copies the content of a folder, but not its permissions: the copy of a read-only model must be writable."""
    for folder, _, names in os.walk(source, followlinks=True):
        below = os.path.normpath(os.path.join(target, os.path.relpath(folder, source)))
        os.makedirs(below)
        for name in names:
            shutil.copyfile(os.path.join(folder, name), os.path.join(below, name))


def _remove_stale(folder: str) -> str:
    """Removes the files that describe only the original model.

    Returns:
        A line for the user if their warm-up requests were removed, else an empty text.
    """
    found = [name for name in (*STALE, WARM_UP) if os.path.exists(os.path.join(folder, name))]
    for name in found:
        os.unlink(os.path.join(folder, name))
    return f"\n{WARM_UP} was left out: its requests have no key" if WARM_UP in found else ""


def _summary(output: str, signature: str, definition: Any) -> str:
    inputs, outputs = (
        ", ".join(sorted(names, key=lambda name: (name == KEY, name)))
        for names in (definition.inputs, definition.outputs)
    )
    return f"{output}: {signature} takes {inputs} and returns {outputs}"
