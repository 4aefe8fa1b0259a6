"""Provides the SavedModel of a given path as a folder on this machine."""

import contextlib
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence

from pipeline.model import check_model
from pipeline.model.keras_export import KERAS, check_custom_objects, export_keras
from pipeline.terminal.messages import show_error
from transforms.errors import UsageError
from transforms.saved_model import model_paths
from transforms.saved_model.loader import check_folder
from transforms.saved_model.model_files import SAVED_MODEL
from transforms.storage import files, lookup


def newest_version(model: str) -> str:
    """Returns the path of the model, or of its newest version if the folder holds a folder for each version.

    If it picks a version, it reports this.

    Args:
        model: The path that was given as the model.

    Raises:
        UsageError: The file system of the path cannot be reached.
    """
    lookup.check_reachable(model)
    if files.is_local(model):
        names = os.listdir(model) if os.path.isdir(model) else []
        below = [name for name in names if os.path.isfile(os.path.join(model, name, SAVED_MODEL[0]))]
    elif model.endswith(KERAS):
        return model
    else:
        stored = list(files.list_below(model))
        names = [name for name in stored if "/" not in name]
        below = [name.split("/")[0] for name in stored if name.split("/")[1:] == [SAVED_MODEL[0]]]
    version = None if model_paths.is_saved_model(names) else model_paths.newest(below)
    if version is None:
        return model
    chosen = files.join(model, version)
    show_error(f"keyjoin: {model} holds versions of a model; the newest is used, {chosen}")
    return chosen


@contextlib.contextmanager
def model_folder(model: str, custom_objects: Sequence[str] = ()) -> Iterator[str]:
    """Provides the SavedModel of a path: the folder itself, or a temporary export of a `.keras` file.

    A model in an object store is copied to this machine first, because TensorFlow can read only few object stores.

    Args:
        model: A SavedModel folder or a `.keras` file.
        custom_objects: Modules that define the layers of a `.keras` file that are not part of Keras.

    Raises:
        UsageError: The model does not exist, or it cannot be exported.
    """
    if not files.is_local(model):
        with tempfile.TemporaryDirectory(prefix="keyjoin-model-") as folder:
            here = os.path.join(folder, os.path.basename(model.rstrip("/")))
            check_model.copy(model, here)
            with _named_as_given(model, here), model_folder(here, custom_objects) as found:
                yield found
        return
    if not model.endswith(KERAS):
        check_custom_objects(model, custom_objects)
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="keyjoin-model-", ignore_cleanup_errors=True) as folder:
        exported = os.path.join(folder, "model")
        export_keras(model, exported, custom_objects)
        yield exported


@contextlib.contextmanager
def _named_as_given(model: str, here: str) -> Iterator[None]:
    """Puts the given path of a model into error messages, in place of the path of its copy.

    The copy is already deleted when the user reads the message.

    Args:
        model: The path of the model in an object store.
        here: The path of its copy.
    """
    if not model.endswith(KERAS):
        try:
            check_folder(here)
        except UsageError as error:  # the commands of its remedy need a copy that is not deleted
            reason = str(error).replace(os.path.join(os.path.dirname(here), ""), "")
            copied = f": gcloud storage cp -r {shlex.quote(model)} ." if model.startswith("gs://") else ""
            raise UsageError(f"{model} is no model; copy it to this folder first{copied}; then: {reason}") from error
    try:
        yield
    except UsageError as error:
        error.args = (str(error).replace(here, model.rstrip("/")),)
        raise
