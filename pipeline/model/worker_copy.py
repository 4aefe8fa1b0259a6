"""The model on workers: copied once a machine from where all of them can read it, and checked before it is loaded."""

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
    """A SavedModel, here and for workers.

    Attributes:
        folder: Where it is on this machine.
        place: Where workers find it.
        staged: Whether it has to be brought there first.
        sha256: Of its files.
        bytes: How large they are.
    """

    folder: str
    place: str
    staged: bool
    sha256: str
    bytes: int

    def loader(self, load: Callable[[str], Model]) -> Callable[[], Model]:
        """What a worker loads it with, given what loads the SavedModel of a folder."""
        return functools.partial(_load, self.place, self.sha256, load)

    def stage(self) -> None:
        """Brings it to its place.

        Raises:
            RunError: It cannot be written there.
        """
        if self.staged:
            check_model.copy(self.folder, self.place)


def find(model: str, output: str, folder: str) -> WorkerModel:
    """Where workers will find a model: where it is, if they can read it there, else in the run's temporary folder.

    Args:
        model: The model's path, as given.
        output: The output folder.
        folder: The SavedModel on this machine: the model itself, its copy, or what a `.keras` file was exported to.
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
    except UsageError as error:  # it could be loaded where the run was started
        raise RunError(f"a worker cannot load the model: {error}") from error


def fetch(place: str, sha256: str) -> str:
    """A folder on this machine with a model; it is copied once, whoever asks, and stays.

    Args:
        place: Where it is.
        sha256: What it has to be.

    Raises:
        RunError: It is another one, or cannot be copied.
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
    """A folder for copies, of this user alone: who can write there can have models loaded."""
    folder = os.path.join(tempfile.gettempdir(), f"keyjoin-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise RunError(f"{folder} can be written to by others; remove it, and run again")
    return folder
