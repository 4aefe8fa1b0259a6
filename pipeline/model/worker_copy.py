"""Provides the model on workers.

Each machine copies the model once, from storage that all workers can read. A worker checks its sha256 before each load.
"""

import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import fasteners

from pipeline.model import check_model
from pipeline.model.keras_export import KERAS
from pipeline.run_folder.names import MODEL, TEMP
from transforms.errors import RunError, UsageError
from transforms.saved_model.model import Model
from transforms.storage import files

SHARED_BYTES = 1 << 30  # from here on, the processes of a worker share one model in memory


class WorkerModel(NamedTuple):
    """A SavedModel on this machine and for workers.

    Attributes:
        folder: The folder of the model on this machine.
        place: The path from which workers read the model.
        staged: Whether the model has to be copied to `place` first.
        sha256: The sha256 of the model's files.
        bytes: The size of the model's files in bytes.
    """

    folder: str
    place: str
    staged: bool
    sha256: str
    bytes: int

    def loader(self, load: Callable[[str], Model]) -> Callable[[], Model]:
        """Makes the function that loads the model on a worker; `load` loads the SavedModel of a folder."""
        return functools.partial(_load, self.place, self.sha256, load)

    def stage(self) -> None:
        """Copies the model to `place` if it is staged.

        Raises:
            RunError: The model cannot be copied.
        """
        if self.staged:
            check_model.copy(self.folder, self.place)


def find(model: str, output: str, folder: str) -> WorkerModel:
    """Decides from where workers read a model.

    They read it from its own path if they can, else from a copy in the temporary folder of the run.

    Args:
        model: The path of the model, as given.
        output: The output folder.
        folder: The SavedModel on this machine: the model itself, its copy, or the export of a `.keras` file.
    """
    sha256 = check_model.fingerprint(folder)
    size = sum(os.path.getsize(path) for _, path in check_model.files_of(folder))
    if not files.is_local(model) and not model.endswith(KERAS):
        return WorkerModel(folder, model, False, sha256, size)
    if files.is_local(output):
        return WorkerModel(folder, files.absolute(folder), False, sha256, size)
    return WorkerModel(folder, files.join(output, TEMP, MODEL, sha256), True, sha256, size)


def _load(place: str, sha256: str, load: Callable[[str], Model]) -> Model:
    folder = fetch(place, sha256)
    try:
        return load(folder)
    except UsageError as error:  # the machine that started the run could load the model
        raise RunError(f"a worker cannot load the model: {error}") from error


def fetch(place: str, sha256: str) -> str:
    """Returns a folder on this machine with a model.

    The model is copied once for all processes of the machine, and the copy stays.

    Args:
        place: The path from which workers read the model.
        sha256: The sha256 that the model has to have.

    Raises:
        RunError: The model has another sha256, or cannot be copied.
    """
    if files.is_local(place):
        _check(place, place, sha256)
        return place
    kept = os.path.join(_own_folder(), sha256)
    with fasteners.InterProcessLock(f"{kept}.lock"):
        if not os.path.isdir(kept):
            unfinished = f"{kept}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            check_model.copy(place, unfinished)
            _check(unfinished, place, sha256)
            os.rename(unfinished, kept)
    _check(kept, place, sha256)
    return kept


def _check(folder: str, place: str, sha256: str) -> None:
    found = check_model.fingerprint(folder)
    if found != sha256:
        raise RunError(
            f"the model {place} has the sha256 {found}, not {sha256} as when the run was begun: it was replaced; "
            "put it back, or run again with --overwrite"
        )


def _own_folder() -> str:
    """Returns the folder for copies, which only this user can write to.

    Any program that can write to the folder can make keyjoin load its models.
    """
    folder = os.path.join(tempfile.gettempdir(), f"keyjoin-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise RunError(f"{folder} can be written to by others; remove it, and run again")
    return folder
