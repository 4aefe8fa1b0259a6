"""Explains why a path is no SavedModel, and says which path to give or which command to run instead."""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence

from transforms.saved_model import model_files
from transforms.saved_model.model_files import SAVED_MODEL
from transforms.storage.remedies import remedy

ANY = "give the folder that holds saved_model.pb, or a .keras file"
# Names of the files and folders that TensorFlow and Keras write into the folder of a SavedModel.
PARTS = (*SAVED_MODEL, "variables", "assets", "assets.extra", "debug", "fingerprint.pb", "keras_metadata.pb")
KERAS_FILES = {"config.json", "metadata.json"}  # files of a .keras archive; it also has the weights


def is_saved_model(names: Iterable[str]) -> bool:
    """Returns whether a folder with files of these names is a SavedModel."""
    return not set(SAVED_MODEL).isdisjoint(names)


def newest(names: Iterable[str]) -> str | None:
    """Returns the name of a model's newest version: the folder with the largest number, as in TensorFlow Serving.

    Source: https://www.tensorflow.org/tfx/serving/serving_config, "Serving a Specific Version of a Model".

    Args:
        names: The names of the subfolders that hold a SavedModel.

    Returns:
        The name; None if no name is a number.

    >>> newest(["9", "0010", "a"]), newest(["a"])
    ('0010', None)
    """
    versions = [name for name in names if name.isascii() and name.isdigit()]
    return max(versions, key=lambda name: (int(name), name), default=None)


def refusal(path: str) -> str:
    """Makes the message that refuses a path on this machine which is no SavedModel.

    If a command can make a SavedModel of the path, the message has this command.

    Args:
        path: The path that was given as a model.
    """
    try:
        return _refusal(path)
    except OSError as error:
        return f"{path} cannot be read: {error}; {remedy(error)}"


def _refusal(path: str) -> str:
    whole = _whole(path)
    if whole is not None:
        return f"{path} is a part of a SavedModel; give all of it: --model {shlex.quote(whole)}"
    if os.path.isdir(path):
        return f"{path} is not a SavedModel: {_of_folder(path, sorted(os.listdir(path)))}"
    if os.path.isfile(path):
        return f"{path} is not a SavedModel: {model_files.describe(path) or ANY}"
    if os.path.exists(path):
        return f"{path} is neither a file nor a folder; {ANY}"
    prefix = model_files.checkpoint_prefix(path)
    if prefix is not None:
        return f"{path} is not a SavedModel: {model_files.describe_checkpoint(prefix)}"
    return f"no model at {path}; {ANY}"


def _whole(path: str) -> str | None:
    """Returns the folder of the SavedModel that the path is a part of; None if there is none.

    It recognizes the parts by their names, such as `variables`.
    """
    *above, name = path.rstrip("/").split("/")
    while above or name:
        folder = "/".join(above) or (os.curdir if not path.startswith("/") else "/")
        if name in PARTS and os.path.isdir(folder) and is_saved_model(os.listdir(folder)):
            return folder
        if not above:
            return None
        *above, name = above
    return None


def _of_folder(path: str, names: Sequence[str]) -> str:
    """Describes what a folder is that is no SavedModel, and what to give instead."""
    if KERAS_FILES.issubset(names):
        return _unpacked(path, names)
    if any(name == "checkpoint" or name.endswith(".index") for name in names):
        prefix = model_files.newest_checkpoint(path) or os.path.join(path, "PREFIX")
        return model_files.describe_checkpoint(prefix)
    inside = next(_saved_models(path, names), None)
    if inside is not None:
        return f"it has no saved_model.pb; give one of the folders in it, such as {inside}"
    single = next((name for name in names if name.endswith(".keras")), None)
    if single is not None:
        return f"it has no saved_model.pb; give {os.path.join(path, single)}"
    files = (file for name in names if os.path.isfile(file := os.path.join(path, name)))
    kinds = ((file, kind) for file in files if (kind := model_files.describe(file)) is not None)
    file, kind = next(kinds, ("", ""))
    return f"it has no saved_model.pb, but {file}: {kind}" if file else f"it has no saved_model.pb; {ANY}"


def _saved_models(path: str, names: Sequence[str]) -> Iterator[str]:
    """Yields the SavedModels one or two levels below a folder. MLflow keeps them two levels below."""
    folders = [folder for name in reversed(names) if os.path.isdir(folder := os.path.join(path, name))]
    for folder in folders:
        below = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        yield from (at for at in (folder, *below) if os.path.isfile(os.path.join(at, SAVED_MODEL[0])))


def _unpacked(path: str, names: Sequence[str]) -> str:
    """Describes how to pack the folder of an unpacked .keras file again. A .keras file is a zip archive.

    Source: https://github.com/keras-team/keras/blob/v3.12.0/keras/src/saving/saving_lib.py
    """
    packed = model_files.beside(path.rstrip("/").removesuffix(".keras"), "-packed.keras")
    files = shlex.join([sys.executable, "-m", "zipfile", "-c", packed, *(os.path.join(path, name) for name in names)])
    return f"it is a .keras file that was unpacked; pack it again: {files} and give --model {shlex.quote(packed)}"
